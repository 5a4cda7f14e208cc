//! The reference backend: plain loops on one thread, nothing clever.
//!
//! Every sum runs in f64 and is rounded to `R` where it is stored. With `R` = f64 it is
//! the oracle that other backends are tested against.

mod lm;
mod rows;
mod sae;
mod select;

use super::{Device, Real, sae::HostCodes};
use crate::domain::{Code, Error, Result};
use std::marker::PhantomData;

/// The reference backend, which stores numbers as `R`.
pub struct Reference<R> {
    largest: usize,
    real: PhantomData<fn() -> R>,
}

/// Sparse codes of the reference backend.
pub struct Codes<R> {
    host: HostCodes<R>,
    d_sae: usize,
}

impl<R: Real> Default for Reference<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: Real> Reference<R> {
    /// The backend.
    pub fn new() -> Self {
        Self::with_largest_buffer(usize::MAX)
    }

    /// A backend that simulates a small memory: a buffer longer than `largest` elements
    /// cannot be had.
    pub fn with_largest_buffer(largest: usize) -> Self {
        Self {
            largest,
            real: PhantomData,
        }
    }

    fn allocate<T: Clone + Default>(&self, len: usize) -> Result<Vec<T>> {
        let mut data = Vec::new();
        if len > self.largest || data.try_reserve_exact(len).is_err() {
            return Err(Error::new(
                Code::OutOfMemory,
                "reference",
                format_args!("no memory for a buffer of {len} elements"),
            ));
        }
        data.resize(len, T::default());
        Ok(data)
    }
}

impl<R: Real> Device for Reference<R> {
    type Real = R;
    type Buf = Vec<R>;
    type Ints = Vec<u32>;
    type Host = Vec<R>;
    type Slot = Vec<R>;

    fn describe(&self) -> String {
        format!("reference ({})", std::any::type_name::<R>())
    }

    fn zeros(&self, len: usize) -> Result<Vec<R>> {
        self.allocate(len)
    }

    fn len(&self, buf: &Vec<R>) -> usize {
        buf.len()
    }

    fn write(&self, buf: &mut Vec<R>, at: usize, host: &[R]) -> Result<()> {
        buf[at..at + host.len()].copy_from_slice(host);
        Ok(())
    }

    fn read(&self, buf: &Vec<R>, at: usize, host: &mut [R]) -> Result<()> {
        host.copy_from_slice(&buf[at..at + host.len()]);
        Ok(())
    }

    fn copy(
        &self,
        from: &Vec<R>,
        from_at: usize,
        to: &mut Vec<R>,
        to_at: usize,
        len: usize,
    ) -> Result<()> {
        to[to_at..to_at + len].copy_from_slice(&from[from_at..from_at + len]);
        Ok(())
    }

    fn host(&self, len: usize) -> Result<Vec<R>> {
        self.zeros(len)
    }

    fn slot(&self, len: usize) -> Result<Vec<R>> {
        self.zeros(len)
    }

    fn zero_ints(&self, len: usize) -> Result<Vec<u32>> {
        self.allocate(len)
    }

    fn write_ints(&self, buf: &mut Vec<u32>, at: usize, host: &[u32]) -> Result<()> {
        buf[at..at + host.len()].copy_from_slice(host);
        Ok(())
    }

    fn read_ints(&self, buf: &Vec<u32>, at: usize, host: &mut [u32]) -> Result<()> {
        host.copy_from_slice(&buf[at..at + host.len()]);
        Ok(())
    }

    fn clear_ints(&self, buf: &mut Vec<u32>) -> Result<()> {
        buf.fill(0);
        Ok(())
    }
}

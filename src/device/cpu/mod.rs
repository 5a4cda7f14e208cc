//! The CPU backend: f32, a fixed pool of threads, kernels chosen at run time for the
//! instruction set that is there.
//!
//! Invariant: no result depends on the number of threads. Work is cut into tasks whose
//! borders and inner order are functions of the shapes alone.

mod amx;
mod batch;
mod codes;
mod edges;
mod encode;
mod exact;
mod filter;
mod fit;
mod gather;
pub mod gemm;
pub mod isa;
pub mod lm;
mod memory;
mod outer;
pub mod pack;
pub mod peak;
pub mod pool;
mod rounded;
mod rows;
mod sae;
mod scan;
mod select;
mod shortlist;
mod sieve;
mod simd;
mod store;
mod strips;
mod tile;
mod weights;

use super::Device;
use crate::domain::{Code, Error, Result};
use pool::Pool;
pub use sieve::bytes as sieve_bytes;

/// The CPU backend.
pub struct Cpu {
    pool: Pool,
}

impl Cpu {
    /// A backend with `threads` threads; 0 means one for each available core.
    pub fn new(threads: usize) -> Self {
        Self {
            pool: Pool::new(threads),
        }
    }

    /// The threads that operations run on.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}

fn out_of_memory(bytes: usize) -> Error {
    Error::new(
        Code::OutOfMemory,
        "cpu",
        format_args!("{bytes} bytes could not be allocated"),
    )
}

fn try_zeros<T: Clone + Default>(len: usize) -> Result<Vec<T>> {
    let mut data = Vec::new();
    data.try_reserve_exact(len)
        .map_err(|_| out_of_memory(len.saturating_mul(size_of::<T>())))?;
    memory::huge_pages(data.as_mut_ptr(), len);
    data.resize(len, T::default());
    Ok(data)
}

impl Device for Cpu {
    type Real = f32;
    type Buf = Vec<f32>;
    type Ints = Vec<u32>;
    type Host = Vec<f32>;
    type Slot = Vec<f32>;

    fn describe(&self) -> String {
        format!("cpu ({} threads, {})", self.pool.threads(), self.pool.isa())
    }

    fn zeros(&self, len: usize) -> Result<Vec<f32>> {
        try_zeros(len)
    }

    fn len(&self, buf: &Vec<f32>) -> usize {
        buf.len()
    }

    fn write(&self, buf: &mut Vec<f32>, at: usize, host: &[f32]) -> Result<()> {
        buf[at..at + host.len()].copy_from_slice(host);
        Ok(())
    }

    fn read(&self, buf: &Vec<f32>, at: usize, host: &mut [f32]) -> Result<()> {
        host.copy_from_slice(&buf[at..at + host.len()]);
        Ok(())
    }

    fn copy(
        &self,
        from: &Vec<f32>,
        from_at: usize,
        to: &mut Vec<f32>,
        to_at: usize,
        len: usize,
    ) -> Result<()> {
        to[to_at..to_at + len].copy_from_slice(&from[from_at..from_at + len]);
        Ok(())
    }

    fn host(&self, len: usize) -> Result<Vec<f32>> {
        self.zeros(len)
    }

    fn slot(&self, len: usize) -> Result<Vec<f32>> {
        self.zeros(len)
    }

    fn zero_ints(&self, len: usize) -> Result<Vec<u32>> {
        try_zeros(len)
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

//! The compute interface: buffers, and coarse fused operations on them.
//!
//! It is not a tensor library. An operation is as large as a backend needs to reach its
//! own floor inside it; [`crate::sae`] and [`crate::lm`] stay one readable sequence of
//! calls for every backend.
//!
//! Backends: [`cpu`] (f32, what runs use), [`cuda`] (f32, on an NVIDIA GPU) and
//! [`mod@reference`] (plain loops, f64: the oracle every other backend is tested against).

pub mod coded;
pub mod cpu;
pub mod cuda;
pub mod lm;
pub mod reference;
pub mod rows;
pub mod sae;

use crate::domain::Result;
use std::ops::DerefMut;

/// The number type that a backend stores and computes in.
pub trait Real: bytemuck::Pod + Send + Sync + Default + PartialOrd + std::fmt::Debug {
    /// Nearest value to `v`.
    fn from_f64(v: f64) -> Self;
    /// Exact widening.
    fn to_f64(self) -> f64;
}

impl Real for f32 {
    fn from_f64(v: f64) -> Self {
        v as f32
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    fn from_f64(v: f64) -> Self {
        v
    }
    fn to_f64(self) -> f64 {
        self
    }
}

/// A batch on its way to a device, in the order of these methods, again and again.
/// The host's side may be filled by another thread than the one that gives work to the device.
pub trait Slot<R, B>: Send {
    /// The host's side, to be filled, as soon as what it held has been copied.
    ///
    /// # Errors
    /// Those of earlier work.
    fn host(&mut self) -> Result<&mut [R]>;
    /// Begins to copy, behind the work that was given before [`Slot::release`].
    ///
    /// # Errors
    /// Those of the device.
    fn send(&mut self) -> Result<()>;
    /// The device's side, for work that is given from now on.
    ///
    /// # Errors
    /// Those of the device.
    fn arrived(&mut self) -> Result<&B>;
    /// The device's side, for work that fills it, in place of [`Slot::host`] and [`Slot::send`].
    fn here(&mut self) -> &mut B;
    /// All work that reads the device's side has been given.
    ///
    /// # Errors
    /// Those of the device.
    fn release(&mut self) -> Result<()>;
}

/// Where device and host compute in the same memory there is nothing to copy.
impl<R: Real> Slot<R, Vec<R>> for Vec<R> {
    fn host(&mut self) -> Result<&mut [R]> {
        Ok(self)
    }

    fn send(&mut self) -> Result<()> {
        Ok(())
    }

    fn arrived(&mut self) -> Result<&Vec<R>> {
        Ok(self)
    }

    fn here(&mut self) -> &mut Vec<R> {
        self
    }

    fn release(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Memory of a backend. Buffers are flat; operations take dimensions.
///
/// Running out of memory is [`crate::domain::Code::OutOfMemory`], a value, never a panic.
pub trait Device: Send + Sync + 'static {
    /// The number type of [`Device::Buf`].
    type Real: Real;
    /// A buffer of reals.
    type Buf: Send + Sync;
    /// A buffer of unsigned 32-bit integers (counters, indices).
    type Ints: Send + Sync;
    /// Reals of the host.
    type Host: DerefMut<Target = [Self::Real]> + Send;
    /// Where batches come from the host.
    type Slot: Slot<Self::Real, Self::Buf>;

    /// The backend in words, for logs and `summary.json`: `cpu (2 threads, avx2)`.
    fn describe(&self) -> String;

    /// `len` zeros.
    fn zeros(&self, len: usize) -> Result<Self::Buf>;
    /// Number of reals in `buf`.
    fn len(&self, buf: &Self::Buf) -> usize;
    /// Copies `host` to `buf[at..]`.
    fn write(&self, buf: &mut Self::Buf, at: usize, host: &[Self::Real]) -> Result<()>;
    /// Copies `buf[at..]` to `host`.
    fn read(&self, buf: &Self::Buf, at: usize, host: &mut [Self::Real]) -> Result<()>;
    /// Copies `len` reals between two buffers.
    fn copy(
        &self,
        from: &Self::Buf,
        from_at: usize,
        to: &mut Self::Buf,
        to_at: usize,
        len: usize,
    ) -> Result<()>;

    /// `len` zeros.
    fn zero_ints(&self, len: usize) -> Result<Self::Ints>;
    /// Copies `host` to `buf[at..]`.
    fn write_ints(&self, buf: &mut Self::Ints, at: usize, host: &[u32]) -> Result<()>;
    /// Copies `buf[at..]` to `host`.
    fn read_ints(&self, buf: &Self::Ints, at: usize, host: &mut [u32]) -> Result<()>;
    /// Sets all of `buf` to 0.
    fn clear_ints(&self, buf: &mut Self::Ints) -> Result<()>;

    /// `len` reals of the host, which the device copies from and to by itself.
    fn host(&self, len: usize) -> Result<Self::Host>;
    /// A place for batches of `len` reals.
    fn slot(&self, len: usize) -> Result<Self::Slot>;
    /// Whether batches come to the device while it computes.
    fn copies_alone(&self) -> bool {
        false
    }

    /// Bytes that are free of the device's own memory; `None` where it computes in the host's.
    fn free_memory(&self) -> Result<Option<u64>> {
        Ok(None)
    }
    /// The most of its own memory that was in use, where that is known.
    fn peak_memory(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// A buffer that holds `host`.
    fn upload(&self, host: &[Self::Real]) -> Result<Self::Buf> {
        let mut buf = self.zeros(host.len())?;
        self.write(&mut buf, 0, host)?;
        Ok(buf)
    }

    /// The whole of `buf` on the host.
    fn download(&self, buf: &Self::Buf) -> Result<Vec<Self::Real>> {
        let mut host = vec![Self::Real::default(); self.len(buf)];
        self.read(buf, 0, &mut host)?;
        Ok(host)
    }
}

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
pub mod sae;

use crate::domain::Result;

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

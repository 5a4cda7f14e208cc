//! Memory of the host that the GPU copies from and to by itself, while the host goes on.

use super::memory::{Gpu, Memory};
use crate::domain::Result;
use cudarc::driver::{result, sys};
use std::ffi::c_void;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Memory that the system does not move.
pub struct Pinned {
    at: *mut c_void,
    bytes: usize,
    gpu: Arc<Gpu>,
}

// SAFETY: it is owned like a vector, and the driver takes its address from any thread.
unsafe impl Send for Pinned {}
// SAFETY: nothing is written through a shared reference.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Room for `bytes`, at least one.
    pub fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self> {
        let bytes = bytes.max(1);
        gpu.enter()?;
        // SAFETY: the context is current; what is taken is owned by what is returned.
        let taken = unsafe { result::malloc_host(bytes, 0) };
        let at = gpu.check(&format!("{bytes} bytes of the host's memory"), taken)?;
        // SAFETY: so many bytes were taken.
        unsafe { at.cast::<u8>().write_bytes(0, bytes) };
        let gpu = gpu.clone();
        Ok(Self { at, bytes, gpu })
    }

    /// How much there is room for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts a copy of the first `len` numbers, to byte `at` of this memory, behind the work that
    /// was given before.
    pub fn receive<T: bytemuck::Pod>(
        &mut self,
        at: usize,
        from: &Memory<T>,
        len: usize,
    ) -> Result<()> {
        let (from, bytes) = (from.input(0, len), len * size_of::<T>());
        assert!(at + bytes <= self.bytes, "{at}+{bytes} of {}", self.bytes);
        if len == 0 {
            return Ok(());
        }
        self.gpu.enter()?;
        self.gpu.recorded("(copy to the host)", || {
            // SAFETY: both ranges are there; this one is not freed before the stream has been
            // waited for, and not read before either.
            let done = unsafe {
                let to = self.at.byte_add(at);
                sys::cuMemcpyDtoHAsync_v2(to, from.0, bytes, self.gpu.stream.cu_stream())
            };
            self.gpu.check("a copy from the GPU", done.result())
        })
    }

    /// All bytes, after all work that was given before.
    pub fn wait(&mut self) -> Result<&[u8]> {
        self.gpu.enter()?;
        self.gpu.recorder.waited(|| self.gpu.wait())?;
        // SAFETY: so many were taken and cleared, and the stream has done all its copies.
        Ok(unsafe { std::slice::from_raw_parts(self.at.cast(), self.bytes) })
    }
}

/// Reals that the system does not move, so that the GPU copies from and to them by itself.
pub struct PinnedReals {
    memory: Pinned,
    len: usize,
}

impl PinnedReals {
    /// `len` zeros.
    pub fn new(gpu: &Arc<Gpu>, len: usize) -> Result<Self> {
        let memory = Pinned::new(gpu, len.saturating_mul(size_of::<f32>()))?;
        Ok(Self { memory, len })
    }
}

impl Deref for PinnedReals {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: so many were taken, at the start of a page, and all bits are a number.
        unsafe { std::slice::from_raw_parts(self.memory.at.cast(), self.len) }
    }
}

impl DerefMut for PinnedReals {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.memory.at.cast(), self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // An error stays with the context, and the next call tells it.
        let _ = self.gpu.context.bind_to_thread();
        // Where nobody asked for what was copied here, it may still be under way.
        let _ = self.gpu.wait();
        // SAFETY: it was taken with the same kind of call, and nobody has it any more.
        let _ = unsafe { result::free_host(self.at) };
    }
}

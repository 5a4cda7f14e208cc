//! A GPU's context, its streams, and memory that goes back by itself.

use super::fault;
use super::profile::Recorder;
use super::shadow::Shadow;
use crate::domain::Result;
use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

/// One GPU, the stream on which all work runs in order, and one for batches that come meanwhile.
pub struct Gpu {
    /// `cuda:0`.
    pub name: String,
    /// The device's primary context.
    pub context: Arc<CudaContext>,
    /// Work runs in the order in which it was given.
    pub stream: Arc<CudaStream>,
    /// Copies of batches to the GPU, beside the work.
    pub copies: Arc<CudaStream>,
    /// What profiles are taken with.
    pub recorder: Recorder,
}

impl Gpu {
    /// Makes the context that of the calling thread, which every call of the driver needs.
    pub fn enter(&self) -> Result<()> {
        self.check("the context", self.context.bind_to_thread())
    }

    /// The outcome of a call as this project's.
    pub fn check<T>(&self, what: &str, outcome: std::result::Result<T, DriverError>) -> Result<T> {
        outcome.map_err(|e| fault::error(&self.name, what, e))
    }

    /// Waits for all work that was given.
    pub fn wait(&self) -> Result<()> {
        self.check("work on the GPU", self.stream.synchronize())
    }
}

/// Numbers in the GPU's memory.
pub struct Memory<T> {
    at: CUdeviceptr,
    len: usize,
    gpu: Arc<Gpu>,
    of: PhantomData<T>,
    /// What these numbers are when rounded. There only while nothing has written them since: all
    /// that writes asks [`Memory::place_to_write`] for the place.
    shadow: Mutex<Option<Arc<Shadow>>>,
}

impl Memory<f32> {
    /// The rounded numbers, where they are kept.
    pub(super) fn shadow(&self) -> Option<Arc<Shadow>> {
        let shadow = self.shadow.lock().unwrap_or_else(PoisonError::into_inner);
        shadow.clone()
    }

    /// Keeps what these numbers are when rounded, until something writes them.
    pub(super) fn keep(&self, rounded: Arc<Shadow>) {
        let mut shadow = self.shadow.lock().unwrap_or_else(PoisonError::into_inner);
        *shadow = Some(rounded);
    }

    /// The rounded numbers, which are no longer kept here; none where somebody else has them too.
    pub(super) fn take_shadow(&mut self) -> Option<Shadow> {
        let shadow = self.shadow.get_mut();
        let shadow = shadow.unwrap_or_else(PoisonError::into_inner).take();
        shadow.and_then(Arc::into_inner)
    }

    /// Copies `host` here on the stream of copies, whenever that comes to it.
    ///
    /// # Safety
    /// `host` is pinned, and there and unchanged until the copy is done; no work that uses this
    /// memory runs meanwhile.
    pub(super) unsafe fn write_aside(&mut self, host: &[f32]) -> Result<()> {
        let to = self.place_to_write(0, host.len());
        if host.is_empty() {
            return Ok(());
        }
        self.gpu.enter()?;
        // SAFETY: the range lies within this memory; the rest is the caller's promise.
        let done = unsafe { result::memcpy_htod_async(to, host, self.gpu.copies.cu_stream()) };
        self.gpu.check("a copy to the GPU", done)
    }
}

/// What a kernel reads: a pointer into memory that lives as long as `'a`.
pub struct In<'a, T>(pub(super) CUdeviceptr, PhantomData<&'a T>);

impl<T> Clone for In<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for In<'_, T> {}

/// What a kernel writes.
pub struct Out<'a, T>(pub(super) CUdeviceptr, PhantomData<&'a mut T>);

impl<'a, T> Out<'a, T> {
    /// The same memory to read, for kernels that work in place.
    pub fn as_input(&self) -> In<'a, T> {
        In(self.0, PhantomData)
    }
}

impl<T: bytemuck::Pod> Memory<T> {
    /// No memory.
    pub fn none(gpu: &Arc<Gpu>) -> Self {
        Self {
            at: 0,
            len: 0,
            gpu: gpu.clone(),
            of: PhantomData,
            shadow: Mutex::new(None),
        }
    }

    /// Memory for `len` numbers, with unspecified content.
    pub fn new(gpu: &Arc<Gpu>, len: usize) -> Result<Self> {
        let mut memory = Self::none(gpu);
        if len == 0 {
            return Ok(memory);
        }
        gpu.enter()?;
        let bytes = len.saturating_mul(size_of::<T>());
        gpu.recorder.allocated(bytes);
        // SAFETY: the context is current; the memory is owned by what is returned.
        let taken = unsafe {
            if gpu.context.has_async_alloc() {
                result::malloc_async(gpu.stream.cu_stream(), bytes)
            } else {
                result::malloc_sync(bytes)
            }
        };
        memory.at = gpu.check(&format!("{bytes} bytes of memory"), taken)?;
        memory.len = len;
        Ok(memory)
    }

    /// `len` zeros.
    pub fn zeros(gpu: &Arc<Gpu>, len: usize) -> Result<Self> {
        let mut memory = Self::new(gpu, len)?;
        memory.clear()?;
        Ok(memory)
    }

    /// Memory that holds `host`.
    pub fn of(gpu: &Arc<Gpu>, host: &[T]) -> Result<Self> {
        let mut memory = Self::new(gpu, host.len())?;
        memory.write(0, host)?;
        Ok(memory)
    }

    /// How many numbers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Sets all bits to 0.
    pub fn clear(&mut self) -> Result<()> {
        self.fill(0, self.len, 0)
    }

    /// Sets all bytes of `len` numbers from `at`.
    pub fn fill(&mut self, at: usize, len: usize, byte: u8) -> Result<()> {
        let to = self.place_to_write(at, len);
        if len == 0 {
            return Ok(());
        }
        self.gpu.enter()?;
        let bytes = len * size_of::<T>();
        self.gpu.recorded("(clear)", || {
            // SAFETY: the range lies within this memory.
            let done =
                unsafe { result::memset_d8_async(to, byte, bytes, self.gpu.stream.cu_stream()) };
            self.gpu.check("clearing memory", done)
        })
    }

    /// The address of element `at`, for what reads there, from which `len` elements lie within this memory.
    ///
    /// # Panics
    /// Where they do not.
    fn place(&self, at: usize, len: usize) -> CUdeviceptr {
        assert!(
            at <= self.len && len <= self.len - at,
            "{at}+{len} of {} numbers",
            self.len
        );
        self.at + (at * size_of::<T>()) as CUdeviceptr
    }

    /// … for what writes there.
    fn place_to_write(&mut self, at: usize, len: usize) -> CUdeviceptr {
        *self
            .shadow
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner) = None;
        self.place(at, len)
    }

    /// Copies `host` to `self[at..]`.
    pub fn write(&mut self, at: usize, host: &[T]) -> Result<()> {
        let to = self.place_to_write(at, host.len());
        if host.is_empty() {
            return Ok(());
        }
        self.gpu.enter()?;
        self.gpu.recorded("(copy to the GPU)", || {
            // SAFETY: the range lies within this memory. `host` is pageable: the driver has it in
            // buffers of its own when the call returns.
            let done = unsafe { result::memcpy_htod_async(to, host, self.gpu.stream.cu_stream()) };
            self.gpu.check("a copy to the GPU", done)
        })
    }

    /// Copies `self[at..]` to `host`, after all work that was given before.
    pub fn read(&self, at: usize, host: &mut [T]) -> Result<()> {
        let from = self.place(at, host.len());
        if host.is_empty() {
            return Ok(());
        }
        self.gpu.enter()?;
        let copied = self.gpu.recorded("(copy to the host)", || {
            // SAFETY: the range lies within this memory, and `host` is there until the wait below
            // is over.
            let done =
                unsafe { result::memcpy_dtoh_async(host, from, self.gpu.stream.cu_stream()) };
            self.gpu.check("a copy from the GPU", done)
        });
        // Also after an error: the copy may be under way.
        let waited = self.gpu.recorder.waited(|| self.gpu.wait());
        copied.and(waited)
    }

    /// All numbers, on the host.
    pub fn to_host(&self) -> Result<Vec<T>> {
        let mut host = vec![T::zeroed(); self.len];
        self.read(0, &mut host)?;
        Ok(host)
    }

    /// Copies `len` numbers of `from` here.
    pub fn copy(&mut self, at: usize, from: &Self, from_at: usize, len: usize) -> Result<()> {
        let (to, from) = (self.place_to_write(at, len), from.place(from_at, len));
        if len == 0 {
            return Ok(());
        }
        self.gpu.enter()?;
        let bytes = len * size_of::<T>();
        self.gpu.recorded("(copy on the GPU)", || {
            // SAFETY: both ranges lie within their memory, and the two are different allocations.
            let done =
                unsafe { result::memcpy_dtod_async(to, from, bytes, self.gpu.stream.cu_stream()) };
            self.gpu.check("a copy on the GPU", done)
        })
    }

    /// `len` numbers from `at`, for a kernel to read.
    pub fn input(&self, at: usize, len: usize) -> In<'_, T> {
        In(self.place(at, len), PhantomData)
    }

    /// The first `len` numbers, for a kernel to write, or to read and write.
    pub fn output(&mut self, len: usize) -> Out<'_, T> {
        self.output_at(0, len)
    }

    /// `len` numbers from `at`, for a kernel to write, or to read and write.
    pub fn output_at(&mut self, at: usize, len: usize) -> Out<'_, T> {
        Out(self.place_to_write(at, len), PhantomData)
    }
}

impl Memory<u8> {
    /// All bytes, as numbers of two.
    pub fn halves(&self) -> In<'_, u16> {
        In(self.at, PhantomData)
    }
}

impl Memory<f64> {
    /// The lower half of number `at`, for a kernel to count in.
    pub fn half(&mut self, at: usize) -> Out<'_, u32> {
        Out(self.place_to_write(at, 1), PhantomData)
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        if self.at == 0 {
            return;
        }
        // An error stays with the context, and the next call tells it.
        let _ = self.gpu.context.bind_to_thread();
        // SAFETY: the memory was taken with the same kind of call, and nobody has it any more;
        // kernels that use it stand before this in the stream.
        let _ = unsafe {
            if self.gpu.context.has_async_alloc() {
                result::free_async(self.at, self.gpu.stream.cu_stream())
            } else {
                let _ = self.gpu.stream.synchronize();
                result::free_sync(self.at)
            }
        };
    }
}

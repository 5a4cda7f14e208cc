//! The CUDA backend: one NVIDIA GPU, kernels compiled on its host by NVRTC. Everything is f32 but
//! the factors of products that tensor cores are asked for.
//!
//! The driver and NVRTC are loaded when a GPU is asked for, so the same program runs where there
//! is none. All work goes into one stream, in order; what comes back to the host waits for it. Only
//! batches come to the GPU on a stream of their own (`arrival.rs`).
//!
//! Invariant: no result depends on how blocks are scheduled. Work is cut by the shapes alone,
//! and there are no atomics but those of integers whose order cannot show.

mod above;
mod arrival;
mod batch;
mod cache;
mod codes;
mod compact;
pub mod compile;
mod decode;
mod dense;
mod encode;
mod factor;
pub mod fault;
mod filter;
pub mod floors;
mod halves;
pub mod kernels;
mod latents;
mod later;
mod launch;
mod lm;
mod memory;
mod pinned;
mod prefixes;
pub mod probe;
mod product;
pub mod profile;
mod rows;
mod rules;
mod sae;
mod shadow;
mod stream;
mod sums;
mod tensor;
mod topk;

use super::Device;
use crate::domain::{Amp, Code, Error, Result};
use arrival::Arrival;
use cache::Cache;
use compile::Target;
use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use cudarc::driver::{CudaContext, result, sys};
use kernels::Kernels;
use later::Pages;
use memory::{Gpu, Memory};
use pinned::{Pinned, PinnedReals};
use prefixes::Prefixes;
use profile::Recorder;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

/// The CUDA backend.
pub struct Cuda {
    gpu: Arc<Gpu>,
    kernels: Kernels,
    pages: Pages,
    /// Where numbers come to, once there were some.
    landing: Mutex<Option<Pinned>>,
    prefixes: Prefixes,
    model: String,
    target: Target,
    /// Bytes of pre-activations that are there at a time.
    stretch: usize,
    /// What is rounded.
    amp: Amp,
    /// Latents whose pre-activations give the bounds for the rest.
    first: usize,
    /// Whether warpgroups multiply.
    wgmma: bool,
    /// How the contexts of the last attention lie, for the next one.
    plan: Mutex<Option<Arc<lm::Plan>>>,
    /// Tiles from which on a product in f32 has large ones.
    enough: usize,
    /// Share of the pairs of token and latent that are edges, from which on codes are a matrix;
    /// `None` for that of the cost model.
    dense_from: Option<f64>,
    /// Products to come that do not expect latents to fire seldom.
    doubt: AtomicU32,
    /// Multiprocessors: no result depends on how many there are.
    processors: usize,
    /// What whoever started should know.
    warnings: Vec<String>,
}

impl Cuda {
    /// GPU number `ordinal`, as CUDA_VISIBLE_DEVICES leaves them. `cache` is the folder of
    /// compiled kernels.
    ///
    /// # Errors
    /// `device-unavailable` where there is no driver, no such GPU or no compiler for it.
    pub fn open(ordinal: usize, cache: Option<&Path>) -> Result<Self> {
        let found = probe::find(ordinal)?;
        compile::expect_fit(probe::driver()?)?;
        let gpu = Arc::new(start(ordinal, &found)?);
        let attribute = |which| gpu.check("its attributes", gpu.context.attribute(which));
        let (major, minor) = gpu.check("its capability", gpu.context.compute_capability())?;
        let shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        if major < 8 {
            return Err(Error::new(
                Code::DeviceUnavailable,
                &gpu.name,
                format_args!("has compute capability {major}.{minor}, and 8.0 is the least"),
            )
            .hint("use --device cpu"));
        }
        let target = Target {
            arch: compile::arch(major, minor),
            shared: usize::try_from(shared).unwrap_or(0),
        };
        let cache = Cache::new(cache);
        let kernels = Kernels::load(&gpu, &target, &cache)?;
        let model = gpu.check("its name", gpu.context.name())?;
        let wgmma = target.arch == "sm_90a";
        let processors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        Ok(Self {
            gpu,
            kernels,
            pages: Pages::default(),
            landing: Mutex::default(),
            prefixes: Prefixes::default(),
            model,
            target,
            stretch: 32 << 20,
            amp: Amp::Off,
            first: stream::FIRST,
            wgmma,
            enough: product::ENOUGH,
            dense_from: None,
            plan: Mutex::new(None),
            doubt: AtomicU32::new(0),
            processors: usize::try_from(processors).unwrap_or(1).max(1),
            warnings: cache.warnings(),
        })
    }

    /// What whoever started should know of the kept kernels, a line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// … that rounds like this.
    #[must_use]
    pub fn with_amp(self, amp: Amp) -> Self {
        Self { amp, ..self }
    }

    /// … that takes the bounds of TopK from this many latents.
    #[must_use]
    pub fn with_first(self, latents: usize) -> Self {
        Self {
            first: latents,
            ..self
        }
    }

    /// … whose products in f32 have large tiles from this many on.
    #[must_use]
    pub fn with_large_tiles_from(self, tiles: usize) -> Self {
        Self {
            enough: tiles,
            ..self
        }
    }

    /// … that takes codes for a matrix from this share of edges on: 0 always does, infinity never.
    #[must_use]
    pub fn with_dense_from(self, share: f64) -> Self {
        Self {
            dense_from: Some(share),
            ..self
        }
    }

    /// … that multiplies as GPUs before sm_90 do.
    #[must_use]
    pub fn without_wgmma(self) -> Self {
        Self {
            wgmma: false,
            ..self
        }
    }

    /// … that holds at most `bytes` of pre-activations at a time.
    #[must_use]
    pub fn with_stretch(self, bytes: usize) -> Self {
        Self {
            stretch: bytes,
            ..self
        }
    }
}

fn start(ordinal: usize, found: &probe::Found) -> Result<Gpu> {
    probe::expect_access(found, None)?;
    let context = match CudaContext::new(ordinal) {
        Ok(context) => context,
        Err(e) => return Err(probe::expect_access(found, Some(e)).expect_err("a failure")),
    };
    let failed = |what: &str, e| fault::error(&found.name, what, e);
    // SAFETY: work runs in one stream, in order; what runs in the other synchronises itself.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().map_err(|e| failed("its stream", e))?;
    let copies = context.new_stream().map_err(|e| failed("its stream", e))?;
    if context.has_async_alloc() {
        keep_freed_memory(&context).map_err(|e| failed("its memory pool", e))?;
    }
    Ok(Gpu {
        name: found.name.clone(),
        context,
        stream,
        copies,
        recorder: Recorder::default(),
    })
}

/// What is freed stays with the pool, so that the next step does not ask the system again.
fn keep_freed_memory(context: &CudaContext) -> std::result::Result<(), result::DriverError> {
    let mut all = u64::MAX;
    // SAFETY: the device is that of the context, and the attribute is a u64.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        sys::cuMemPoolSetAttribute(
            pool,
            sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            (&raw mut all).cast(),
        )
        .result()
    }
}

impl Device for Cuda {
    type Real = f32;
    type Buf = Memory<f32>;
    type Ints = Memory<u32>;
    type Host = PinnedReals;
    type Slot = Arrival;

    fn describe(&self) -> String {
        format!("{} ({}, {})", self.gpu.name, self.model, self.target.arch)
    }

    fn zeros(&self, len: usize) -> Result<Memory<f32>> {
        Memory::zeros(&self.gpu, len)
    }

    fn len(&self, buf: &Memory<f32>) -> usize {
        buf.len()
    }

    fn write(&self, buf: &mut Memory<f32>, at: usize, host: &[f32]) -> Result<()> {
        buf.write(at, host)
    }

    fn read(&self, buf: &Memory<f32>, at: usize, host: &mut [f32]) -> Result<()> {
        buf.read(at, host)
    }

    fn copy(
        &self,
        from: &Memory<f32>,
        from_at: usize,
        to: &mut Memory<f32>,
        to_at: usize,
        len: usize,
    ) -> Result<()> {
        to.copy(to_at, from, from_at, len)
    }

    fn zero_ints(&self, len: usize) -> Result<Memory<u32>> {
        Memory::zeros(&self.gpu, len)
    }

    fn write_ints(&self, buf: &mut Memory<u32>, at: usize, host: &[u32]) -> Result<()> {
        buf.write(at, host)
    }

    fn read_ints(&self, buf: &Memory<u32>, at: usize, host: &mut [u32]) -> Result<()> {
        buf.read(at, host)
    }

    fn clear_ints(&self, buf: &mut Memory<u32>) -> Result<()> {
        buf.clear()
    }

    fn host(&self, len: usize) -> Result<PinnedReals> {
        PinnedReals::new(&self.gpu, len)
    }

    fn slot(&self, len: usize) -> Result<Arrival> {
        Arrival::new(&self.gpu, len)
    }

    fn copies_alone(&self) -> bool {
        true
    }

    fn free_memory(&self) -> Result<Option<u64>> {
        self.gpu.enter()?;
        let (free, _) = self.gpu.check("its memory", result::mem_get_info())?;
        Ok(Some(free as u64))
    }

    fn peak_memory(&self) -> Result<Option<u64>> {
        self.pool_peak(false)
    }
}

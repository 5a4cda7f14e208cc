//! The GPU's ceilings, measured by work that does nothing else: how fast memory is copied, and
//! how fast registers are multiplied.
//!
//! Measure them in the same minute as what is compared with them: clocks follow heat and power.

use super::Cuda;
use super::launch::{Shape, count};
use super::memory::Memory;
use crate::domain::Result;
use cudarc::driver::{result, sys};

/// Medians over several runs.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Floors {
    /// GB/s of a copy within the GPU's memory, bytes read and bytes written both counted.
    pub copy_gb_per_second: f64,
    /// TFLOP/s of products of bf16 factors with f32 sums, dense, by the fastest instruction that the
    /// kernels have for this GPU: wgmma on sm_90a, and elsewhere mma.sync.
    pub bf16_tflops: f64,
    /// … by mma.sync.
    pub mma_sync_tflops: f64,
    /// TFLOP/s of f32 fused multiply-adds.
    pub f32_tflops: f64,
}

/// Runs of each measure.
const RUNS: usize = 9;
/// Blocks of a multiprocessor, and warps of a block: as many as hide the latency.
const BLOCKS: usize = 2;
const WARPS: usize = 8;
/// Operations of a warp in a round: of 8 products of 16 × 8 × 16, and of 16 multiply-adds a lane.
const MMA_ROUND: usize = 8 * 2 * 16 * 8 * 16;
const F32_ROUND: usize = 16 * 2 * 32;
/// Operations of a block of warpgroups in a round, and its shared memory.
const HOPPER_ROUND: usize = 2 * 128 * 256 * 64;
const HOPPER_SHARED: usize = (128 + 256) * 64 * 2 + 1024;

impl Cuda {
    /// Measures. Takes a fraction of a second, and up to 2 GiB of the GPU's memory for it.
    ///
    /// # Errors
    /// `out-of-memory`; those of the GPU.
    pub fn floors(&self) -> Result<Floors> {
        let (gpu, kernels) = (&self.gpu, &self.kernels);
        let blocks = BLOCKS * self.processors;
        let threads = blocks * WARPS * 32;
        let shape = Shape::blocks(blocks, 256);
        let mut out = Memory::new(gpu, threads)?;
        let f32_rate = self.rate(blocks * WARPS * F32_ROUND, |rounds| {
            kernels.peak_f32(gpu, shape, out.output(threads), count(rounds))
        })?;
        let mma_rate = self.rate(blocks * WARPS * MMA_ROUND, |rounds| {
            kernels.peak_bf16(gpu, shape, out.output(threads), count(rounds))
        })?;
        let bf16_rate = match self.wgmma {
            false => mma_rate,
            true => self.rate(blocks * HOPPER_ROUND, |rounds| {
                let shape = shape.shared(HOPPER_SHARED);
                kernels.peak_hopper(gpu, shape, out.output(threads), count(rounds))
            })?,
        };
        Ok(Floors {
            copy_gb_per_second: self.copy_rate()? / 1e9,
            bf16_tflops: bf16_rate / 1e12,
            mma_sync_tflops: mma_rate / 1e12,
            f32_tflops: f32_rate / 1e12,
        })
    }

    /// Operations a second of a kernel of so many in a round.
    fn rate(&self, round: usize, mut run: impl FnMut(usize) -> Result<()>) -> Result<f64> {
        let mut time = |rounds| self.gpu.milliseconds(|| run(rounds));
        let mut rounds = 1;
        // Long enough that neither the start of the kernel nor slow clocks show.
        loop {
            let ms = time(rounds)?;
            if ms >= 4.0 || rounds >= 1 << 20 {
                break;
            }
            rounds *= if ms < 1.0 { 8 } else { 2 };
        }
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            runs.push(time(rounds)?);
        }
        Ok((round * rounds) as f64 / (median(runs) / 1e3))
    }

    /// Bytes a second, read and written.
    fn copy_rate(&self) -> Result<f64> {
        self.gpu.enter()?;
        let (free, _) = self.gpu.check("its memory", result::mem_get_info())?;
        // What the pool holds counts as taken: at least as much as no cache holds.
        let len = (free / 16).clamp(16 << 20, 1 << 30) / 8;
        let from = Memory::<u64>::zeros(&self.gpu, len)?;
        let mut to = Memory::zeros(&self.gpu, len)?;
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            runs.push(self.gpu.milliseconds(|| to.copy(0, &from, 0, len))?);
        }
        Ok((2 * 8 * len) as f64 / (median(runs) / 1e3))
    }

    /// The most bytes of the GPU's memory that this process has had at once since the last call
    /// of this; `None` where the GPU has no pools, which count it.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn take_peak_memory(&self) -> Result<Option<u64>> {
        self.pool_peak(true)
    }

    /// The most bytes that the pool has given out at once since it was asked to forget.
    pub(super) fn pool_peak(&self, forget: bool) -> Result<Option<u64>> {
        const PEAK: sys::CUmemPool_attribute =
            sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        if !self.gpu.context.has_async_alloc() {
            return Ok(None);
        }
        self.gpu.enter()?;
        let (mut peak, mut reset) = (0u64, 0u64);
        // SAFETY: the device is that of the context, and the attribute is a u64, which 0 resets.
        let asked = unsafe {
            result::device::get_default_mem_pool(self.gpu.context.cu_device()).and_then(|pool| {
                sys::cuMemPoolGetAttribute(pool, PEAK, (&raw mut peak).cast()).result()?;
                match forget {
                    true => {
                        sys::cuMemPoolSetAttribute(pool, PEAK, (&raw mut reset).cast()).result()
                    }
                    false => Ok(()),
                }
            })
        };
        self.gpu.check("its memory", asked)?;
        Ok(Some(peak))
    }
}

fn median(mut runs: Vec<f64>) -> f64 {
    runs.sort_by(f64::total_cmp);
    runs[runs.len() / 2]
}

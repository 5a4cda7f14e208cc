//! The machine's ceiling: how many fused multiply-adds a second its registers allow.

use std::hint::black_box;
use std::time::Instant;

use super::amx::{Block, TILE, Tiles};
use super::isa::Isa;
use super::memory::Scratch;
use super::pool::Pool;

/// Runs `steps` rounds of independent fused multiply-adds in registers on every thread of
/// the pool, with the pool's instruction set; returns the number of operations.
///
/// Time it in the same minute as what it is compared with: clocks and neighbours change.
pub fn flops(pool: &Pool, steps: usize) -> f64 {
    let tasks = pool.threads();
    pool.run(tasks, |_| {
        black_box(burn(pool.isa(), steps));
    });
    (2 * CHAINS * lanes(pool.isa()) * steps * tasks) as f64
}

/// The median rate of `repeats` such runs, in GFLOP/s.
pub fn gflops(pool: &Pool, repeats: usize) -> f64 {
    rate(repeats, || flops(pool, 1 << 21))
}

/// As [`gflops`], of bf16 tiles whose factors lie in L1; `None` where the pool does not use them.
pub fn tile_gflops(pool: &Pool, repeats: usize) -> Option<f64> {
    /// Four groups of as many steps take 32 KiB.
    const STEPS: usize = 8;
    const BLOCKS: usize = 1 << 14;
    (pool.isa() == Isa::Amx).then(|| {
        rate(repeats, || {
            pool.run(pool.threads(), |_| {
                let unit = Tiles::new(pool.isa());
                // A row of a tile is a cache line.
                let mut factors = Scratch::take(2 * STEPS * TILE);
                factors.fill(1.0);
                let factors: &[u16] = bytemuck::cast_slice(&factors);
                let part = |at: usize| &factors[at * STEPS * TILE..][..STEPS * TILE];
                let mut sums: Block = bytemuck::Zeroable::zeroed();
                for _ in 0..BLOCKS {
                    // Sums begin anew: reading what was just written would be waited for.
                    unit.multiply([part(0), part(1)], [part(2), part(3)], &mut sums, true);
                }
                black_box(sums);
            });
            // Of each step four products of 16 by 16 by 32.
            (2 * 4 * 16 * TILE * STEPS * BLOCKS * pool.threads()) as f64
        })
    })
}

/// The median rate of `repeats` runs of `work`, which says how many operations it was.
fn rate(repeats: usize, work: impl Fn() -> f64) -> f64 {
    let mut rates: Vec<f64> = (0..repeats.max(1))
        .map(|_| {
            let start = Instant::now();
            work() / start.elapsed().as_secs_f64() / 1e9
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Chains in flight: enough to hide four cycles of latency at two starts a cycle.
const CHAINS: usize = 12;

fn lanes(isa: Isa) -> usize {
    match isa {
        Isa::Amx | Isa::Avx512 => 16,
        Isa::Avx2 => 8,
        Isa::Portable => 4,
    }
}

fn burn(isa: Isa, steps: usize) -> f32 {
    match isa {
        // SAFETY: a pool has only instruction sets that the machine has.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx | Isa::Avx512 => unsafe { x86::avx512(steps) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::avx2(steps) },
        _ => portable(steps),
    }
}

fn portable(steps: usize) -> f32 {
    // As wide as the baseline's registers, and separate operations where it has no fused
    // one. The factors come from memory: the compiler forms vectors from what it loads.
    let (a, b) = black_box(([0.5f32; 4], [1.0f32; 4]));
    let mut sums = [[0.0f32; 4]; CHAINS];
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = [
                sum[0] * a[0] + b[0],
                sum[1] * a[1] + b[1],
                sum[2] * a[2] + b[2],
                sum[3] * a[3] + b[3],
            ];
        }
    }
    black_box(sums).iter().flatten().sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{CHAINS, black_box};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    pub fn avx512(steps: usize) -> f32 {
        let mut sums = [_mm512_setzero_ps(); CHAINS];
        let (a, b) = (
            _mm512_set1_ps(black_box(0.5)),
            _mm512_set1_ps(black_box(1.0)),
        );
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        sums.into_iter().map(|s| _mm512_reduce_add_ps(s)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2(steps: usize) -> f32 {
        let mut sums = [_mm256_setzero_ps(); CHAINS];
        let (a, b) = (
            _mm256_set1_ps(black_box(0.5)),
            _mm256_set1_ps(black_box(1.0)),
        );
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        sums.into_iter().map(|s| _mm256_cvtss_f32(s)).sum()
    }
}

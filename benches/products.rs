//! Matrix products of the CPU backend against the machine's peak: `cargo bench --bench products`.
//!
//! Every shape is timed next to a peak loop; the share of the peak is what to compare, since
//! clocks and neighbours change from minute to minute. With the argument `one` a single
//! thread works and its own processor time counts, which other processes disturb least.

use backpropd::device::cpu::gemm::{PackedWeight, gemm};
use backpropd::device::cpu::isa::Isa;
use backpropd::device::cpu::peak;
use backpropd::device::cpu::pool::Pool;
use std::time::Instant;

fn main() {
    let one = std::env::args().any(|arg| arg == "one");
    let shapes = [
        (4096, 16384, 768),
        (4096, 768, 16384),
        (4096, 128, 128),
        (4096, 384, 128),
        (4096, 512, 128),
        (4096, 128, 512),
        (1024, 576, 576),
        (1024, 1536, 576),
        (1024, 576, 1536),
        (1024, 49152, 576),
        (4096, 2304, 768),
    ];
    // AMX has no products in f32 of its own.
    let isas = Isa::ALL.into_iter().filter(|isa| *isa != Isa::Amx);
    for isa in isas.filter(|isa| isa.available()) {
        let pool = Pool::with_isa(usize::from(one), isa);
        println!("{isa}, {} threads", pool.threads());
        for (m, n, k) in shapes {
            let (a, w) = (values(m * k), PackedWeight::new(&values(n * k), n, k));
            let mut out = vec![0.0; m * n];
            let flops = 2.0 * (m * n * k) as f64;
            let mut shares: Vec<(f64, f64)> = (0..((3e10 / flops) as usize).clamp(3, 100))
                .map(|_| {
                    let start = Clock::now(one);
                    gemm(&pool, &a, m, &w, None, false, &mut out);
                    let rate = flops / start.seconds() / 1e9;
                    let start = Clock::now(one);
                    let peak = peak::flops(&pool, 1 << 19) / start.seconds() / 1e9;
                    (rate / peak, rate)
                })
                .collect();
            shares.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (share, rate) = shares[shares.len() / 2];
            println!(
                "{m:>5} x {n:>5} x {k:>5}: {:5.1} % of the peak ({rate:5.1} GFLOP/s)",
                100.0 * share
            );
        }
    }
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect()
}

enum Clock {
    Wall(Instant),
    OnCpu(f64),
}

impl Clock {
    fn now(on_cpu: bool) -> Self {
        match on_cpu {
            true => Self::OnCpu(on_cpu_seconds()),
            false => Self::Wall(Instant::now()),
        }
    }

    fn seconds(&self) -> f64 {
        match self {
            Self::Wall(start) => start.elapsed().as_secs_f64(),
            Self::OnCpu(start) => on_cpu_seconds() - start,
        }
    }
}

/// Processor time of this thread.
fn on_cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

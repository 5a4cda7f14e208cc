//! Matrix products of the CPU backend against the machine's peak: `cargo bench --bench products`.
//!
//! Every shape is timed next to a peak loop; the share of the peak is what to compare, since
//! clocks and neighbours change from minute to minute.

use backpropd::device::cpu::gemm::{PackedWeight, gemm};
use backpropd::device::cpu::isa::Isa;
use backpropd::device::cpu::peak;
use backpropd::device::cpu::pool::Pool;
use std::time::Instant;

fn main() {
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
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        let pool = Pool::with_isa(0, isa);
        println!("{isa}, {} threads", pool.threads());
        for (m, n, k) in shapes {
            let fill = |len: usize| {
                (0..len)
                    .map(|i| (i % 17) as f32 / 17.0 - 0.5)
                    .collect::<Vec<_>>()
            };
            let (a, w) = (fill(m * k), PackedWeight::new(&fill(n * k), n, k));
            let mut out = vec![0.0; m * n];
            let flops = 2.0 * (m * n * k) as f64;
            let repeats = ((6e10 / flops) as usize).clamp(3, 200);
            let mut rates: Vec<f64> = (0..repeats)
                .map(|_| {
                    let start = Instant::now();
                    gemm(&pool, &a, m, &w, None, false, &mut out);
                    flops / start.elapsed().as_secs_f64() / 1e9
                })
                .collect();
            rates.sort_by(f64::total_cmp);
            let peak = peak::gflops(&pool, 3);
            let (median, best) = (rates[rates.len() / 2], rates[rates.len() - 1]);
            println!(
                "{m:>5} x {n:>5} x {k:>5}: median {median:6.1}, best {best:6.1} GFLOP/s of {peak:6.1}: {:5.1} % / {:5.1} %",
                100.0 * median / peak,
                100.0 * best / peak
            );
        }
    }
}

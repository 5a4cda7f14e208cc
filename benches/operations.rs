//! What a TopK step consists of: `cargo bench --bench operations [-- auxk]`.
//!
//! One thread works and its processor time counts, which other processes disturb least;
//! each line is the best of three rounds.

use backpropd::device::cpu::{Cpu, peak};
use backpropd::device::sae::{
    AdamStep, Among, Base, Decode, EdgeGrads, Encode, OuterGrad, Penalty, Pick, Prefix,
    Reconstruct, Reconstruction, Rows, Rule, SaeOps, Select, Target,
};
use std::collections::BTreeMap;

const TOKENS: usize = 4096;
const D: usize = 768;
const LATENTS: usize = 16384;
const K: usize = 32;

fn main() {
    let aux = std::env::args().any(|arg| arg == "auxk");
    let mut bench = Bench {
        device: Cpu::new(1),
        rows: [(); 2].map(|()| vec![0.0; TOKENS * D]),
        weights: [(); 4].map(|()| vec![0.0; LATENTS * D]),
        times: BTreeMap::new(),
    };
    let x = noise(TOKENS * D, 1);
    let [w_enc, mut w_dec] = [2, 3].map(|seed| noise(LATENTS * D, seed));
    for _ in 0..3 {
        bench.round(&x, &w_enc, &mut w_dec, aux);
    }
    for (what, seconds) in bench.times {
        println!("{what:28} {:8.1} ms", 1e3 * seconds);
    }
}

struct Bench {
    device: Cpu,
    /// x̂ and its gradient.
    rows: [Vec<f32>; 2],
    /// Gradients of both weight matrices, and Adam's moments of one.
    weights: [Vec<f32>; 4],
    times: BTreeMap<&'static str, f64>,
}

impl Bench {
    fn time<R>(&mut self, what: &'static str, work: impl FnOnce(&Cpu) -> R) -> R {
        let start = on_cpu_seconds();
        let result = work(&self.device);
        let seconds = on_cpu_seconds() - start;
        let best = self.times.entry(what).or_insert(seconds);
        *best = best.min(seconds);
        result
    }

    fn round(&mut self, x: &Vec<f32>, w_enc: &Vec<f32>, w_dec: &mut Vec<f32>, aux: bool) {
        let (b_enc, b_dec) = (vec![0.0; LATENTS], vec![0.1; D]);
        let dead: Vec<u32> = (0..LATENTS as u32).step_by(8).collect();
        let mut norms = vec![0.0; LATENTS];
        self.time("0 peak, 805 MFLOP", |d| peak::flops(d.pool(), 1 << 21));
        self.time("1 row norms", |d| {
            d.row_norms(w_dec, LATENTS, D, &mut norms)
        })
        .unwrap();
        let [mut main, mut dead_codes] = [(); 2].map(|()| self.device.new_codes());
        let product = Encode {
            x: Rows::of(x, TOKENS),
            center: Some(&b_dec),
            w_enc,
            b_enc: &b_enc,
            d_in: D,
            d_sae: LATENTS,
            rounded: true,
        };
        let scale = Some(&norms);
        self.time("2 product without selection", |d| {
            d.encode(&product, &mut [])
        })
        .unwrap();
        let select = Select::TopK {
            k: K,
            scale,
            among: None,
        };
        let pick = Pick {
            select,
            codes: &mut main,
        };
        self.time("3 product with TopK", |d| d.encode(&product, &mut [pick]))
            .unwrap();
        let select = Select::BatchTopK {
            total: K * TOKENS,
            scale,
        };
        let pick = Pick {
            select,
            codes: &mut main,
        };
        self.time("3 product with BatchTopK", |d| {
            d.encode(&product, &mut [pick])
        })
        .unwrap();
        if aux {
            let among = Some(Among {
                latents: &dead,
                count: dead.len(),
            });
            let select = Select::TopK {
                k: D / 2,
                scale,
                among,
            };
            let second = Pick {
                select,
                codes: &mut dead_codes,
            };
            let select = Select::TopK {
                k: K,
                scale,
                among: None,
            };
            let mut picks = [
                Pick {
                    select,
                    codes: &mut main,
                },
                second,
            ];
            self.time("3 product with both", |d| d.encode(&product, &mut picks))
                .unwrap();
            main = dead_codes;
        }
        let edges = self.device.edges(&main);
        let [mut values, mut da, mut dp] = [(); 3].map(|()| vec![0.0; edges]);
        self.time("4 activate", |d| {
            d.activate(&main, &Rule::Relu, &mut values)
        })
        .unwrap();
        let mut fired = vec![0; LATENTS];
        self.time("5 sort by latent, count", |d| {
            d.count_fired(&main, &values, &mut fired)
        })
        .unwrap();
        // Kept from round to round: a step does not pay for fresh memory either.
        let [mut out, mut g] = std::mem::take(&mut self.rows);
        let base = Base::Row(&b_dec);
        let decode = Decode {
            codes: &main,
            values: &values,
            w_dec,
            d_out: D,
            base,
        };
        let prefixes = [Prefix {
            width: LATENTS,
            scale: 0.1,
        }];
        let work = Reconstruct {
            decode,
            target: Target::Rows(product.x),
            prefixes: &prefixes,
        };
        let to = Reconstruction {
            out: Some(&mut out),
            grad: &mut g,
            dots: &mut da,
        };
        self.time("6 reconstruct", |d| d.reconstruct(&work, to))
            .unwrap();
        let mut grads = EdgeGrads::only(&mut dp);
        self.time("7 activate backward", |d| {
            d.activate_backward(&main, &Rule::Relu, &Penalty::None, None, &da, &mut grads)
        })
        .unwrap();
        let [mut dw_dec, mut dw_enc, mut m, mut v] = std::mem::take(&mut self.weights);
        let outer = |values, rows, center| OuterGrad {
            codes: &main,
            values,
            rows: Rows::of(rows, TOKENS),
            prefixes: &[],
            center,
            d: D,
            scale: 1.0,
            accumulate: aux,
        };
        let work = outer(&values, &g, None);
        self.time("8 gradient of w_dec", |d| d.outer_grad(&work, &mut dw_dec))
            .unwrap();
        let work = outer(&dp, x, Some(&b_dec));
        self.time("8 gradient of w_enc", |d| d.outer_grad(&work, &mut dw_enc))
            .unwrap();
        let mut sums = vec![0.0; LATENTS];
        self.time("8 gradient of b_enc", |d| {
            d.latent_sums(&main, &dp, &mut sums, false)
        })
        .unwrap();
        let mut row = vec![0.0; D];
        self.time("8 gradient of b_dec", |d| {
            d.column_sums(Rows::of(&g, TOKENS), D, &mut row, false)?;
            d.add_matvec_t(w_enc, LATENTS, D, &sums, -1.0, &mut row)
        })
        .unwrap();
        self.time("9 norm of both gradients", |d| {
            d.sum_squares(&[(&dw_enc, LATENTS * D), (&dw_dec, LATENTS * D)])
        })
        .unwrap();
        let step = AdamStep {
            lr: 1e-4,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            decay: 0.0,
            correction1: 0.1,
            correction2: 0.001,
            grad_scale: 1.0,
        };
        self.time("9 Adam, one of two", |d| {
            d.adam(&step, w_dec, &dw_dec, &mut m, &mut v)
        })
        .unwrap();
        self.rows = [out, g];
        self.weights = [dw_dec, dw_enc, m, v];
    }
}

fn noise(len: usize, mut state: u32) -> Vec<f32> {
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| (0..4).map(|_| uniform()).sum()).collect()
}

/// Processor time of this thread.
fn on_cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

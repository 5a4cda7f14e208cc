//! Properties of training that the golden files do not cover.

mod folding;
mod gradients;
mod safety;
mod shapes;
mod training;

use super::spec::{JumpRelu, Pool, SaeSpec, Sparsity, TopK, Variant};
use super::{Batch, OptimSpec, Outcome, SaeTrainer, Sample, StateTensor, StepReport};
use crate::device::reference::Reference;
use crate::device::sae::SaeOps;
use crate::device::{Device, Real};
use crate::domain::random::Stream;
use crate::domain::schedule::StepSettings;

const D: usize = 8;
const F: usize = 24;
const TOKENS: usize = 30;

const SETTINGS: StepSettings = StepSettings {
    lr: 3e-3,
    sparsity: 1.0,
    k: None,
};

/// One spec of every variant, with coefficients that make all their terms matter.
fn specs() -> Vec<SaeSpec> {
    let topk = |pool| TopK::new(4.0, pool);
    let jump = |penalty| JumpRelu {
        bandwidth: 0.5,
        init_threshold: 0.05,
        ..JumpRelu::new(penalty, 0.05)
    };
    let variants = [
        Variant::Standard {
            l1_coefficient: 0.05,
        },
        Variant::TopK(topk(Pool::Token)),
        Variant::TopK(topk(Pool::Batch)),
        Variant::TopK(TopK {
            widths: vec![6, 13, F],
            ..topk(Pool::Batch)
        }),
        Variant::JumpRelu(jump(Sparsity::Step)),
        Variant::JumpRelu(JumpRelu {
            ste_to_input: true,
            ..jump(Sparsity::Quadratic { target_l0: 5.0 })
        }),
        Variant::JumpRelu(JumpRelu {
            pre_act_coefficient: 0.1,
            ..jump(Sparsity::Tanh { scale: 4.0 })
        }),
        Variant::Gated {
            l1_coefficient: 0.05,
        },
    ];
    let spec = |variant| SaeSpec {
        decoder_norm: 0.5,
        // Some latents die within a few steps of 30 tokens.
        dead_after: 50,
        ..SaeSpec::new(F, variant)
    };
    variants.into_iter().map(spec).collect()
}

/// Tokens that are sparse sums of a few fixed directions; `step` chooses which.
fn activations<R: Real>(step: u64, tokens: usize, d: usize) -> Vec<R> {
    let directions = Stream::new(7, "directions");
    let mut values = vec![0.0; tokens * d];
    for (b, row) in values.chunks_exact_mut(d).enumerate() {
        let draw = Stream::new(8, "draws").child(step).child(b as u64);
        for term in 0..3 {
            let (direction, size) = (draw.at(2 * term) % 12, draw.uniform(2 * term + 1));
            for (c, v) in row.iter_mut().enumerate() {
                let at = direction * d as u64 + c as u64;
                *v += (0.5 + size) * (directions.uniform(at) - 0.4);
            }
        }
    }
    values.into_iter().map(R::from_f64).collect()
}

fn trainer<D: SaeOps>(device: &D, spec: &SaeSpec, optim: &OptimSpec) -> SaeTrainer<D> {
    let x = activations(1000, TOKENS, self::D);
    let sample = Sample {
        x: &x,
        target: None,
    };
    let d = self::D;
    SaeTrainer::new(device, spec, optim, d, d, 5, sample).unwrap()
}

/// Steps `from .. to`, each on its own batch.
fn train<D: SaeOps>(
    device: &D,
    trainer: &mut SaeTrainer<D>,
    from: u64,
    to: u64,
    micro: usize,
) -> Vec<StepReport> {
    let step = |step| {
        let x = device.upload(&activations(step, TOKENS, self::D)).unwrap();
        let batch = Batch {
            x: &x,
            target: None,
            tokens: TOKENS,
        };
        match trainer.step(device, &batch, micro, &SETTINGS).unwrap() {
            Outcome::Done(report) => report,
            other => panic!("step {step}: {other:?}"),
        }
    };
    (from..to).map(step).collect()
}

fn tensor<R: Real>(state: &[StateTensor<'_>], name: &str) -> Vec<R> {
    let tensor = state.iter().find(|t| t.name == name).unwrap();
    let values = tensor.bytes.chunks_exact(size_of::<R>());
    values.map(bytemuck::pod_read_unaligned).collect()
}

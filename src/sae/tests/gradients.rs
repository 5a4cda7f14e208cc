//! Gradients against central differences of the loss, for what the golden files lack.

use super::*;
use crate::sae::params::Name;

const D_OUT: usize = 5;

struct Case {
    spec: SaeSpec,
    d_out: usize,
    x: Vec<f64>,
    target: Option<Vec<f64>>,
    /// Latents that are dead.
    dead: bool,
}

impl Case {
    fn new(mut spec: SaeSpec, transcoder: bool, skip: bool, dead: bool) -> Self {
        spec.target = transcoder.then(|| "blocks.0.hook_mlp_out".to_owned());
        spec.skip = skip;
        let d_out = if transcoder { D_OUT } else { D };
        Self {
            spec,
            d_out,
            x: activations(1, 9, D),
            target: transcoder.then(|| activations(2, 9, D_OUT)),
            dead,
        }
    }

    fn batch(&self) -> Batch<'_, Vec<f64>> {
        Batch {
            x: &self.x,
            target: self.target.as_ref(),
            tokens: 9,
        }
    }

    /// A trainer whose every parameter has a generic value.
    fn trainer(&self, device: &Reference<f64>) -> SaeTrainer<Reference<f64>> {
        let optim = OptimSpec::default();
        let (spec, sample) = (&self.spec, Sample::EMPTY);
        let mut trainer = SaeTrainer::new(device, spec, &optim, D, self.d_out, 5, sample).unwrap();
        for (name, values) in trainer.params.each_mut() {
            let noise = Stream::new(3, name.as_str());
            for (i, v) in values.iter_mut().enumerate() {
                *v += 0.3 * (noise.uniform(i as u64) - 0.5);
                if name == Name::Threshold {
                    *v = v.abs();
                }
            }
        }
        if self.dead {
            let counters: Vec<u32> = (0..F as u32).map(|j| j % 2 * 1000).collect();
            trainer.dead.set_counters(&counters);
        }
        trainer
    }
}

fn check(case: &Case) {
    const H: f64 = 1e-6;
    let device = Reference::<f64>::new();
    let mut trainer = case.trainer(&device);
    let loss = |trainer: &mut SaeTrainer<_>| {
        let batch = case.batch();
        let losses = trainer.gradients(&device, &batch, 4, &SETTINGS).unwrap();
        losses.total()
    };
    loss(&mut trainer);
    let grads = trainer.grads.clone();
    for (at, (name, grad)) in grads.each().enumerate() {
        let mut matters = false;
        for (i, expected) in grad.iter().enumerate() {
            let mut moved = |by: f64| {
                let (_, values) = trainer.params.each_mut().nth(at).unwrap();
                values[i] += by;
                let value = loss(&mut trainer);
                let (_, values) = trainer.params.each_mut().nth(at).unwrap();
                values[i] -= by;
                value
            };
            let slope = (moved(H) - moved(-H)) / (2.0 * H);
            let error = (slope - expected).abs() / expected.abs().max(1e-2);
            let what = format!("{:?}: {}[{i}]", case.spec.variant, name.as_str());
            assert!(error < 1e-5, "{what}: {expected}, but the slope is {slope}");
            matters |= *expected != 0.0;
        }
        assert!(
            matters,
            "{:?}: {} gets no gradient",
            case.spec,
            name.as_str()
        );
    }
}

/// Specs whose gradients are true ones: AuxK's residual and JumpReLU's rectangle are not.
fn smooth_specs() -> Vec<SaeSpec> {
    let mut specs = specs();
    specs.retain_mut(|spec| match &mut spec.variant {
        Variant::TopK(topk) => {
            topk.aux_coefficient = 0.0;
            true
        }
        Variant::JumpRelu(jump) => {
            // The pre-activation loss alone moves the thresholds then.
            jump.bandwidth = 1e-12;
            jump.pre_act_coefficient > 0.0
        }
        Variant::Standard { .. } | Variant::Gated { .. } => true,
    });
    specs
}

#[test]
fn of_autoencoders() {
    for spec in smooth_specs() {
        check(&Case::new(spec, false, false, true));
    }
}

#[test]
fn of_transcoders() {
    for spec in smooth_specs() {
        check(&Case::new(spec, true, false, true));
    }
}

#[test]
fn of_skip_transcoders() {
    for spec in smooth_specs() {
        check(&Case::new(spec, true, true, true));
    }
}

/// AuxK's target is a constant: what it adds to the gradient of the encoder is the
/// slope of its own loss with the residual held.
#[test]
fn auxk_trains_the_dead_latents_of_a_transcoder_and_nothing_else() {
    let device = Reference::<f64>::new();
    let mut spec = specs()[1].clone();
    let with = Case::new(spec.clone(), true, true, true);
    if let Variant::TopK(topk) = &mut spec.variant {
        topk.aux_coefficient = 0.0;
    }
    let without = Case::new(spec, true, true, true);
    let grads = |case: &Case| {
        let mut trainer = case.trainer(&device);
        let batch = case.batch();
        trainer.gradients(&device, &batch, 9, &SETTINGS).unwrap();
        trainer.grads.clone()
    };
    let (with, without) = (grads(&with), grads(&without));
    assert_eq!(with.b_dec, without.b_dec);
    assert_eq!(with.w_skip, without.w_skip);
    let mut moved = [false; F];
    for (j, moved) in moved.iter_mut().enumerate() {
        let differs = |a: &[f64], b: &[f64], d: usize| a[j * d..][..d] != b[j * d..][..d];
        *moved = differs(&with.w_enc, &without.w_enc, D);
        assert_eq!(*moved, differs(&with.w_dec, &without.w_dec, D_OUT));
        assert!(!*moved || j % 2 == 1, "latent {j} is alive");
    }
    assert!(moved.iter().filter(|m| **m).count() >= D / 2);
}

use super::*;
use crate::sae::spec::Normalize;
use crate::sae::{Activation, Inference};

const D_OUT: usize = 5;

fn norm(row: &[f32]) -> f32 {
    row.iter().map(|v| v * v).sum::<f32>().sqrt()
}

/// What the folded SAE makes of the batch, next to what training made of it, in the
/// model's units.
fn both(mut spec: SaeSpec, transcoder: bool, rescale: bool) {
    let device = Reference::<f32>::new();
    spec.normalize = Normalize::MeanNorm;
    spec.target = transcoder.then(|| "blocks.0.hook_mlp_out".to_owned());
    spec.skip = transcoder;
    if let Variant::TopK(topk) = &mut spec.variant {
        topk.rescale = rescale;
    }
    let d_out = if transcoder { D_OUT } else { D };
    let scaled =
        |values: Vec<f32>, by: f32| -> Vec<f32> { values.iter().map(|v| v * by).collect() };
    let x = scaled(activations(4, TOKENS, D), 3.0);
    let target = scaled(activations(5, TOKENS, D_OUT), 0.2);
    let sample = Sample {
        x: &x,
        target: transcoder.then_some(&target[..]),
    };
    let optim = OptimSpec::default();
    let mut trainer = SaeTrainer::new(&device, &spec, &optim, D, d_out, 5, sample).unwrap();
    let batch = Batch {
        x: &x,
        target: transcoder.then_some(&target),
        tokens: TOKENS,
    };
    for _ in 0..20 {
        trainer.step(&device, &batch, TOKENS, &SETTINGS).unwrap();
    }
    trainer
        .gradients(&device, &batch, TOKENS, &SETTINGS)
        .unwrap();
    let trained = trainer.outputs(&device).unwrap();

    let folded = trainer.fold(&device).unwrap();
    let keeps_norms = matches!(&spec.variant, Variant::TopK(_)) && !rescale;
    for row in folded.w_dec.chunks_exact(d_out) {
        assert!(keeps_norms || (norm(row) - 1.0).abs() < 1e-5);
    }
    let mut inference = Inference::new(&device, &folded).unwrap();
    let mut fired = vec![0; F];
    let (out, active) = inference
        .reconstruct(&device, &x, TOKENS, &mut fired)
        .unwrap();
    assert_eq!(fired.iter().sum::<u64>(), active);

    if let Activation::BatchTopK { threshold, .. } = &folded.activation {
        // Outside a batch, a threshold stands in for the choice.
        let per_token = active as f64 / TOKENS as f64;
        assert!(
            *threshold > 0.0 && (1.0..10.0).contains(&per_token),
            "{per_token}"
        );
        let least = inference.values().iter().copied().fold(f32::MAX, f32::min);
        assert!(least > *threshold);
        return;
    }
    let scale = trainer.scales[1] as f32;
    let size = norm(&out);
    let difference: Vec<f32> = (out.iter().zip(&trained.out))
        .map(|(out, trained)| out - trained / scale)
        .collect();
    let error = norm(&difference) / size;
    assert!(error < 1e-5, "{spec:?}: {error}");
    let trained_active = trained.values.iter().filter(|a| **a != 0.0).count();
    assert_eq!(active, trained_active as u64, "{spec:?}");
}

#[test]
fn a_folded_sae_reconstructs_as_the_trained_one_did() {
    for spec in specs() {
        both(spec.clone(), false, true);
        both(spec, false, false);
    }
}

#[test]
fn a_folded_skip_transcoder_reconstructs_as_the_trained_one_did() {
    for spec in specs() {
        both(spec, true, true);
    }
}

//! What decides an SAE's parameters, and where its widths come from.

use super::*;
use crate::sae::params::{Dims, Name};
use crate::sae::spec::Normalize;

/// behaviour: train-07
#[test]
fn the_variant_decides_the_parameters_and_their_start() {
    let device = Reference::<f32>::new();
    for spec in specs() {
        let trainer = trainer(&device, &spec, &OptimSpec::default());
        let state = trainer.state(&device).unwrap();
        let shape = |name: &str| {
            let tensor = state.iter().find(|t| t.name == name);
            tensor.map(|t| t.shape.clone())
        };
        assert_eq!(shape("param.w_enc"), Some(vec![F, D]), "{spec:?}");
        assert_eq!(shape("param.w_dec"), Some(vec![F, D]), "{spec:?}");
        assert_eq!(shape("param.b_enc"), Some(vec![F]), "{spec:?}");
        assert_eq!(shape("param.b_dec"), Some(vec![D]), "{spec:?}");
        let jumps = matches!(spec.variant, Variant::JumpRelu(_));
        let gates = matches!(spec.variant, Variant::Gated { .. });
        assert_eq!(shape("param.threshold").is_some(), jumps, "{spec:?}");
        assert_eq!(shape("param.r_mag").is_some(), gates, "{spec:?}");
        assert_eq!(shape("param.b_mag").is_some(), gates, "{spec:?}");
        for row in tensor::<f32>(&state, "param.w_dec").chunks_exact(D) {
            let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            assert!((norm - 0.5).abs() < 1e-5, "{spec:?}");
        }
        if jumps {
            let thresholds = tensor::<f32>(&state, "param.threshold");
            assert_eq!(thresholds, [0.05; F], "{spec:?}");
        }
    }
}

/// The widths of a common size, as the tensors themselves have them.
///
/// behaviour: engine-11
#[test]
fn widths_are_those_of_the_tensors() {
    let dims = Dims {
        d_in: 768,
        d_out: 768,
        d_sae: 16384,
    };
    let device = Reference::<f32>::new();
    let spec = SaeSpec {
        normalize: Normalize::None,
        ..SaeSpec::new(dims.d_sae, Variant::TopK(TopK::new(32.0, Pool::Token)))
    };
    let x = activations(0, 2, dims.d_in);
    let sample = Sample {
        x: &x,
        target: None,
    };
    let (d_in, optim) = (dims.d_in, OptimSpec::default());
    let trainer = SaeTrainer::new(&device, &spec, &optim, d_in, d_in, 5, sample).unwrap();
    assert_eq!(trainer.dims(), dims);
    for (name, buffer) in trainer.params().each() {
        assert_eq!(device.len(buffer), dims.len(name), "{name:?}");
    }
    assert_eq!(dims.shape(Name::WEnc), [16384, 768]);
}

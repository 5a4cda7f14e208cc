//! From a few steps of training to an export that computes what evaluation measured.

use super::*;
use backpropd::checkpoint::export::Metadata;
use backpropd::device::Device;
use backpropd::device::reference::Reference;
use backpropd::domain::schedule::StepSettings;
use backpropd::sae::params::Dims;
use backpropd::sae::spec::{JumpRelu, Normalize, Pool, Sparsity, TopK, Variant};
use backpropd::sae::{
    Activation, Batch, Folded, Inference, OptimSpec, SaeSpec, SaeTrainer, Sample,
};
use samples::{D_IN, D_SAE};

const TOKENS: usize = 40;
const D_OUT: usize = 7;

fn variants() -> Vec<Variant> {
    let topk = |pool, rescale, widths: &[usize]| {
        Variant::TopK(TopK {
            rescale,
            widths: widths.to_vec(),
            ..TopK::new(4.0, pool)
        })
    };
    let l1_coefficient = 0.02;
    vec![
        Variant::Standard { l1_coefficient },
        topk(Pool::Token, true, &[]),
        topk(Pool::Token, false, &[]),
        topk(Pool::Batch, true, &[]),
        topk(Pool::Batch, true, &[4, 9, D_SAE]),
        Variant::JumpRelu(JumpRelu::new(Sparsity::Step, 0.01)),
        Variant::Gated { l1_coefficient },
    ]
}

/// behaviour: train-13
#[test]
fn an_export_computes_what_evaluation_measured() {
    let device = Reference::<f32>::new();
    let mut noise = Noise(41);
    for variant in variants() {
        for transcoder in [false, true] {
            let d_out = if transcoder { D_OUT } else { D_IN };
            let spec = SaeSpec {
                target: transcoder.then(|| "blocks.0.hook_mlp_out".to_owned()),
                skip: transcoder,
                normalize: Normalize::MeanNorm,
                ..SaeSpec::new(D_SAE, variant.clone())
            };
            let x = noise.array(TOKENS * D_IN, 3.0);
            let target = noise.array(TOKENS * D_OUT, 0.4);
            let target = transcoder.then_some(&target);
            let sample = Sample {
                x: &x,
                target: target.map(Vec::as_slice),
            };
            let optim = OptimSpec::default();
            let mut trainer =
                SaeTrainer::new(&device, &spec, &optim, D_IN, d_out, 5, sample).unwrap();
            let buf = device.upload(&x).unwrap();
            let target = target.map(|t| device.upload(t).unwrap());
            let batch = Batch {
                x: &buf,
                target: target.as_ref(),
                tokens: TOKENS,
            };
            let settings = StepSettings {
                lr: 3e-3,
                sparsity: 1.0,
                k: None,
            };
            for _ in 0..10 {
                trainer.step(&device, &batch, TOKENS, &settings).unwrap();
            }

            let folded = trainer.fold(&device).unwrap();
            let mut inference = Inference::new(&device, &folded).unwrap();
            let mut fired = vec![0; D_SAE];
            let (want, active) = inference
                .reconstruct(&device, &x, TOKENS, &mut fired)
                .unwrap();
            let sae = ExportedSae::from_folded(folded, &spec, Metadata::default()).unwrap();
            let mut got = Vec::new();
            let mut positive = 0;
            for x in x.chunks(D_IN) {
                let (a, y) = apply(&sae, x);
                positive += a.iter().filter(|a| **a > 0.0).count();
                got.extend(y);
            }
            let what = format!("{variant:?}");
            close(&got, &want, 1e-4, &what);
            assert_eq!(positive as u64, active, "{what}");
            assert!(active > 0, "{what}");

            let dir = tempfile::tempdir().unwrap();
            for outcome in write_all(&sae, place(dir.path())).unwrap() {
                if let Outcome::Written(Format::SaeLens, folder) = outcome {
                    let back = saelens::load(&folder).unwrap();
                    assert_eq!(back.w_dec, sae.w_dec);
                }
            }
        }
    }
}

#[test]
fn a_latent_without_a_direction_is_exported_silent_so_that_loaders_can_divide_by_its_length() {
    let spec = SaeSpec::new(
        2,
        Variant::Standard {
            l1_coefficient: 0.1,
        },
    );
    let folded = Folded {
        dims: Dims {
            d_in: 2,
            d_out: 2,
            d_sae: 2,
        },
        w_enc: vec![1.0, 2.0, 3.0, 4.0],
        b_enc: vec![0.5, 0.5],
        w_dec: vec![0.0, 0.0, 0.6, 0.8],
        b_dec: vec![0.0, 1.0],
        w_skip: None,
        subtract_b_dec: true,
        activation: Activation::Relu,
    };
    let sae = ExportedSae::from_folded(folded, &spec, Metadata::default()).unwrap();
    assert_eq!(sae.w_dec, [1.0, 0.0, 0.6, 0.8]);
    assert_eq!((sae.w_enc[..2].to_vec(), sae.b_enc[0]), (vec![0.0; 2], 0.0));
    assert_eq!(apply(&sae, &[1.0, 1.0]).0, [0.0, 3.5]);
}

//! Measures whose values are known beforehand, on a small language model.

use super::*;
use crate::device::cpu::Cpu;
use std::path::Path;

/// x̂ = factor·x; latent 0 fires on every token, latent 1 never.
struct Scaled(f32);

impl Autoencoder<Cpu> for Scaled {
    fn d_sae(&self) -> usize {
        2
    }

    fn reconstruct(
        &mut self,
        _: &Cpu,
        x: &[f32],
        rows: usize,
        fired: &mut [u64],
    ) -> Result<(Vec<f32>, u64)> {
        fired[0] += rows as u64;
        Ok((x.iter().map(|v| v * self.0).collect(), rows as u64))
    }
}

fn contexts() -> Vec<Context> {
    (0..5u32)
        .map(|n| {
            let ids: Vec<u32> = (0..12u32)
                .map(|at| (n * 131 + at * at * 7 + 3) % 512)
                .collect();
            let mut valid = [true; 12];
            valid[0] = false;
            Context::new(u64::from(n), ids, &valid)
        })
        .collect()
}

fn measure(factor: f32, lm_batch: usize) -> SiteValidation {
    let device = Cpu::new(2);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/lm/gpt2");
    let mut lm = Lm::load(&device, &folder).unwrap();
    let hook = lm.spec().hook("blocks.1.hook_resid_post").unwrap();
    let contexts = contexts();
    let held_out = HeldOut {
        contexts: &contexts,
        lm_batch,
    };
    let sites = [Site { hook, target: hook }];
    let mut seen = Vec::new();
    let measured = evaluate(
        &device,
        &mut lm,
        &held_out,
        &sites,
        &mut [&mut Scaled(factor)],
        &mut |done, total| {
            seen.push((done, total));
            Ok(())
        },
    )
    .unwrap();
    let passes = contexts.len().div_ceil(lm_batch) as u64 * 4;
    assert_eq!(seen, (1..=passes).map(|n| (n, passes)).collect::<Vec<_>>());
    let Measured {
        mut validation,
        frequencies,
    } = measured;
    let fires = |latent: usize| f64::from(frequencies[0][latent]) * 55.0;
    let active = validation.sites[0].l0 * 55.0;
    let sum: f64 = (0..frequencies[0].len()).map(fires).sum();
    assert!((sum - active).abs() < 1e-4, "{sum} {active}");
    assert_eq!(
        validation.tokens,
        5 * 11,
        "the first position is not trained on"
    );
    validation.sites.remove(0)
}

#[test]
fn a_perfect_reconstruction_recovers_everything() {
    let s = measure(1.0, 2);
    assert_eq!(s.ce_sae, s.ce_clean);
    assert_eq!(
        (s.ce_recovered, s.ce_recovered_mean),
        (Some(1.0), Some(1.0))
    );
    assert_eq!((s.explained_variance, s.l0, s.dead), (1.0, 1.0, 1));
    assert!((s.cosine - 1.0).abs() < 1e-12);
    assert_eq!(s.density_counts.iter().sum::<u64>(), 1);
}

#[test]
fn zeros_are_the_zero_ablation_and_explain_less_than_nothing() {
    let s = measure(0.0, 5);
    assert_eq!(s.ce_sae, s.ce_zero);
    assert_eq!(s.ce_recovered, Some(0.0));
    assert!(s.explained_variance <= 0.0 && s.cosine == 0.0);
    assert_ne!(s.ce_zero, s.ce_clean);
    assert_ne!(s.ce_mean, s.ce_zero);
}

#[test]
fn half_of_the_activation_has_a_known_error() {
    let (s, whole) = (measure(0.5, 1), measure(0.0, 1));
    // FVU is quadratic in the factor: (1 − ½)² of that of zeros.
    let fvu = 1.0 - s.explained_variance;
    let zeros = 1.0 - whole.explained_variance;
    assert!((fvu - zeros / 4.0).abs() < 1e-9);
    assert!((s.cosine - 1.0).abs() < 1e-6);
}

#[test]
fn measures_do_not_depend_on_how_contexts_are_batched() {
    let (one, five) = (measure(0.7, 1), measure(0.7, 5));
    for (a, b) in [
        (one.ce_clean, five.ce_clean),
        (one.ce_sae, five.ce_sae),
        (one.ce_mean, five.ce_mean),
        (one.explained_variance, five.explained_variance),
    ] {
        assert!((a - b).abs() <= 1e-12 * a.abs(), "{a} {b}");
    }
}

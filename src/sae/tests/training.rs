use super::super::optim::DecoderNorm;
use super::*;
use crate::device::cpu::Cpu;

/// Micro-batches of 7 do not divide a batch of 30; chosen latents, losses, gradients and
/// parameters are those of the whole batch all the same.
///
/// behaviour: engine-02
#[test]
fn accumulation_over_micro_batches_equals_the_large_batch() {
    fn check<D: SaeOps>(device: &D, tolerance: f64) {
        for spec in specs() {
            let mut whole = trainer(device, &spec, &OptimSpec::default());
            let mut parts = trainer(device, &spec, &OptimSpec::default());
            let a = train(device, &mut whole, 0, 6, TOKENS);
            let b = train(device, &mut parts, 0, 6, 7);
            for (a, b) in a.iter().zip(&b) {
                let close = |x: f64, y: f64| (x - y).abs() <= tolerance * x.abs();
                assert!(close(a.loss, b.loss), "{spec:?}: {a:?} {b:?}");
                assert!(close(a.grad_norm, b.grad_norm), "{spec:?}: {a:?} {b:?}");
                assert_eq!((a.l0, a.dead), (b.l0, b.dead), "{spec:?}");
            }
            let (a, b) = (whole.state(device).unwrap(), parts.state(device).unwrap());
            for name in ["param.w_enc", "param.w_dec", "param.b_dec", "adam.v.w_enc"] {
                let (a, b): (Vec<D::Real>, Vec<D::Real>) = (tensor(&a, name), tensor(&b, name));
                let largest = a.iter().fold(0.0, |m: f64, v| m.max(v.to_f64().abs()));
                for (a, b) in a.iter().zip(&b) {
                    let error = (a.to_f64() - b.to_f64()).abs() / largest;
                    assert!(error <= tolerance, "{spec:?}: {name}: {error:e}");
                }
            }
        }
    }
    check(&Reference::<f64>::new(), 1e-10);
    check(&Reference::<f32>::new(), 1e-4);
    check(&Cpu::new(2), 1e-4);
}

#[test]
fn every_variant_learns_to_reconstruct() {
    let device = Cpu::new(2);
    for spec in specs() {
        let mut trainer = trainer(&device, &spec, &OptimSpec::default());
        let reports = train(&device, &mut trainer, 0, 150, TOKENS);
        let first = reports[0].explained_variance;
        let last = reports.last().unwrap();
        let explained = last.explained_variance;
        assert!(explained > 0.7 && explained > first, "{spec:?}: {last:?}");
        assert!((last.fvu - (1.0 - explained)).abs() < 1e-12);
        assert!(last.l0 > 0.5 && last.l0 < F as f64, "{spec:?}: {last:?}");
    }
}

#[test]
fn a_unit_norm_decoder_stays_one_and_its_gradient_leaves_the_rows_length_alone() {
    let device = Reference::<f64>::new();
    let optim = OptimSpec {
        decoder: DecoderNorm::Unit,
        ..OptimSpec::default()
    };
    for spec in specs() {
        let mut trainer = trainer(&device, &spec, &optim);
        train(&device, &mut trainer, 0, 5, TOKENS);
        for row in trainer.params().w_dec.chunks_exact(D) {
            let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
            assert!((norm - 1.0).abs() < 1e-12, "{spec:?}: {norm}");
        }
        // The moments are sums of projected gradients, which were orthogonal to rows that
        // have moved since by a few per cent.
        let mut fresh = super::trainer(&device, &spec, &optim);
        let before = fresh.params().w_dec.clone();
        train(&device, &mut fresh, 0, 1, TOKENS);
        let m: Vec<f64> = tensor(&fresh.state(&device).unwrap(), "adam.m.w_dec");
        for (w, m) in before.chunks_exact(D).zip(m.chunks_exact(D)) {
            let dot: f64 = w.iter().zip(m).map(|(w, m)| w * m).sum();
            assert!(dot.abs() < 1e-12, "{spec:?}: {dot}");
        }
    }
}

#[test]
fn clipping_leaves_the_gradients_direction_and_limits_its_length() {
    let device = Reference::<f64>::new();
    let spec = &specs()[0];
    let first_moment = |clip_norm| {
        let optim = OptimSpec {
            clip_norm,
            beta1: 0.0,
            ..OptimSpec::default()
        };
        let mut trainer = trainer(&device, spec, &optim);
        let report = train(&device, &mut trainer, 0, 1, TOKENS).remove(0);
        let state = trainer.state(&device).unwrap();
        let m: Vec<f64> = tensor(&state, "adam.m.w_enc");
        (m, report.grad_norm)
    };
    let (free, norm) = first_moment(0.0);
    let (clipped, same) = first_moment(norm / 4.0);
    let (loose, _) = first_moment(norm * 4.0);
    assert_eq!(norm, same, "the norm before clipping is what is reported");
    assert_eq!(free, loose);
    for (free, clipped) in free.iter().zip(&clipped) {
        assert!((free / 4.0 - clipped).abs() <= 1e-5 * free.abs());
    }
}

#[test]
fn k_follows_its_schedule() {
    let device = Reference::<f32>::new();
    for spec in specs() {
        let Variant::TopK(topk) = &spec.variant else {
            continue;
        };
        let mut trainer = trainer(&device, &spec, &OptimSpec::default());
        let x = device.upload(&activations(0, TOKENS, D)).unwrap();
        for k in [8.0, 6.0, 4.0] {
            let settings = StepSettings {
                k: Some(k),
                ..SETTINGS
            };
            let batch = Batch {
                x: &x,
                target: None,
                tokens: TOKENS,
            };
            let (whole, set) = (TOKENS, &settings);
            trainer.gradients(&device, &batch, whole, set).unwrap();
            let edges = trainer.outputs(&device).unwrap().codes.pre.len();
            match topk.pool {
                Pool::Token => assert_eq!(edges, k as usize * TOKENS),
                Pool::Batch => assert!(edges <= k as usize * TOKENS && edges > TOKENS),
            }
        }
    }
}

#[test]
fn the_batch_threshold_is_a_running_mean_of_the_least_chosen_activation() {
    let device = Reference::<f64>::new();
    let spec = &specs()[2];
    let mut trainer = trainer(&device, spec, &OptimSpec::default());
    let mut expected: Option<f64> = None;
    for step in 0..3 {
        let norm = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>().sqrt();
        let norms: Vec<f64> = trainer.params().w_dec.chunks_exact(D).map(norm).collect();
        train(&device, &mut trainer, step, step + 1, TOKENS);
        let codes = trainer.outputs(&device).unwrap().codes;
        let keys = codes.pre.iter().zip(&codes.latent);
        let least = keys
            .map(|(p, &j)| p * norms[j as usize])
            .fold(f64::INFINITY, f64::min);
        let new = expected.map_or(least, |old| 0.99 * old + 0.01 * least);
        let theta: Vec<f64> = tensor(&trainer.state(&device).unwrap(), "theta");
        assert!((theta[0] - new).abs() < 1e-12, "{theta:?} {new}");
        expected = Some(new);
    }
}

#[test]
fn dead_latents_are_counted_in_tokens_and_revived_by_firing() {
    let device = Reference::<f32>::new();
    let mut spec = specs()[1].clone();
    spec.dead_after = 2 * TOKENS as u64;
    let mut trainer = trainer(&device, &spec, &OptimSpec::default());
    let reports = train(&device, &mut trainer, 0, 2, TOKENS);
    assert_eq!((reports[0].dead, reports[1].dead), (0, 0));
    let codes = trainer.outputs(&device).unwrap();
    let fired: Vec<u32> = (codes.codes.latent.iter().zip(&codes.values))
        .filter(|(_, a)| **a > 0.0)
        .map(|(j, _)| *j)
        .collect();
    assert!(trainer.dead().iter().all(|j| !fired.contains(j)));
    let counters: Vec<f32> = tensor(&trainer.state(&device).unwrap(), "since_fired");
    for j in 0..F as u32 {
        let since = counters[j as usize].to_bits();
        assert!(since.is_multiple_of(TOKENS as u32));
        assert_eq!(since == 0, fired.contains(&j));
        assert_eq!(trainer.dead().contains(&j), since >= 2 * TOKENS as u32);
    }
}

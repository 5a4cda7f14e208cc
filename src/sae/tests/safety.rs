use super::*;
use crate::device::cpu::Cpu;
use crate::domain::Code;

fn same(a: &[StateTensor<'_>], b: &[StateTensor<'_>]) -> bool {
    // Bytes, so that NaN equals itself.
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b)
}

/// behaviour: engine-03
#[test]
fn a_restored_trainer_does_the_same_next_steps_bit_for_bit() {
    restore(&Cpu::new(1), &Cpu::new(3));
    restore(&Reference::<f32>::new(), &Reference::new());
}

/// On `other`, the same backend with another number of threads.
fn restore<D: SaeOps>(device: &D, other: &D) {
    for mut spec in specs() {
        spec.resample_every = 4;
        spec.normalize = crate::sae::spec::Normalize::MeanNorm;
        let optim = OptimSpec::default();
        let mut first = trainer(device, &spec, &optim);
        train(device, &mut first, 0, 5, TOKENS);
        let saved = first.state(device).unwrap();
        let reports = train(device, &mut first, 5, 10, 11);

        let (d, empty) = (self::D, Sample::EMPTY);
        let mut second = SaeTrainer::new(other, &spec, &optim, d, d, 5, empty).unwrap();
        // It has a past of its own, which must leave nothing behind.
        train(other, &mut second, 20, 22, TOKENS);
        second.load_state(other, &saved).unwrap();
        assert!(same(&second.state(other).unwrap(), &saved), "{spec:?}");
        let again = train(other, &mut second, 5, 10, 11);
        assert_eq!(reports, again, "{spec:?}");
        let (a, b) = (first.state(device).unwrap(), second.state(other).unwrap());
        assert!(same(&a, &b), "{spec:?}");
    }
}

#[test]
fn a_state_of_another_shape_is_refused_by_name() {
    let device = Reference::<f32>::new();
    let spec = &specs()[0];
    let mut trainer = trainer(&device, spec, &OptimSpec::default());
    let state = trainer.state(&device).unwrap();
    let refused = |trainer: &mut SaeTrainer<Reference<f32>>, state: &[StateTensor<'_>]| {
        let error = trainer.load_state(&device, state).unwrap_err();
        assert_eq!(error.code, Code::CheckpointMismatch);
        error.about
    };
    let without: Vec<_> = state
        .iter()
        .filter(|t| t.name != "adam.v.w_dec")
        .cloned()
        .collect();
    assert_eq!(refused(&mut trainer, &without), "adam.v.w_dec");
    let mut other = state.clone();
    other[0].shape = vec![F, D + 1];
    assert_eq!(refused(&mut trainer, &other), "param.w_enc");
    let mut short = state.clone();
    short[1].bytes.to_mut().pop();
    assert_eq!(refused(&mut trainer, &short), "param.b_enc");
}

#[test]
fn a_number_that_is_not_finite_changes_nothing() {
    poison(&Reference::<f32>::new());
    poison(&Cpu::new(2));
}

fn poison<D: SaeOps<Real = f32>>(device: &D) {
    for mut spec in specs() {
        spec.resample_every = 1;
        let mut trainer = trainer(device, &spec, &OptimSpec::default());
        train(device, &mut trainer, 0, 3, TOKENS);
        let before = trainer.state(device).unwrap();
        let mut poisoned = activations::<f32>(3, TOKENS, self::D);
        for (value, expected) in [
            (f32::NAN, "activations"),
            (f32::INFINITY, "activations"),
            (2e38, "gradient"),
        ] {
            poisoned[TOKENS / 2 * self::D + 3] = value;
            let x = device.upload(&poisoned).unwrap();
            let batch = Batch {
                x: &x,
                target: None,
                tokens: TOKENS,
            };
            let outcome = trainer.step(device, &batch, 13, &SETTINGS).unwrap();
            let Outcome::NonFinite { what } = outcome else {
                panic!("{spec:?}: {value} went through: {outcome:?}");
            };
            assert!(
                what == expected || value == 2e38 && what == "loss",
                "{spec:?}: {value}: {what}"
            );
            let after = trainer.state(device).unwrap();
            assert!(same(&before, &after), "{spec:?}: {value}");
        }
        train(device, &mut trainer, 3, 4, TOKENS);
    }
}

#[test]
fn running_out_of_memory_changes_nothing_and_a_smaller_micro_batch_goes_on() {
    // Room for parameters, but not for the reconstruction of the whole batch.
    let small = Reference::<f32>::with_largest_buffer(F * D.max(9));
    let large = Reference::<f32>::new();
    for spec in specs() {
        let optim = OptimSpec::default();
        let (mut a, mut b) = (
            trainer(&small, &spec, &optim),
            trainer(&large, &spec, &optim),
        );
        let x = activations::<f32>(0, TOKENS, D);
        let batch = Batch {
            x: &x,
            target: None,
            tokens: TOKENS,
        };
        let before = a.state(&small).unwrap();
        let error = a.step(&small, &batch, TOKENS, &SETTINGS).unwrap_err();
        assert_eq!(error.code, Code::OutOfMemory);
        assert!(same(&before, &a.state(&small).unwrap()), "{spec:?}");
        let went_on = a.step(&small, &batch, 4, &SETTINGS).unwrap();
        assert_eq!(went_on, b.step(&large, &batch, 4, &SETTINGS).unwrap());
        let (a, b) = (a.state(&small).unwrap(), b.state(&large).unwrap());
        assert!(same(&a, &b), "{spec:?}");
    }
}

#[test]
fn resampling_gives_dead_latents_new_rows_and_clean_moments() {
    let device = Reference::<f32>::new();
    for mut spec in specs() {
        spec.resample_every = 3;
        let mut trainer = trainer(&device, &spec, &OptimSpec::default());
        train(&device, &mut trainer, 0, 2, TOKENS);
        // Two latents are dead, whatever fires.
        let mut state = trainer.state(&device).unwrap();
        for tensor in &mut state {
            if tensor.name == "since_fired" {
                let mut counters = vec![0u32; F];
                (counters[3], counters[17]) = (500, 500);
                tensor.bytes = bytemuck::cast_slice(&counters).to_vec().into();
            }
            if tensor.name == "param.b_enc" {
                let mut bias: Vec<f32> = self::tensor(std::slice::from_ref(tensor), "param.b_enc");
                (bias[3], bias[17]) = (-9.0, -9.0);
                tensor.bytes = bytemuck::cast_slice(&bias).to_vec().into();
            }
        }
        trainer.load_state(&device, &state).unwrap();
        assert_eq!(trainer.dead(), [3, 17]);
        let report = train(&device, &mut trainer, 2, 3, TOKENS).remove(0);
        assert_eq!((report.dead, report.resampled), (2, 2), "{spec:?}");

        let after = trainer.state(&device).unwrap();
        let row = |name: &str, j: usize| tensor::<f32>(&after, name)[j * D..][..D].to_vec();
        let norm = |row: &[f32]| row.iter().map(|v| v * v).sum::<f32>().sqrt();
        let mean = |name: &str| -> f32 {
            let living = (0..F).filter(|j| ![3, 17].contains(j));
            living.map(|j| norm(&row(name, j))).sum::<f32>() / (F - 2) as f32
        };
        for j in [3, 17] {
            assert_eq!(tensor::<f32>(&after, "param.b_enc")[j], 0.0);
            assert_eq!(tensor::<f32>(&after, "since_fired")[j].to_bits(), 0);
            for name in ["w_enc", "w_dec"] {
                assert_eq!(row(&format!("adam.m.{name}"), j), [0.0; D]);
                assert_eq!(row(&format!("adam.v.{name}"), j), [0.0; D]);
            }
            let (w_enc, w_dec) = (row("param.w_enc", j), row("param.w_dec", j));
            let dot: f32 = w_enc.iter().zip(&w_dec).map(|(a, b)| a * b).sum();
            let cosine = dot / norm(&w_enc) / norm(&w_dec);
            assert!((cosine - 1.0).abs() < 1e-5, "{spec:?}: {cosine}");
            // The means are those before the step, which moved the living a little.
            let (of_enc, of_dec) = (mean("param.w_enc"), mean("param.w_dec"));
            assert!((norm(&w_enc) / of_enc - 0.2).abs() < 0.01, "{spec:?}");
            assert!((norm(&w_dec) / of_dec - 1.0).abs() < 0.05, "{spec:?}");
        }
        assert_ne!(row("param.w_enc", 3), row("param.w_enc", 17));
        assert_ne!(row("adam.v.w_dec", 5), [0.0; D], "others keep theirs");
    }
}

//! Training in bf16 and fp16: overflows, the loss scale, and errors in the middle of a step.

use super::cuda_double::{emulated, gpu};
use backpropd::device::cpu::Cpu;
use backpropd::device::cuda::Cuda;
use backpropd::device::sae::SaeOps;
use backpropd::domain::schedule::StepSettings;
use backpropd::domain::{Amp, Code, Result};
use backpropd::sae::spec::{JumpRelu, Pool, SaeSpec, Sparsity, TopK, Variant};
use backpropd::sae::{Batch, Inference, OptimSpec, Outcome, SaeTrainer, Sample, StateTensor};
use std::borrow::Cow;

const D: usize = 24;
const TOKENS: usize = 40;
const SETTINGS: StepSettings = StepSettings {
    lr: 1e-3,
    sparsity: 1.0,
    k: None,
};

/// Codes are no matrix, of which nothing would be gathered.
const NEVER: f64 = f64::INFINITY;

type State = Vec<StateTensor<'static>>;

/// TopK with AuxK, whose latents die at once where they do not fire.
fn topk() -> SaeSpec {
    SaeSpec {
        dead_after: 1,
        ..SaeSpec::new(96, Variant::TopK(TopK::new(5.0, Pool::Token)))
    }
}

fn trainer<T: SaeOps>(device: &T, spec: &SaeSpec) -> SaeTrainer<T> {
    let optim = OptimSpec::default();
    SaeTrainer::new(device, spec, &optim, D, D, 3, Sample::EMPTY).unwrap()
}

/// Activations up to `size`.
fn data(step: usize, size: f32) -> Vec<f32> {
    let at = |i: usize| ((i * 7919 + step * 104_729) % 1013) as f32 / 506.5 - 1.0;
    (0..TOKENS * D).map(|i| size * at(i)).collect()
}

/// A step on the first `tokens` of a batch.
fn step<T: SaeOps<Real = f32>>(
    device: &T,
    trainer: &mut SaeTrainer<T>,
    number: usize,
    size: f32,
    tokens: usize,
) -> Result<Outcome> {
    let x = device.upload(&data(number, size))?;
    let batch = Batch {
        x: &x,
        target: None,
        tokens,
    };
    trainer.step(device, &batch, 16, &SETTINGS)
}

/// The loss and the scale of a step that moved.
fn moved(outcome: &Outcome) -> (f64, Option<f64>) {
    match outcome {
        Outcome::Done(report) => (report.loss, report.loss_scale),
        other => panic!("{other:?}"),
    }
}

fn same(a: &State, b: &State) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b)
}

/// The loss scale and its good steps.
fn scale(state: &State) -> (f64, u64) {
    let bytes = |name| {
        let tensor: Option<&StateTensor<'_>> = state.iter().find(|t| t.name == name);
        tensor.unwrap().bytes.as_ref().try_into().unwrap()
    };
    let good_steps = u64::from_le_bytes(bytes("loss_scale.good_steps"));
    (f64::from_le_bytes(bytes("loss_scale")), good_steps)
}

/// The state with another loss scale.
fn with_scale(mut state: State, scale: f64, good_steps: u64) -> State {
    for tensor in &mut state {
        match tensor.name.as_str() {
            "loss_scale" => tensor.bytes = Cow::Owned(scale.to_le_bytes().into()),
            "loss_scale.good_steps" => tensor.bytes = Cow::Owned(good_steps.to_le_bytes().into()),
            _ => {}
        }
    }
    state
}

fn fp16() -> Option<Cuda> {
    let device = gpu()?.open().with_dense_from(NEVER);
    Some(device.with_amp(Amp::Fp16).with_first(64))
}

#[test]
fn training_in_16_bits_is_close_to_that_of_the_cpu() {
    let (Some(gpu), cpu) = (gpu(), Cpu::new(1)) else {
        return;
    };
    let spec = topk();
    for (amp, most) in [(Amp::Bf16, 2e-2), (Amp::Fp16, 2e-3)] {
        let device = gpu.open().with_amp(amp).with_dense_from(NEVER);
        let (mut on_gpu, mut on_cpu) = (trainer(&device, &spec), trainer(&cpu, &spec));
        for number in 0..8 {
            let got = step(&device, &mut on_gpu, number, 0.5, TOKENS).unwrap();
            let expected = step(&cpu, &mut on_cpu, number, 0.5, TOKENS).unwrap();
            let ((got, scale), (expected, _)) = (moved(&got), moved(&expected));
            let far = (got - expected).abs() / expected;
            assert!(far < most, "{amp} {number}: {got}, expected {expected}");
            assert_eq!(scale, (amp == Amp::Fp16).then_some(65536.0));
        }
    }
}

/// behaviour: engine-05
#[test]
fn a_step_that_overflows_is_left_out_halves_the_scale_and_training_goes_on() {
    let Some(device) = fp16() else {
        return;
    };
    let mut trainer = trainer(&device, &topk());
    moved(&step(&device, &mut trainer, 0, 0.5, TOKENS).unwrap());
    let before = with_scale(trainer.state(&device).unwrap(), 16_777_216.0, 1998);
    trainer.load_state(&device, &before).unwrap();
    let mut expected = 16_777_216.0;
    let report = loop {
        match step(&device, &mut trainer, 1, 0.5, TOKENS).unwrap() {
            Outcome::Overflow { loss_scale } => {
                expected /= 2.0;
                assert_eq!(loss_scale, expected);
                let state = trainer.state(&device).unwrap();
                let halved = with_scale(before.clone(), expected, 0);
                assert!(same(&state, &halved), "nothing else changes");
            }
            other => break other,
        }
    };
    let (loss, used) = moved(&report);
    assert!(expected < 16_777_216.0, "some step overflowed");
    assert_eq!(used, Some(expected));
    let after = trainer.state(&device).unwrap();
    assert_eq!(scale(&after), (expected, 1));
    for number in 2..5 {
        moved(&step(&device, &mut trainer, number, 0.5, TOKENS).unwrap());
    }

    // A scale comes off without a trace, as long as nothing is too small for fp16 without it.
    let mut plain = self::trainer(&device, &topk());
    plain
        .load_state(&device, &with_scale(before.clone(), expected / 4.0, 0))
        .unwrap();
    let (other, _) = moved(&step(&device, &mut plain, 1, 0.5, TOKENS).unwrap());
    assert_eq!(other, loss);
    let restored = with_scale(plain.state(&device).unwrap(), expected, 1);
    assert!(same(&restored, &after));

    // The 2000th good step makes it grow.
    let grows = with_scale(after, 512.0, 1999);
    trainer.load_state(&device, &grows).unwrap();
    moved(&step(&device, &mut trainer, 5, 0.5, TOKENS).unwrap());
    assert_eq!(scale(&trainer.state(&device).unwrap()), (1024.0, 0));
}

/// Residuals that do not fit fp16 by themselves: no scale helps.
#[test]
fn below_the_least_scale_a_gradient_that_is_not_finite_is_no_overflow() {
    let Some(device) = fp16() else {
        return;
    };
    let mut trainer = trainer(&device, &topk());
    let before = trainer.state(&device).unwrap();
    let mut overflows = 0;
    let last = loop {
        match step(&device, &mut trainer, 0, 60_000.0, 1).unwrap() {
            Outcome::Overflow { .. } => overflows += 1,
            other => break other,
        }
    };
    let expected = Outcome::NonFinite { what: "gradient" };
    assert_eq!((overflows, last), (16, expected));
    let state = trainer.state(&device).unwrap();
    assert!(same(&state, &with_scale(before, 1.0, 0)));
    moved(&step(&device, &mut trainer, 1, 0.5, TOKENS).unwrap());
}

/// … with a variant that would find no active latent, and so nothing that is not finite.
#[test]
fn activations_beyond_fp16_are_told_and_are_no_matter_of_the_scale() {
    let Some(device) = fp16() else {
        return;
    };
    let jump = JumpRelu::new(Sparsity::Step, 1.0);
    for spec in [topk(), SaeSpec::new(96, Variant::JumpRelu(jump))] {
        let mut trainer = trainer(&device, &spec);
        let before = trainer.state(&device).unwrap();
        let outcome = step(&device, &mut trainer, 0, 1e6, TOKENS).unwrap();
        let what = "rounded activations";
        assert_eq!(outcome, Outcome::NonFinite { what });
        assert!(same(&trainer.state(&device).unwrap(), &before));
        // They fit bf16, as they fit f32.
        let bf16 = gpu().unwrap().open().with_amp(Amp::Bf16);
        let mut trainer = self::trainer(&bf16, &spec);
        moved(&step(&bf16, &mut trainer, 0, 1e6, TOKENS).unwrap());
    }
}

/// behaviour: engine-05
#[test]
fn the_scale_is_as_it_was_wherever_memory_runs_out() {
    let Some(gpu) = emulated() else {
        return;
    };
    let device = gpu.open().with_dense_from(NEVER).with_amp(Amp::Fp16);
    let start = trainer(&device, &topk());
    // A step that moves, and one that overflows.
    for (kept, moves) in [(65536.0, true), (16_777_216.0, false)] {
        let start = with_scale(start.state(&device).unwrap(), kept, 7);
        let [mut other, mut trainer] = [(); 2].map(|()| trainer(&device, &topk()));
        other.load_state(&device, &start).unwrap();
        let expected = step(&device, &mut other, 0, 0.5, TOKENS).unwrap();
        assert_eq!(matches!(expected, Outcome::Done(_)), moves, "{expected:?}");
        let mut failures = 0;
        for n in 1.. {
            // Each time a new one, so that all of its memory is taken in the step.
            trainer = self::trainer(&device, &topk());
            trainer.load_state(&device, &start).unwrap();
            gpu.set("fail_alloc_at", n);
            let outcome = step(&device, &mut trainer, 0, 0.5, TOKENS);
            gpu.set("fail_alloc_at", 0);
            match outcome {
                Ok(outcome) => {
                    assert_eq!(outcome, expected);
                    break;
                }
                Err(error) => assert_eq!(error.code, Code::OutOfMemory, "{error}"),
            }
            failures += 1;
            let state = trainer.state(&device).unwrap();
            assert!(same(&state, &start), "allocation {n}");
            // Every few, the same step once more, at the same scale.
            if n % 8 == 0 {
                let again = step(&device, &mut trainer, 0, 0.5, TOKENS).unwrap();
                assert_eq!(again, expected);
            }
        }
        assert!(failures > 30, "{failures}");
        let states = [&trainer, &other].map(|trainer| trainer.state(&device).unwrap());
        assert!(same(&states[0], &states[1]));
    }
}

#[test]
fn a_scale_is_restored_and_one_that_cannot_be_is_refused() {
    let Some(device) = fp16() else {
        return;
    };
    let mut first = trainer(&device, &topk());
    let start = with_scale(first.state(&device).unwrap(), 2048.0, 1998);
    first.load_state(&device, &start).unwrap();
    moved(&step(&device, &mut first, 0, 0.5, TOKENS).unwrap());
    let saved = first.state(&device).unwrap();
    assert_eq!(scale(&saved), (2048.0, 1999));
    let mut second = trainer(&device, &topk());
    second.load_state(&device, &saved).unwrap();
    for trainer in [&mut first, &mut second] {
        moved(&step(&device, trainer, 1, 0.5, TOKENS).unwrap());
    }
    let states = [&first, &second].map(|trainer| trainer.state(&device).unwrap());
    assert_eq!(scale(&states[1]), (4096.0, 0));
    assert!(same(&states[0], &states[1]));

    // A state without a scale begins with a new one.
    let without: State = saved
        .iter()
        .filter(|tensor| !tensor.name.starts_with("loss_scale"))
        .cloned()
        .collect();
    second.load_state(&device, &without).unwrap();
    assert_eq!(scale(&second.state(&device).unwrap()), (65536.0, 0));
    let wrong = with_scale(saved, f64::NAN, 0);
    let error = second.load_state(&device, &wrong).unwrap_err();
    assert_eq!(error.code, Code::CheckpointMismatch);
    assert_eq!(error.about, "loss_scale");
    // Without fp16 there is none.
    let bf16 = gpu().unwrap().open().with_amp(Amp::Bf16);
    let state = trainer(&bf16, &topk()).state(&bf16).unwrap();
    assert_eq!(state.len(), without.len());
}

/// Activations as the model has them are far beyond fp16 where `sae.normalize` brought them into its
/// range; what is exported computes on them in f32.
#[test]
fn measures_round_nothing_whatever_training_does() {
    let (Some(gpu), cpu) = (gpu(), Cpu::new(1)) else {
        return;
    };
    for amp in [Amp::Fp16, Amp::Bf16] {
        let device = gpu.open().with_amp(amp).with_dense_from(NEVER);
        let mut trained = trainer(&device, &topk());
        moved(&step(&device, &mut trained, 0, 0.5, TOKENS).unwrap());
        let folded = trained.fold(&device).unwrap();
        let x = data(1, 3e5);
        let mut fired = vec![0; 96];
        let (expected, _) = Inference::new(&cpu, &folded)
            .unwrap()
            .reconstruct(&cpu, &x, TOKENS, &mut fired)
            .unwrap();
        let (found, _) = Inference::new(&device, &folded)
            .unwrap()
            .reconstruct(&device, &x, TOKENS, &mut vec![0; 96])
            .unwrap();
        let size = expected.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
        assert!(size > 1e3, "{size}");
        for (found, expected) in found.iter().zip(&expected) {
            let error = (found - expected).abs();
            assert!(error <= 1e-5 * size, "{amp}: {found} for {expected}");
        }
    }
}

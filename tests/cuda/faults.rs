//! Errors in the middle of work.

use super::cuda_double::{Gpu, emulated, gpu};
use backpropd::device::Device;
use backpropd::device::cpu::Cpu;
use backpropd::device::cuda::Cuda;
use backpropd::device::sae::SaeOps;
use backpropd::domain::schedule::StepSettings;
use backpropd::domain::{Amp, Code, Result};
use backpropd::sae::params::{Dims, Name};
use backpropd::sae::spec::{Pool, SaeSpec, TopK, Variant};
use backpropd::sae::{Batch, OptimSpec, Outcome, SaeTrainer, Sample};

const D: usize = 24;
const TOKENS: usize = 40;

fn settings() -> StepSettings {
    StepSettings {
        lr: 1e-3,
        sparsity: 1.0,
        k: None,
    }
}

fn data(step: usize) -> Vec<f32> {
    let at = |i: usize| ((i * 7919 + step * 104_729) % 1013) as f32 / 1013.0 - 0.5;
    (0..TOKENS * D).map(at).collect()
}

fn trainer<T: SaeOps>(device: &T) -> Result<SaeTrainer<T>> {
    let spec = SaeSpec::new(96, Variant::TopK(TopK::new(5.0, Pool::Token)));
    SaeTrainer::new(device, &spec, &OptimSpec::default(), D, D, 3, Sample::EMPTY)
}

fn steps<T: SaeOps<Real = f32>>(
    device: &T,
    trainer: &mut SaeTrainer<T>,
    steps: usize,
) -> Result<f64> {
    let mut loss = f64::NAN;
    for step in 0..steps {
        let x = device.upload(&data(step))?;
        let batch = Batch {
            x: &x,
            target: None,
            tokens: TOKENS,
        };
        let Outcome::Done(report) = trainer.step(device, &batch, 16, &settings())? else {
            panic!("not finite");
        };
        loss = report.loss;
    }
    Ok(loss)
}

/// A device and a trainer on it that has made a step.
fn started(gpu: &Gpu) -> (Cuda, SaeTrainer<Cuda>) {
    let device = gpu.open();
    let mut trainer = trainer(&device).unwrap();
    steps(&device, &mut trainer, 1).unwrap();
    (device, trainer)
}

#[test]
fn training_is_that_of_the_cpu() {
    let Some(gpu) = gpu() else {
        return;
    };
    let device = gpu.open();
    let mut on_gpu = trainer(&device).unwrap();
    let cpu = Cpu::new(1);
    let mut on_cpu = trainer(&cpu).unwrap();
    let got = steps(&device, &mut on_gpu, 12).unwrap();
    let expected = steps(&cpu, &mut on_cpu, 12).unwrap();
    assert!(
        (got - expected).abs() <= 1e-4 * expected,
        "{got}, expected {expected}"
    );
}

#[test]
fn memory_that_runs_out_is_a_value_wherever_it_does() {
    let Some(gpu) = emulated() else {
        return;
    };
    let mut failures = 0;
    for n in 1.. {
        // Each time a new one: what a device keeps is taken once.
        let device = gpu.open();
        gpu.set("fail_alloc_at", n);
        let run = trainer(&device).and_then(|mut trainer| steps(&device, &mut trainer, 1));
        gpu.set("fail_alloc_at", 0);
        drop(device);
        for kind in ["live", "pinned"] {
            assert_eq!(gpu.get(kind), 0, "memory is left after failure {n}");
        }
        match run {
            Err(error) => assert_eq!(error.code, Code::OutOfMemory, "{error}"),
            Ok(_) => break,
        }
        failures += 1;
    }
    // Weights, moments and gradients alone are a dozen.
    assert!(failures > 30, "{failures}");
    assert_eq!(gpu.get("sticky"), 0);
}

#[test]
fn a_step_that_ran_out_of_memory_can_be_made_again() {
    let Some(gpu) = emulated() else {
        return;
    };
    let (device, mut trainer) = started(&gpu);
    let mut other = self::trainer(&device).unwrap();
    steps(&device, &mut other, 1).unwrap();
    gpu.set("fail_alloc_above", 16 * 5 * 4 - 1);
    assert_eq!(
        steps(&device, &mut trainer, 1).unwrap_err().code,
        Code::OutOfMemory
    );
    gpu.set("fail_alloc_above", -1);
    assert_eq!(
        steps(&device, &mut trainer, 3).unwrap(),
        steps(&device, &mut other, 3).unwrap()
    );
}

#[test]
fn a_kernel_that_breaks_down_poisons_the_process() {
    let Some(gpu) = emulated() else {
        return;
    };
    let (device, mut trainer) = started(&gpu);
    gpu.set("fail_launch_at", 9);
    let error = steps(&device, &mut trainer, 1).unwrap_err();
    assert_eq!(error.code, Code::DevicePoisoned, "{error}");
    assert!(
        error.to_string().contains(&format!("cuda:{}", gpu.ordinal)),
        "{error}"
    );
    // Nothing goes on from here, and a new start in the same process neither.
    assert_eq!(device.zeros(1).err().unwrap().code, Code::DevicePoisoned);
    assert_eq!(gpu.try_open(None).err().unwrap().code, Code::DevicePoisoned);
}

#[test]
fn any_call_may_fail_and_none_panics() {
    let Some(gpu) = emulated() else {
        return;
    };
    let device = gpu.open();
    for (code, expected) in [
        (2, Code::OutOfMemory),
        (46, Code::DeviceUnavailable),
        (999, Code::DeviceLost),
    ] {
        let mut n = 1;
        loop {
            gpu.set("fail_call_code", code);
            gpu.set("fail_call_at", n);
            let run = trainer(&device).and_then(|mut trainer| steps(&device, &mut trainer, 1));
            let left = gpu.get("fail_call_at");
            gpu.set("fail_call_at", 0);
            gpu.set("sticky", 0);
            if left > 0 {
                run.unwrap();
                break;
            }
            // A failure to free is told to nobody; everything else has its code.
            if let Err(error) = run {
                assert_eq!(error.code, expected, "call {n}: {error}");
            }
            n += 1 + n / 3;
        }
        assert!(n > 100, "{n} calls");
    }
}

#[test]
fn a_launch_that_is_refused_is_an_error_of_this_program() {
    let Some(gpu) = emulated() else {
        return;
    };
    let (device, mut trainer) = started(&gpu);
    gpu.set("fail_launch_at", 1);
    gpu.set("fail_launch_code", 701);
    let error = steps(&device, &mut trainer, 1).unwrap_err();
    assert_eq!(error.code, Code::Internal, "{error}");
    steps(&device, &mut trainer, 1).unwrap();
}

/// Later latents are larger than all before them, so that more of them pass the bounds than there
/// is room for.
#[test]
fn a_step_that_guessed_wrong_is_made_again() {
    let Some(gpu) = emulated() else {
        return;
    };
    const LATENTS: usize = 1100;
    let spec = SaeSpec::new(LATENTS, Variant::TopK(TopK::new(5.0, Pool::Token)));
    let dims = Dims {
        d_in: D,
        d_out: D,
        d_sae: LATENTS,
    };
    let losses = |device: &Cuda| {
        let start = |name| {
            let rising = |i: usize| match name {
                Name::WEnc => (1 + i / D) as f32 / LATENTS as f32,
                Name::WDec => 0.1,
                _ => 0.0,
            };
            device.upload(&(0..dims.len(name)).map(rising).collect::<Vec<_>>())
        };
        let optim = OptimSpec::default();
        let mut trainer =
            SaeTrainer::with_start(device, &spec, &optim, dims, 3, [1.0; 2], start).unwrap();
        let x: Vec<f32> = (0..TOKENS * D)
            .map(|i| 0.5 + (i / D % 7) as f32 / 16.0)
            .collect();
        let x = device.upload(&x).unwrap();
        let batch = Batch {
            x: &x,
            target: None,
            tokens: TOKENS,
        };
        let mut waits = Vec::new();
        let losses = [(); 3].map(|()| {
            device.start_profile();
            let outcome = trainer.step(device, &batch, TOKENS, &settings()).unwrap();
            waits.push(device.take_profile().unwrap().waits);
            outcome
        });
        (losses, waits)
    };
    for amp in [Amp::Off, Amp::Bf16] {
        let (expected, once) = losses(&gpu.open().with_amp(amp).with_first(1024));
        let (got, waits) = losses(&gpu.open().with_amp(amp).with_first(64));
        assert_eq!(got, expected, "{amp}");
        assert_eq!(once, [1, 1, 1], "{amp}");
        // The guess and the step itself, which asks the streamed codes at once, and then steps that
        // do.
        assert_eq!(waits, [3, 2, 2], "{amp}");
    }
}

//! The encoder's rows in 16 bits, which are kept beside it: never others than rounding would give.

use super::cuda_double::{Gpu, gpu};
use super::device_suite::{fine, product, selected, up};
use backpropd::device::Device;
use backpropd::device::cuda::Cuda;
use backpropd::device::cuda::profile::Profile;
use backpropd::device::sae::{AdamStep, HostCodes, Rows, SaeOps, Select};
use backpropd::domain::Amp;
use backpropd::domain::schedule::StepSettings;
use backpropd::sae::spec::{Pool, SaeSpec, TopK, Variant};
use backpropd::sae::{Batch, OptimSpec, SaeTrainer, Sample};

const LATENTS: usize = 33;
const TOKENS: usize = 9;

type Buf = <Cuda as Device>::Buf;

/// Every way to hold factors: both formats, in panels and in rows.
fn devices(gpu: &Gpu) -> Vec<Cuda> {
    let open = |amp| gpu.open().with_amp(amp);
    let rows = [Amp::Bf16, Amp::Fp16].map(|amp| open(amp).without_wgmma());
    let panels = [Amp::Bf16, Amp::Fp16].map(open);
    rows.into_iter().chain(panels).collect()
}

fn codes(device: &Cuda, w: &Buf, d: usize) -> HostCodes<f32> {
    let [x, b] = [fine(TOKENS * d, 1), fine(LATENTS, 2)].map(|v| up(device, &v));
    let lower = up(device, &vec![-1e9; LATENTS]);
    let select = Select::Above { lower: &lower };
    selected(device, &product(device, [&x, w, &b], d), select)
}

/// Those of a buffer that holds the same numbers and never had a shadow.
fn fresh(device: &Cuda, w: &Buf, d: usize) -> HostCodes<f32> {
    let w = device.upload(&device.download(w).unwrap()).unwrap();
    codes(device, &w, d)
}

fn adam(device: &Cuda, w: &mut Buf, d: usize) {
    let n = LATENTS * d;
    let step = AdamStep {
        lr: 0.3,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        decay: 0.01,
        correction1: 0.1,
        correction2: 0.001,
        grad_scale: 0.5,
    };
    let grad = up(device, &fine(n, 6));
    let mut m = up(device, &fine(n, 7));
    let mut v = up(
        device,
        &fine(n, 8).iter().map(|v| v * v).collect::<Vec<_>>(),
    );
    device.adam(&step, w, &grad, &mut m, &mut v).unwrap();
}

type Write = fn(&Cuda, &mut Buf, usize);

/// What writes to a buffer: each operation that can, or one of those that go the same way.
const WRITES: [(&str, Write); 8] = [
    ("adam", adam),
    ("a write", |device, w, d| {
        let row: Vec<f32> = fine(d, 9).iter().map(|v| *v as f32).collect();
        device.write(w, 3 * d, &row).unwrap();
    }),
    ("a copy", |device, w, d| {
        let from = up(device, &fine(2 * d, 10));
        device.copy(&from, d, w, 5 * d, d).unwrap();
    }),
    ("normalize_rows", |device, w, d| {
        device.normalize_rows(w, LATENTS, d).unwrap();
    }),
    ("clamp_below", |device, w, _| {
        device.clamp_below(w, 0.1).unwrap();
    }),
    ("scaled", |device, w, d| {
        let from = up(device, &fine(LATENTS * d, 11));
        let rows = Rows::of(&from, LATENTS);
        device.scaled(rows, d, 2.0, w).unwrap();
    }),
    ("project_rows", |device, w, d| {
        let by = up(device, &fine(LATENTS * d, 12));
        device.project_rows(&by, LATENTS, d, w).unwrap();
    }),
    ("add_norm_grad", |device, w, d| {
        let [of, v] =
            [(LATENTS * d, 13), (LATENTS, 14)].map(|(n, seed)| up(device, &fine(n, seed)));
        device.add_norm_grad(&of, LATENTS, d, &v, w).unwrap();
    }),
];

#[test]
fn whatever_writes_the_encoder_takes_its_shadow_away_or_writes_it_too() {
    let Some(gpu) = gpu() else {
        return;
    };
    for (n, device) in devices(&gpu).iter().enumerate() {
        // All of Adam, whose kernel has ways of its own; the others need no kernel for this.
        let some = if n == 0 { &WRITES[..] } else { &WRITES[..1] };
        for (what, write) in some {
            for d in [19, 36, 136] {
                if d > 19 && *what != "adam" {
                    continue;
                }
                let mut w = up(device, &fine(LATENTS * d, 5));
                let before = codes(device, &w, d);
                write(device, &mut w, d);
                let after = codes(device, &w, d);
                assert_ne!(after, before, "{what}, {d}");
                assert_eq!(after, fresh(device, &w, d), "{what}, {d}");
            }
        }
    }
}

/// … and the weight, whose shadow is written with it, has the bits that it has without one.
#[test]
fn adam_is_the_same_with_a_shadow() {
    let Some(gpu) = gpu() else {
        return;
    };
    for device in devices(&gpu) {
        for d in [19, 36, 136] {
            let [mut with, mut without] = [0; 2].map(|_| up(&device, &fine(LATENTS * d, 5)));
            codes(&device, &with, d);
            for _ in 0..2 {
                adam(&device, &mut with, d);
                adam(&device, &mut without, d);
                let [a, b] = [&with, &without].map(|w| device.download(w).unwrap());
                assert_eq!(a, b, "{d}");
            }
        }
    }
}

fn launches(profile: &Profile, name: &str) -> u64 {
    let named = profile.work.iter().find(|work| work.name == name);
    named.map_or(0, |work| work.launches)
}

/// Micro-batches share what the step before wrote; in panels only the encoder's factors are.
#[test]
fn the_encoder_is_rounded_once_and_by_adam_from_then_on() {
    let Some(gpu) = gpu() else {
        return;
    };
    let (d, micro) = (24, 3);
    for amp in [Amp::Bf16, Amp::Fp16] {
        let cuda = gpu.open().with_amp(amp).with_dense_from(f64::INFINITY);
        let spec = SaeSpec::new(LATENTS, Variant::TopK(TopK::new(5.0, Pool::Token)));
        let optim = OptimSpec::default();
        let mut trainer = SaeTrainer::new(&cuda, &spec, &optim, d, d, 3, Sample::EMPTY).unwrap();
        let x = up(&cuda, &fine(3 * micro * d, 1));
        let batch = Batch {
            x: &x,
            target: None,
            tokens: 3 * micro,
        };
        let settings = StepSettings {
            lr: 1e-3,
            sparsity: 1.0,
            k: None,
        };
        let step = |trainer: &mut SaeTrainer<Cuda>| {
            cuda.start_profile();
            trainer.step(&cuda, &batch, micro, &settings).unwrap();
            let profile = cuda.take_profile().unwrap();
            ["round_to_panels", "adam_rounded"].map(|name| launches(&profile, name))
        };
        let first = step(&mut trainer);
        let later = step(&mut trainer);
        assert_eq!([first[0], later[0]], [later[0] + 1, later[0]], "{amp}");
        assert_eq!([first[1], later[1]], [1, 1], "{amp}");
        // Weights that come from elsewhere.
        let state = trainer.state(&cuda).unwrap();
        trainer.load_state(&cuda, &state).unwrap();
        assert_eq!(step(&mut trainer), first, "{amp}");
    }
}

//! What a profile and the floors of a GPU say: that everything is in them. An emulated GPU's times
//! are those of the emulator.

use super::cuda_double::{emulated, gpu};
use backpropd::device::Device;
use backpropd::device::cuda::Cuda;
use backpropd::device::cuda::profile::Profile;
use backpropd::device::sae::{Encode, Pick, Rows, SaeOps, Select};
use backpropd::domain::Amp;
use backpropd::domain::schedule::StepSettings;
use backpropd::sae::spec::{Pool, SaeSpec, TopK, Variant};
use backpropd::sae::{Batch, OptimSpec, SaeTrainer, Sample};

const D: usize = 24;
const LATENTS: usize = 300;
const TOKENS: usize = 40;

fn launches(profile: &Profile, name: &str) -> u64 {
    let named = profile.work.iter().find(|work| work.name == name);
    named.map_or(0, |work| work.launches)
}

/// An encode, of which the codes are read back.
fn encode(cuda: &Cuda, alone: bool) {
    let x = cuda.upload(&vec![0.5; TOKENS * D]).unwrap();
    let w = cuda.upload(&vec![0.25; LATENTS * D]).unwrap();
    let b = cuda.zeros(LATENTS).unwrap();
    let product = Encode {
        x: Rows::of(&x, TOKENS),
        center: None,
        w_enc: &w,
        b_enc: &b,
        d_in: D,
        d_sae: LATENTS,
        rounded: true,
    };
    if alone {
        return cuda.encoder_product(&product).unwrap();
    }
    let mut codes = cuda.new_codes();
    let select = Select::TopK {
        k: 3,
        scale: None,
        among: None,
    };
    let pick = Pick {
        select,
        codes: &mut codes,
    };
    cuda.encode(&product, &mut [pick]).unwrap();
    cuda.download_codes(&codes).unwrap();
}

/// For all that comes back, together: a wait is time in which the GPU has nothing to do. Once the
/// first step has told it what stays, nothing goes to the GPU.
#[test]
fn a_step_of_topk_waits_once_and_copies_nothing_to_the_gpu() {
    for (pool, amp, folds) in [
        (Pool::Token, Amp::Off, "filter_fold"),
        (Pool::Token, Amp::Bf16, "topk_fold"),
        (Pool::Batch, Amp::Bf16, "batch_prune"),
    ] {
        waits_once(pool, amp, folds);
    }
}

fn waits_once(pool: Pool, amp: Amp, folds: &str) {
    let Some(gpu) = gpu() else {
        return;
    };
    // Most latents are streamed.
    let cuda = gpu.open().with_amp(amp).with_first(64);
    let spec = SaeSpec::new(LATENTS, Variant::TopK(TopK::new(5.0, pool)));
    let optim = OptimSpec::default();
    let mut trainer = SaeTrainer::new(&cuda, &spec, &optim, D, D, 3, Sample::EMPTY).unwrap();
    let x: Vec<f32> = (0..TOKENS * D).map(|i| (i * 7919 % 1013) as f32).collect();
    let x = cuda.upload(&x).unwrap();
    let batch = Batch {
        x: &x,
        target: None,
        tokens: TOKENS,
    };
    let settings = StepSettings {
        lr: 1e-3,
        sparsity: 1.0,
        k: None,
    };
    trainer.step(&cuda, &batch, TOKENS, &settings).unwrap();
    cuda.start_profile();
    trainer.step(&cuda, &batch, TOKENS, &settings).unwrap();
    let profile = cuda.take_profile().unwrap();
    assert_eq!(profile.waits, 1);
    assert_eq!(launches(&profile, "(copy to the GPU)"), 0, "{profile:?}");
    for name in ["filter_fold", "topk_fold", "batch_prune"] {
        assert_eq!(launches(&profile, name) > 0, name == folds, "{profile:?}");
    }
}

#[test]
fn a_profile_names_all_that_was_done_and_ends_when_it_is_taken() {
    let Some(gpu) = gpu() else {
        return;
    };
    // 128 columns at a time.
    let cuda = gpu.open().with_stretch(TOKENS * 4 * 128);
    encode(&cuda, false);
    for _ in 0..2 {
        cuda.start_profile();
        encode(&cuda, false);
        let profile = cuda.take_profile().unwrap();
        for (name, expected) in [
            ("product_nt", 3),
            ("topk_merge", 3),
            ("topk_emit", 1),
            ("(copy to the GPU)", 2),
            ("(copy to the host)", 3),
            ("(clear)", 3),
        ] {
            assert_eq!(launches(&profile, name), expected, "{name}: {profile:?}");
        }
        assert_eq!(profile.waits, 3);
        assert!(profile.waited >= 0.0);
        assert!(profile.allocations >= 6, "{profile:?}");
        assert!(profile.allocated > (LATENTS * D * 4) as u64, "{profile:?}");
        let times: Vec<f64> = profile.work.iter().map(|w| w.milliseconds).collect();
        assert!(times.iter().all(|ms| *ms > 0.0), "{profile:?}");
        assert!(times.is_sorted_by(|a, b| a >= b), "{profile:?}");
    }
    encode(&cuda, false);
    assert_eq!(cuda.take_profile().unwrap(), Profile::default());
}

#[test]
fn the_product_alone_selects_nothing() {
    let Some(gpu) = gpu() else {
        return;
    };
    let cuda = gpu.open().with_stretch(TOKENS * 4 * 128);
    let profile = |cuda: &Cuda| {
        cuda.start_profile();
        encode(cuda, true);
        cuda.take_profile().unwrap()
    };
    let f32 = profile(&cuda);
    assert_eq!(launches(&f32, "product_nt"), 3);
    assert_eq!(launches(&f32, "topk_merge"), 0);
    let bf16 = profile(&cuda.with_amp(Amp::Bf16).without_wgmma());
    assert_eq!(launches(&bf16, "product_bf16"), 3);
    assert_eq!(launches(&bf16, "round_to_rows"), 2);
}

#[test]
fn floors_are_there() {
    let Some(gpu) = gpu() else {
        return;
    };
    let floors = gpu.open().floors().unwrap();
    for rate in [
        floors.copy_gb_per_second,
        floors.bf16_tflops,
        floors.mma_sync_tflops,
        floors.f32_tflops,
    ] {
        assert!(rate.is_finite() && rate > 0.0, "{floors:?}");
    }
}

#[test]
fn floors_give_their_memory_back_and_its_peak_is_told_once() {
    let Some(gpu) = emulated() else {
        return;
    };
    let cuda = gpu.open();
    let before = gpu.get("used");
    cuda.floors().unwrap();
    assert_eq!(gpu.get("used"), before);
    // Two buffers of 16 MiB and more; what is forgotten does not come again.
    let peak = cuda.take_peak_memory().unwrap().unwrap();
    assert!(peak >= 32 << 20, "{peak}");
    let peak = cuda.take_peak_memory().unwrap();
    assert_eq!(peak, Some(u64::try_from(before).unwrap()));
    gpu.set("pools", 0);
    assert_eq!(gpu.open().take_peak_memory().unwrap(), None);
}

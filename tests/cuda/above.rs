//! What is above the bounds of latents, out of the product's epilogue.

use super::cuda_double::gpu;
use super::device_suite::{coarse, up};
use backpropd::device::Real;
use backpropd::device::cuda::Cuda;
use backpropd::device::reference::Reference;
use backpropd::device::sae::{Encode, Pick, Rows, SaeOps, Select};
use backpropd::domain::Amp;

const TOKENS: usize = 24;
const D: usize = 16;
const LATENTS: usize = 700;

/// Edges of a product of coarse numbers, of which many equal their bound.
fn edges<T: SaeOps>(device: &T, lower: &[f64]) -> (Vec<u32>, Vec<u32>, Vec<f64>) {
    let mut w = coarse(LATENTS * D, 2);
    w[33 * D] = f64::NAN;
    let [x, w_enc, lower] = [&coarse(TOKENS * D, 1)[..], &w, lower].map(|v| up(device, v));
    let b_enc = up(device, &coarse(LATENTS, 3));
    let product = Encode {
        x: Rows::of(&x, TOKENS),
        center: None,
        w_enc: &w_enc,
        b_enc: &b_enc,
        d_in: D,
        d_sae: LATENTS,
        rounded: true,
    };
    let mut codes = device.new_codes();
    let pick = Pick {
        select: Select::Above { lower: &lower },
        codes: &mut codes,
    };
    device.encode(&product, &mut [pick]).unwrap();
    let host = device.download_codes(&codes).unwrap();
    let pre = host.pre.iter().map(|p| p.to_f64()).collect();
    (host.row_ptr, host.latent, pre)
}

/// With and without warpgroups, in two orders of threads and blocks.
fn devices(amp: Amp) -> Vec<Cuda> {
    let device = |schedule| {
        let gpu = gpu()?;
        gpu.schedule(schedule);
        Some(gpu.open().with_amp(amp).with_first(64))
    };
    let portable = device(1).map(Cuda::without_wgmma);
    [device(77), portable].into_iter().flatten().collect()
}

/// Whether this was without pre-activations in memory.
fn listed(device: &Cuda, work: impl FnOnce()) -> bool {
    device.start_profile();
    work();
    let profile = device.take_profile().unwrap();
    profile.work.iter().any(|work| work.name == "list_emit")
}

#[test]
fn latents_that_fire_seldom_are_listed_and_others_are_not() {
    // Some never fire, some always do; NaN does not even then.
    let mut seldom: Vec<f64> = coarse(LATENTS, 4).iter().map(|v| v + 2.0).collect();
    seldom[7] = f64::INFINITY;
    seldom[9] = f64::NEG_INFINITY;
    seldom[33] = f64::NEG_INFINITY;
    let often = vec![f64::NEG_INFINITY; LATENTS];
    let oracle = Reference::<f64>::new();
    let [few, many] = [&seldom, &often].map(|lower| edges(&oracle, lower));
    assert!(few.1.len() < TOKENS * LATENTS / 4 && few.1.contains(&9) && !few.1.contains(&33));
    for device in devices(Amp::Fp16) {
        assert!(listed(&device, || assert_eq!(edges(&device, &seldom), few)));
    }
    for device in devices(Amp::Bf16) {
        let check = |lower: &[f64], expected| assert_eq!(&edges(&device, lower), expected);
        assert!(listed(&device, || check(&seldom, &few)));
        assert!(!listed(&device, || check(&often, &many)));
        // Batches resemble each other: for a while that is not tried again.
        assert!(!listed(&device, || check(&seldom, &few)));
        let tries = (0..80).position(|_| listed(&device, || check(&seldom, &few)));
        assert_eq!(tries, Some(63));
    }
}

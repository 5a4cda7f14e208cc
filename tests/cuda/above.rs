//! What is above the bounds of latents, out of the product's epilogue.

use super::batch::{Found, devices, found};
use super::device_suite::{coarse, product, selected, up};
use backpropd::device::cuda::Cuda;
use backpropd::device::reference::Reference;
use backpropd::device::sae::{SaeOps, Select};
use backpropd::domain::Amp;

const TOKENS: usize = 24;
const D: usize = 16;
const LATENTS: usize = 700;

/// Edges of a product of coarse numbers, of which many equal their bound.
fn edges<T: SaeOps>(device: &T, lower: &[f64]) -> Found {
    let mut w = coarse(LATENTS * D, 2);
    w[33 * D] = f64::NAN;
    let [x, w, lower] = [&coarse(TOKENS * D, 1)[..], &w, lower].map(|v| up(device, v));
    let b = up(device, &coarse(LATENTS, 3));
    let select = Select::Above { lower: &lower };
    found(selected(device, &product(device, [&x, &w, &b], D), select))
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

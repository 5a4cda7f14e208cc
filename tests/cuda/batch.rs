//! BatchTopK out of the product's epilogue: what it guesses, and when it says that it was wrong.

use super::cuda_double::{emulated, gpu};
use super::device_suite::{coarse, product, selected, up};
use backpropd::device::Real;
use backpropd::device::cuda::Cuda;
use backpropd::device::reference::Reference;
use backpropd::device::sae::{Encode, HostCodes, Pick, SaeOps, Select};
use backpropd::domain::Amp;

const TOKENS: usize = 70;
const D: usize = 16;
const LATENTS: usize = 1300;

/// row_ptr, latents, and pre-activations.
pub type Found = (Vec<u32>, Vec<u32>, Vec<f64>);

pub fn found<R: Real>(codes: HostCodes<R>) -> Found {
    let pre = codes.pre.iter().map(|p| p.to_f64()).collect();
    (codes.row_ptr, codes.latent, pre)
}

struct Case {
    x: Vec<f64>,
    w: Vec<f64>,
    scale: Vec<f64>,
    total: usize,
}

impl Case {
    /// Numbers that 16 bits hold and of which many are equal.
    fn new(total: usize) -> Self {
        let scale = coarse(LATENTS, 3).iter().map(|v| v.abs() + 0.25).collect();
        Self {
            x: coarse(TOKENS * D, 1),
            w: coarse(LATENTS * D, 2),
            scale,
            total,
        }
    }

    /// What `of` makes of the product and its selection.
    fn with<T: SaeOps, R>(
        &self,
        device: &T,
        of: impl FnOnce(&Encode<'_, T::Buf>, Select<'_, T::Buf, T::Ints>) -> R,
    ) -> R {
        let [x, w, scale] = [&self.x, &self.w, &self.scale].map(|v| up(device, v));
        let b = up(device, &vec![0.0; LATENTS]);
        let select = Select::BatchTopK {
            total: self.total,
            scale: Some(&scale),
        };
        of(&product(device, [&x, &w, &b], D), select)
    }

    /// What it should be.
    fn expected(&self) -> Found {
        let oracle = Reference::<f64>::new();
        self.with(&oracle, |product, select| {
            found(selected(&oracle, product, select))
        })
    }

    /// The codes without a guess.
    fn chosen(&self, device: &Cuda) -> Found {
        self.with(device, |product, select| {
            found(selected(device, product, select))
        })
    }

    /// The codes that the device guesses, and what it tells later where it does.
    fn guessed(&self, device: &Cuda) -> (Found, Option<f64>) {
        self.with(device, |product, select| {
            let mut codes = device.new_codes();
            let pick = Pick {
                select,
                codes: &mut codes,
            };
            let wrong = device.try_encode(product, &mut [pick]).unwrap();
            let wrong = wrong.map(|wrong| device.numbers(vec![wrong]).unwrap()[0][0]);
            (found(device.download_codes(&codes).unwrap()), wrong)
        })
    }
}

/// With and without warpgroups, in two orders of threads and blocks.
pub fn devices(amp: Amp) -> Vec<Cuda> {
    let device = |schedule| {
        let gpu = gpu()?;
        gpu.schedule(schedule);
        Some(gpu.open().with_amp(amp).with_first(64))
    };
    let portable = device(1).map(Cuda::without_wgmma);
    [device(77), portable].into_iter().flatten().collect()
}

#[test]
fn what_is_guessed_of_a_batch_is_what_a_sort_has() {
    for total in [1, TOKENS * 3 + 1, TOKENS * 40] {
        let case = Case::new(total);
        let expected = case.expected();
        assert_eq!(expected.1.len(), total);
        for device in devices(Amp::Bf16) {
            assert_eq!(case.guessed(&device), (expected.clone(), Some(0.0)));
        }
    }
}

/// All keys are 1. The bound is 1 as soon as the first latents were seen, and of the first tokens
/// later latents win, too.
#[test]
fn of_equal_keys_those_of_earlier_tokens_win_whenever_they_are_seen() {
    let active = |j: usize| j.is_multiple_of(3) && j < 64 || j.is_multiple_of(16);
    let total = 10 * (0..LATENTS).filter(|j| active(*j)).count() + 50;
    let weight = |i: usize| if active(i / D) { 1.0 / D as f64 } else { -1.0 };
    let case = Case {
        x: vec![1.0; TOKENS * D],
        w: (0..LATENTS * D).map(weight).collect(),
        scale: vec![1.0; LATENTS],
        total,
    };
    for device in devices(Amp::Bf16) {
        assert_eq!(case.guessed(&device), (case.expected(), Some(0.0)));
    }
}

/// A token that takes more than its list holds, fewer positive keys than are sought, and numbers that
/// are none.
#[test]
fn a_guess_that_is_wrong_says_so_and_without_it_the_codes_are_right() {
    let mut hungry = Case::new(TOKENS * 8);
    hungry.x[5 * D..6 * D].fill(64.0);
    hungry.w.iter_mut().for_each(|w| *w += 1.0);
    let mut few = Case::new(TOKENS * 190);
    few.x[TOKENS / 8 * D..].fill(0.0);
    for case in [hungry, few] {
        let expected = case.expected();
        for device in devices(Amp::Bf16) {
            let ((row_ptr, latents, _), wrong) = case.guessed(&device);
            assert_eq!(wrong, Some(1.0));
            // Whatever they are, they can be gone over.
            assert_eq!(row_ptr.last().copied(), Some(case.total as u32));
            assert!(latents.iter().all(|latent| (*latent as usize) < LATENTS));
            assert_eq!(case.chosen(&device), expected);
        }
    }
    let mut none = Case::new(TOKENS * 3);
    none.w[77 * D] = f64::NAN;
    for device in devices(Amp::Bf16) {
        let ((_, latents, _), wrong) = none.guessed(&device);
        assert_eq!((wrong, latents.contains(&77)), (Some(0.0), false));
    }
}

#[test]
fn without_memory_for_lists_a_batch_goes_by_stretches() {
    let Some(gpu) = emulated() else {
        return;
    };
    let device = gpu.open().with_amp(Amp::Bf16).without_wgmma();
    let device = device.with_first(64).with_stretch(1 << 14);
    let case = Case::new(TOKENS * 3 + 1);
    // Less than keys of 256 places a token take, and more than anything else does.
    gpu.set("fail_alloc_above", 120 << 10);
    let got = case.guessed(&device);
    gpu.set("fail_alloc_above", -1);
    assert_eq!(got, (case.expected(), None));
}

//! Every operation and every selection, whatever the order in which threads and blocks run.

use super::cuda_double::gpu;
use super::device_suite::operations::{
    agree_with_the_reference, bits, dense, everything, many_latents,
};
use super::device_suite::selections;
use super::device_suite::{Choice, Shape, down, fine, up};
use backpropd::device::cuda::Cuda;
use backpropd::device::reference::Reference;
use backpropd::device::sae::{Encode, OuterGrad, Pick, Rows, SaeOps, Select};
use backpropd::domain::Amp;

/// Orders of threads and blocks: ascending, descending, shuffled.
const SCHEDULES: [i64; 4] = [0, 1, 2, 77];

/// A device that runs in this order, takes a row for every edge, and holds so few pre-activations at a time that shapes of
/// tests need several stretches.
fn scheduled(schedule: i64) -> Option<Cuda> {
    let gpu = gpu()?;
    gpu.schedule(schedule);
    // Half of them with the tiles that large products have.
    let from = if schedule > 1 { 1 } else { 132 };
    let device = gpu.open().with_stretch(1 << 14);
    let device = device.with_dense_from(f64::INFINITY);
    Some(device.with_large_tiles_from(from))
}

#[test]
fn every_operation_agrees_with_the_f64_reference() {
    let devices: Vec<Cuda> = SCHEDULES.into_iter().filter_map(scheduled).collect();
    agree_with_the_reference(&devices);
}

#[test]
fn latents_of_17_bits_are_sorted() {
    scheduled(0).iter().for_each(many_latents);
}

/// Over a million edges: more than the blocks of the sort take in one round.
#[test]
fn a_sort_of_many_rounds_loses_no_edge() {
    const TOKENS: usize = 2100;
    const LATENTS: usize = 512;
    let Some(device) = scheduled(77) else {
        return;
    };
    // Every latent of every token, and to each edge a value of its own.
    let [x, w_enc] = [TOKENS, LATENTS].map(|len| up(&device, &vec![1.0; len]));
    let b_enc = up(&device, &fine(LATENTS, 4));
    let mut codes = device.new_codes();
    let lower = up(&device, &vec![f64::NEG_INFINITY; LATENTS]);
    let pick = Pick {
        select: Select::Above { lower: &lower },
        codes: &mut codes,
    };
    let product = Encode {
        x: Rows::of(&x, TOKENS),
        center: None,
        w_enc: &w_enc,
        b_enc: &b_enc,
        d_in: 1,
        d_sae: LATENTS,
    };
    device.encode(&product, &mut [pick]).unwrap();
    assert_eq!(device.edges(&codes), TOKENS * LATENTS);
    let token = |edge: usize| (edge / LATENTS) as f64;
    let values: Vec<f64> = (0..TOKENS * LATENTS).map(|e| token(e) % 7.0).collect();
    let rows: Vec<f64> = (0..TOKENS).map(|b| (b % 11) as f64).collect();
    let expected: f64 = rows
        .iter()
        .zip(0..)
        .map(|(row, b)| row * f64::from(b % 7))
        .sum();
    let (values, rows) = (up(&device, &values), up(&device, &rows));
    let mut out = up(&device, &vec![0.0; LATENTS]);
    let work = OuterGrad {
        codes: &codes,
        values: &values,
        rows: Rows::of(&rows, TOKENS),
        prefixes: &[],
        center: None,
        d: 1,
        accumulate: false,
    };
    device.outer_grad(&work, &mut out).unwrap();
    assert_eq!(down(&device, &out), vec![expected; LATENTS]);
}

#[test]
fn selections_agree_with_a_sort_on_keys_that_are_often_equal() {
    let few: Vec<Cuda> = [77].into_iter().filter_map(scheduled).collect();
    selections::agree_with_a_sort(&few);
    let one: Vec<Cuda> = gpu().map(|gpu| gpu.open()).into_iter().collect();
    selections::agree_with_a_sort(&one);
}

#[test]
fn nan_is_the_last_choice_of_topk_and_none_of_the_others() {
    scheduled(0)
        .iter()
        .for_each(selections::nan_is_the_last_choice);
}

#[test]
fn a_later_latent_of_an_earlier_token_wins_a_tie_of_the_whole_batch() {
    scheduled(1)
        .iter()
        .for_each(selections::the_earlier_token_wins_a_tie);
}

#[test]
fn bits_do_not_depend_on_the_order_of_blocks() {
    let runs = |run: &dyn Fn(Cuda) -> Vec<(String, Vec<u64>)>| -> Vec<_> {
        [0, 77].into_iter().filter_map(scheduled).map(run).collect()
    };
    // Rows that move by one column, and by four.
    for (d, rows) in [(37, 65), (132, 64)] {
        let shape = Shape {
            tokens: 130,
            d,
            latents: 301,
        };
        for choice in [Choice::TopK(5, None), Choice::Batch(400)] {
            let results = runs(&|device| bits(everything(&device, shape, &choice, 100)));
            let same = results.windows(2).all(|pair| pair[0] == pair[1]);
            assert!(same, "{d} {choice:?}");
        }
        let results = runs(&|device| bits(dense(&device, 1500, rows)));
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{rows}");
    }
}

/// The suite's numbers for selections are exact in bf16: so must the product be.
#[test]
fn the_encoder_on_tensor_cores_agrees_where_bf16_is_exact() {
    // With and without warpgroups; bounds out of few latents, so that there are others.
    let bf16 = |schedule| Some(scheduled(schedule)?.with_amp(Amp::Bf16).with_first(64));
    let devices = [0, 77].into_iter().filter_map(bf16);
    let portable = [1, 77]
        .into_iter()
        .filter_map(bf16)
        .map(Cuda::without_wgmma);
    let devices: Vec<Cuda> = devices.chain(portable).collect();
    selections::agree_with_a_sort(&devices);
    devices.iter().for_each(selections::nan_is_the_last_choice);
    agree_with_the_reference(&devices[..devices.len().min(3)]);
}

#[test]
fn factors_are_rounded_to_the_nearest_bf16() {
    let devices = [scheduled(1), scheduled(0).map(Cuda::without_wgmma)];
    let bf16 = |device: Cuda| device.with_amp(Amp::Bf16);
    devices
        .into_iter()
        .flatten()
        .map(bf16)
        .for_each(|device| rounds(&device));
}

fn rounds(device: &Cuda) {
    let oracle = Reference::<f64>::new();
    let (tokens, d, latents) = (150, 70, 200);
    let near = |values: &[f64]| -> Vec<f64> {
        let round = |v: &f64| half::bf16::from_f32(*v as f32).to_f64();
        values.iter().map(round).collect()
    };
    let x = fine(tokens * d, 1);
    let w = fine(latents * d, 2);
    let center = fine(d, 3);
    let centred: Vec<f64> = x
        .iter()
        .enumerate()
        .map(|(i, x)| f64::from(*x as f32 - center[i % d] as f32))
        .collect();
    let got = pre_activations(device, &x, Some(&center), &w, latents, d);
    let expected = pre_activations(&oracle, &near(&centred), None, &near(&w), latents, d);
    assert_eq!(got.len(), tokens * latents);
    for (got, expected) in got.iter().zip(&expected) {
        assert!((got - expected).abs() < 1e-5, "{got}, expected {expected}");
    }
}

/// The bounds come out of latents that hardly fire; of the rest everything passes.
#[test]
fn where_more_passes_a_bound_than_there_is_room_for_all_is_looked_at_again() {
    let (tokens, d, latents, k) = (130, 8, 1100, 5);
    let x = vec![1.0; tokens * d];
    // The best are the last of those that do not fit, and nothing comes after them.
    let row = |j: usize| [if j < 1000 { (j / 8) as f64 } else { 0.0 }; 8];
    let w: Vec<f64> = (0..latents).flat_map(row).collect();
    let chosen = |device: Cuda| {
        let [x, w_enc] = [&x, &w].map(|values| up(&device, values));
        let b_enc = up(&device, &vec![0.0; latents]);
        let mut codes = device.new_codes();
        let select = Select::TopK {
            k,
            scale: None,
            among: None,
        };
        let product = Encode {
            x: Rows::of(&x, tokens),
            center: None,
            w_enc: &w_enc,
            b_enc: &b_enc,
            d_in: d,
            d_sae: latents,
        };
        let codes_of = Pick {
            select,
            codes: &mut codes,
        };
        device.encode(&product, &mut [codes_of]).unwrap();
        device.download_codes(&codes).unwrap().latent
    };
    // Of eight that are equal the first.
    let expected = [992, 993, 994, 995, 996];
    for device in [scheduled(0), scheduled(0).map(Cuda::without_wgmma)] {
        let Some(device) = device else {
            return;
        };
        let got = chosen(device.with_amp(Amp::Bf16).with_first(64));
        assert_eq!(got.len(), tokens * k);
        assert!(got.chunks(k).all(|row| row == expected), "{:?}", &got[..k]);
    }
}

/// All of them, token by token.
fn pre_activations<D: SaeOps>(
    device: &D,
    x: &[f64],
    center: Option<&[f64]>,
    w: &[f64],
    latents: usize,
    d: usize,
) -> Vec<f64> {
    let center = center.map(|center| up(device, center));
    let [x, w_enc] = [x, w].map(|values| up(device, values));
    let b_enc = up(device, &fine(latents, 4));
    let lower = up(device, &vec![f64::NEG_INFINITY; latents]);
    let mut codes = device.new_codes();
    let pick = Pick {
        select: Select::Above { lower: &lower },
        codes: &mut codes,
    };
    let product = Encode {
        x: Rows::of(&x, device.len(&x) / d),
        center: center.as_ref(),
        w_enc: &w_enc,
        b_enc: &b_enc,
        d_in: d,
        d_sae: latents,
    };
    device.encode(&product, &mut [pick]).unwrap();
    down(device, device.pre(&codes))
}

//! Every operation and every selection, whatever the order in which threads and blocks run.

use super::cuda_double::gpu;
use super::device_suite::operations::{
    agree_but_for_rounding, agree_with_the_reference, bits, dense, everything, many_latents,
};
use super::device_suite::{Choice, Shape, coarse, down, fine, pick, product, selected, up};
use super::device_suite::{rows, selections};
use backpropd::device::cuda::Cuda;
use backpropd::device::reference::Reference;
use backpropd::device::sae::{Encode, OuterGrad, Pick, Prefix, Rows, SaeOps, Select};
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
fn rows_are_gathered_and_looked_through() {
    let devices: Vec<Cuda> = [0, 77].into_iter().filter_map(scheduled).collect();
    rows::are_gathered(&devices);
    rows::are_looked_through(&devices);
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
        rounded: true,
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
        scale: 1.0,
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

/// The suite's numbers for selections are exact in 16 bits: so must the product be.
#[test]
fn the_encoder_on_tensor_cores_agrees_where_16_bits_are_exact() {
    // With and without warpgroups; bounds out of few latents, so that there are others.
    let amp = |schedule, amp| Some(scheduled(schedule)?.with_amp(amp).with_first(64));
    let devices: Vec<Cuda> = [
        amp(77, Amp::Bf16),
        amp(1, Amp::Bf16).map(Cuda::without_wgmma),
        amp(0, Amp::Fp16),
        amp(77, Amp::Fp16).map(Cuda::without_wgmma),
    ]
    .into_iter()
    .flatten()
    .collect();
    selections::agree_with_a_sort(&devices);
    devices.iter().for_each(selections::nan_is_the_last_choice);
    if let [bf16, portable, .., fp16] = &devices[..] {
        for (device, gathered) in [(bf16, 8e-3), (portable, 8e-3), (fp16, 1e-3)] {
            agree_but_for_rounding(std::slice::from_ref(device), gathered);
        }
    }
}

/// The number that is left of `v`.
fn near(amp: Amp, v: f64) -> f64 {
    match amp {
        Amp::Off => v,
        Amp::Bf16 => half::bf16::from_f32(v as f32).to_f64(),
        Amp::Fp16 => half::f16::from_f32(v as f32).to_f64(),
    }
}

#[test]
fn factors_are_rounded_to_the_nearest() {
    for amp in [Amp::Bf16, Amp::Fp16] {
        let devices = [scheduled(1), scheduled(0).map(Cuda::without_wgmma)];
        for device in devices.into_iter().flatten() {
            rounds(&device.with_amp(amp), amp);
        }
    }
}

fn rounds(device: &Cuda, amp: Amp) {
    let oracle = Reference::<f64>::new();
    let (tokens, d, latents) = (150, 70, 200);
    let near = |values: &[f64]| -> Vec<f64> { values.iter().map(|v| near(amp, *v)).collect() };
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

/// Of f16 those that the hardware might treat in ways of its own: what is tiny, halfway between two,
/// and too large.
#[test]
fn numbers_at_the_ends_of_f16_are_rounded_as_ieee_has_it() {
    let Some(device) = scheduled(0) else {
        return;
    };
    let device = device.with_amp(Amp::Fp16);
    let tiny = 2f64.powi(-24);
    let mut x = vec![tiny / 2.0, tiny * 0.500_001, tiny, tiny * 1.5, tiny * 2.5];
    x.extend((-26..16).map(|e| 1.999_511 * 2f64.powi(e)));
    x.extend((-16..15).map(|e| (1.0 + 3.0 / 2048.0) * 2f64.powi(e)));
    x.extend([65504.0, 65519.9, 65520.0, 7e4, 1e30]);
    // A pre-activation is the number itself, which the bias leaves as it is.
    let edges = |x: &[f64]| {
        let [x_at, w_enc] = [x, &[1.0]].map(|values| up(&device, values));
        let [b_enc, lower] = [0.0, f64::NEG_INFINITY].map(|v| up(&device, &[v]));
        let mut codes = device.new_codes();
        let pick = Pick {
            select: Select::Above { lower: &lower },
            codes: &mut codes,
        };
        let product = Encode {
            x: Rows::of(&x_at, x.len()),
            center: None,
            w_enc: &w_enc,
            b_enc: &b_enc,
            d_in: 1,
            d_sae: 1,
            rounded: true,
        };
        device.encode(&product, &mut [pick]).unwrap();
        down(&device, device.pre(&codes))
    };
    let expected: Vec<f64> = x.iter().map(|v| near(Amp::Fp16, *v)).collect();
    assert!(expected.contains(&f64::INFINITY) && expected.contains(&0.0));
    assert_eq!(edges(&x), expected);
}

#[test]
fn the_largest_number_is_told_as_f16_has_it() {
    let Some(device) = scheduled(77) else {
        return;
    };
    let device = device.with_amp(Amp::Fp16);
    let largest = |x: &[f64], center: Option<&[f64]>, d: usize| {
        let rows = up(&device, x);
        let center = center.map(|center| up(&device, center));
        let later = device
            .largest_rounded(Rows::of(&rows, x.len() / d), center.as_ref(), d)
            .unwrap();
        device.numbers(vec![later.unwrap()]).unwrap()[0][0]
    };
    let mut x = fine(37 * 45, 1);
    x[37 * 44 + 36] = -65519.0;
    assert_eq!(largest(&x, None, 37), 65504.0);
    let mut center = fine(37, 2);
    center[36] = 2.0;
    assert_eq!(largest(&x, Some(&center), 37), f64::INFINITY);
    x[0] = f64::NAN;
    assert!(largest(&x, None, 37).is_nan());
    // What has the range of f32 needs no look.
    let bf16 = device.with_amp(Amp::Bf16);
    let rows = up(&bf16, &x);
    let none = bf16.largest_rounded(Rows::of(&rows, 1), None, 37).unwrap();
    assert!(none.is_none());
}

/// Sums over rows that were rounded beforehand.
#[test]
fn rows_are_gathered_as_they_were_rounded() {
    for amp in [Amp::Bf16, Amp::Fp16] {
        for schedule in [0, 77] {
            if let Some(device) = scheduled(schedule) {
                gathers(&device.with_amp(amp), amp);
            }
        }
    }
}

fn gathers(device: &Cuda, amp: Amp) {
    let oracle = Reference::<f64>::new();
    // Rows that move by one column and by four; a latent that fires for every token.
    for (tokens, d, latents) in [(45, 37, 101), (300, 132, 40), (4, 8, 9)] {
        // Without a scale much of this is too small for f16.
        let scale = 1024.0;
        let small = |values: Vec<f64>| -> Vec<f64> {
            let tiny = values.iter().map(|v| v * 2f64.powi(-18));
            tiny.map(|v| f64::from(v as f32)).collect()
        };
        let (g, center) = (small(fine(2 * tokens * d, 5)), small(fine(d, 6)));
        let centred = |i: usize| f64::from(g[i] as f32 - center[i % d] as f32);
        let off = |from: usize| -> Vec<f64> {
            let rows = (from..from + tokens * d).map(centred);
            rows.map(|v| near(amp, scale * v) / scale).collect()
        };
        let both: Vec<f64> = g.iter().map(|v| near(amp, scale * v) / scale).collect();
        let prefix = |width| Prefix { width, scale: 1.0 };
        let two = [prefix(latents / 3), prefix(latents)];
        let shape = Shape { tokens, d, latents };
        let before = small(fine(latents * d, 7));
        let choice = Choice::TopK(7, None);
        let got = outer(
            device,
            shape,
            &choice,
            &g[d..],
            Some(&center),
            &[],
            scale,
            None,
        );
        let expected = outer(&oracle, shape, &choice, &off(d), None, &[], 1.0, None);
        near_all(&got, &expected);
        let got = outer(device, shape, &choice, &g, None, &two, scale, Some(&before));
        let expected = outer(
            &oracle,
            shape,
            &choice,
            &both,
            None,
            &two,
            1.0,
            Some(&before),
        );
        near_all(&got, &expected);
    }
}

fn near_all(got: &[f64], expected: &[f64]) {
    let largest = expected.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got - expected).abs() / largest;
        assert!(error <= 2e-6, "{i}: {got}, expected {expected}");
    }
}

/// The outer products of the codes of `choice`, added to `before` where it is there.
fn outer<D: SaeOps>(
    device: &D,
    shape: Shape,
    choice: &Choice,
    rows: &[f64],
    center: Option<&[f64]>,
    prefixes: &[Prefix],
    scale: f64,
    before: Option<&[f64]>,
) -> Vec<f64> {
    let Shape { tokens, d, latents } = shape;
    let mut codes = pick(device, shape, std::slice::from_ref(choice), false, coarse);
    let codes = codes.remove(0);
    let values = up(device, &fine(device.edges(&codes), 8));
    let rows = up(device, rows);
    let center = center.map(|center| up(device, center));
    let zeros = vec![0.0; latents * d];
    let mut out = up(device, before.unwrap_or(&zeros));
    let work = OuterGrad {
        codes: &codes,
        values: &values,
        rows: Rows::of(&rows, tokens),
        prefixes,
        center: center.as_ref(),
        d,
        scale,
        accumulate: before.is_some(),
    };
    device.outer_grad(&work, &mut out).unwrap();
    down(device, &out)
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
        let [x, w] = [&x, &w].map(|values| up(&device, values));
        let b = up(&device, &vec![0.0; latents]);
        let select = Select::TopK {
            k,
            scale: None,
            among: None,
        };
        selected(&device, &product(&device, [&x, &w, &b], d), select).latent
    };
    // Of eight that are equal the first.
    let expected = [992, 993, 994, 995, 996];
    for amp in [Amp::Bf16, Amp::Fp16] {
        for device in [scheduled(0), scheduled(0).map(Cuda::without_wgmma)] {
            let Some(device) = device else {
                return;
            };
            let got = chosen(device.with_amp(amp).with_first(64));
            assert_eq!(got.len(), tokens * k);
            assert!(got.chunks(k).all(|row| row == expected), "{:?}", &got[..k]);
        }
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
        rounded: true,
    };
    device.encode(&product, &mut [pick]).unwrap();
    down(device, device.pre(&codes))
}

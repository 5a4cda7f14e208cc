//! Every operation against the f64 reference, and selections against a sort.

use super::super::isa::Isa;
use super::super::pool::Pool;
use super::*;
use crate::device::reference::Reference;
use crate::device::sae::{Among, Base, Prefix, Select, Target};
use crate::device::{Device, Real};

mod operations;
mod selections;

/// Small multiples of 1/4: products are exact in f32, and many are equal.
fn coarse(len: usize, seed: u32) -> Vec<f64> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 29) / 4.0 - 0.75
        })
        .collect()
}

fn fine(len: usize, seed: u32) -> Vec<f64> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
        })
        .collect()
}

fn devices(threads: &[usize]) -> Vec<Cpu> {
    let isas = Isa::ALL.into_iter().filter(|isa| isa.available());
    isas.flat_map(|isa| {
        threads.iter().map(move |&t| Cpu {
            pool: Pool::with_isa(t, isa),
        })
    })
    .collect()
}

fn up<D: Device>(device: &D, values: &[f64]) -> D::Buf {
    let values: Vec<D::Real> = values.iter().map(|v| D::Real::from_f64(*v)).collect();
    device.upload(&values).unwrap()
}

fn down<D: Device>(device: &D, buf: &D::Buf) -> Vec<f64> {
    device
        .download(buf)
        .unwrap()
        .iter()
        .map(|v| v.to_f64())
        .collect()
}

fn ints<D: Device>(device: &D, values: &[u32]) -> D::Ints {
    let mut buf = device.zero_ints(values.len()).unwrap();
    device.write_ints(&mut buf, 0, values).unwrap();
    buf
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    tokens: usize,
    d: usize,
    latents: usize,
}

#[derive(Clone, Debug)]
enum Choice {
    TopK(usize, Option<Vec<u32>>),
    Batch(usize),
    Above,
}

/// Selections of one product: of all choices at once, or one by one.
fn pick<D: SaeOps>(
    device: &D,
    shape: Shape,
    choices: &[Choice],
    scaled: bool,
    data: fn(usize, u32) -> Vec<f64>,
) -> Vec<D::Codes> {
    let Shape { tokens, d, latents } = shape;
    // One row more in front, so that a batch does not begin where its buffer does.
    let x = up(device, &data((tokens + 1) * d, 1));
    let w_enc = up(device, &data(latents * d, 2));
    let [b_enc, lower] = [3, 4].map(|seed| up(device, &data(latents, seed)));
    let center = up(device, &data(d, 5));
    let norms: Vec<f64> = coarse(latents, 6).iter().map(|v| v.abs() + 0.25).collect();
    let norms = up(device, &norms);
    let scale = scaled.then_some(&norms);
    let lists: Vec<D::Ints> = choices
        .iter()
        .map(|choice| match choice {
            Choice::TopK(_, Some(among)) => ints(device, among),
            _ => ints(device, &[]),
        })
        .collect();
    let mut codes: Vec<D::Codes> = choices.iter().map(|_| device.new_codes()).collect();
    let mut picks: Vec<Pick<'_, D>> = Vec::new();
    for ((choice, list), codes) in choices.iter().zip(&lists).zip(&mut codes) {
        let select = match choice {
            Choice::TopK(k, among) => Select::TopK {
                k: *k,
                scale,
                among: among.as_ref().map(|among| Among {
                    latents: list,
                    count: among.len(),
                }),
            },
            Choice::Batch(total) => Select::BatchTopK {
                total: *total,
                scale,
            },
            Choice::Above => Select::Above { lower: &lower },
        };
        picks.push(Pick { select, codes });
    }
    let product = Encode {
        x: Rows {
            buf: &x,
            first: 1,
            count: tokens,
        },
        center: Some(&center),
        w_enc: &w_enc,
        b_enc: &b_enc,
        d_in: d,
        d_sae: latents,
    };
    device.encode(&product, &mut picks).unwrap();
    codes
}

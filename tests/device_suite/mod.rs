//! What every backend must pass: operations against the f64 reference, and selections against a
//! sort. Unit tests of a backend include this file as tests of the whole do.
#![allow(dead_code)]

pub mod operations;
pub mod rows;
pub mod selections;

use backpropd::device::sae::{
    AdamStep, Among, Base, Decode, EdgeGrads, Encode, HostCodes, OuterGrad, Penalty, Pick, Prefix,
    Reconstruct, Reconstruction, Rows, Rule, SaeOps, Select, Target,
};
use backpropd::device::{Device, Real, reference::Reference};

/// Small multiples of 1/4: products are exact in f32, and many are equal.
pub fn coarse(len: usize, seed: u32) -> Vec<f64> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 29) / 4.0 - 0.75
        })
        .collect()
}

pub fn fine(len: usize, seed: u32) -> Vec<f64> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
        })
        .collect()
}

pub fn up<D: Device>(device: &D, values: &[f64]) -> D::Buf {
    let values: Vec<D::Real> = values.iter().map(|v| D::Real::from_f64(*v)).collect();
    device.upload(&values).unwrap()
}

pub fn down<D: Device>(device: &D, buf: &D::Buf) -> Vec<f64> {
    device
        .download(buf)
        .unwrap()
        .iter()
        .map(|v| v.to_f64())
        .collect()
}

pub fn ints<D: Device>(device: &D, values: &[u32]) -> D::Ints {
    let mut buf = device.zero_ints(values.len()).unwrap();
    device.write_ints(&mut buf, 0, values).unwrap();
    buf
}

/// A product of x [., d] and w [., d], without a center.
pub fn product<'a, D: Device>(
    device: &D,
    [x, w_enc, b_enc]: [&'a D::Buf; 3],
    d: usize,
) -> Encode<'a, D::Buf> {
    Encode {
        x: Rows::of(x, device.len(x) / d),
        center: None,
        w_enc,
        b_enc,
        d_in: d,
        d_sae: device.len(b_enc),
        rounded: true,
    }
}

/// What one selection keeps of a product.
pub fn selected<D: SaeOps>(
    device: &D,
    product: &Encode<'_, D::Buf>,
    select: Select<'_, D::Buf, D::Ints>,
) -> HostCodes<D::Real> {
    let mut codes = device.new_codes();
    let pick = Pick {
        select,
        codes: &mut codes,
    };
    device.encode(product, &mut [pick]).unwrap();
    device.download_codes(&codes).unwrap()
}

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub tokens: usize,
    pub d: usize,
    pub latents: usize,
}

#[derive(Clone, Debug)]
pub enum Choice {
    TopK(usize, Option<Vec<u32>>),
    Batch(usize),
    Above,
}

/// Selections of one product: of all choices at once, or one by one.
pub fn pick<D: SaeOps>(
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
        rounded: true,
    };
    device.encode(&product, &mut picks).unwrap();
    codes
}

//! Layer norm and RMS norm over rows.

use super::simd::{fma, kernel};
use crate::device::cpu::Cpu;
use crate::device::cpu::isa::Isa;
use crate::device::lm::{Norm, NormKind};

/// Lanes of a sum over a row: its order of summation depends on nothing else.
const LANES: usize = 32;

/// `Σ f(xᵢ)` in [`LANES`] interleaved sums, then pairwise.
#[inline(always)]
fn lanes(x: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum = f(*x, *sum);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum = f(*x, *sum);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
        half /= 2;
    }
    sums[0]
}

kernel! {
    fn layer(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) {
        let n = x.len() as f32;
        let mean = lanes(x, |x, sum| sum + x) / n;
        let square = lanes(x, |x, sum| fma::<F>(x - mean, x - mean, sum)) / n;
        let scale = 1.0 / (square + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = (x - mean) * scale * weight;
        }
        if let Some(bias) = bias {
            out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
        }
    }
}

kernel! {
    fn rms(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) {
        let square = lanes(x, |x, sum| fma::<F>(x, x, sum)) / x.len() as f32;
        let scale = 1.0 / (square + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
        if let Some(bias) = bias {
            out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
        }
    }
}

/// `out` = the norm of the row `x`.
pub(super) fn row(isa: Isa, x: &[f32], norm: &Norm<Cpu>, out: &mut [f32]) {
    let kernel = match norm.kind {
        NormKind::Layer => layer,
        NormKind::Rms => rms,
    };
    let bias = norm.bias.as_deref();
    kernel(isa, x, &norm.weight, bias, norm.eps as f32, out);
}

/// Norms each part of `x` as wide as the norm, in place; `spare` is as long.
pub(super) fn in_place(isa: Isa, x: &mut [f32], norm: &Norm<Cpu>, spare: &mut [f32]) {
    let width = norm.weight.len();
    for part in x.chunks_exact_mut(width) {
        spare[..width].copy_from_slice(part);
        row(isa, &spare[..width], norm, part);
    }
}

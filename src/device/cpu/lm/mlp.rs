//! The MLP: two products with a nonlinearity between them, block of rows by block of rows,
//! so that the inner rows stay in cache.

use super::simd::{self, kernel};
use crate::device::cpu::Cpu;
use crate::device::cpu::memory::{Parts, Scratch};
use crate::device::cpu::pool::Pool;
use crate::device::lm::{Activation, Mlp};

/// Rows of a block, with weights in 32 bits.
const BLOCK: usize = 96;

/// `out` [rows, d] = the MLP of `x` [rows, d].
pub(super) fn mlp(pool: &Pool, x: &[f32], rows: usize, mlp: &Mlp<Cpu>, out: &mut [f32]) {
    let d = mlp.up.weight.k();
    let parts = Parts::new(out);
    let height = mlp.up.weight.block(BLOCK);
    let blocks = rows.div_ceil(height);
    let block = |index: usize| {
        let first = index * height;
        let rows = height.min(rows - first);
        // SAFETY: blocks of rows do not overlap.
        let out = unsafe { parts.part(first * d, rows * d) };
        self::block(pool, &x[first * d..][..rows * d], rows, mlp, out);
    };
    // A block in a task runs on one thread; few blocks are each shared among all threads.
    if blocks >= 2 * pool.threads() {
        pool.run(blocks, block);
    } else {
        (0..blocks).for_each(block);
    }
}

fn block(pool: &Pool, x: &[f32], rows: usize, mlp: &Mlp<Cpu>, out: &mut [f32]) {
    let width = mlp.up.weight.n();
    let mut inner = Scratch::take(rows * width);
    let bias = mlp.up.bias.as_deref();
    mlp.up.weight.product(pool, x, rows, bias, &mut inner);
    let down = |inner: &[f32], out: &mut [f32]| {
        let bias = mlp.down.bias.as_deref();
        mlp.down.weight.product(pool, inner, rows, bias, out);
    };
    if mlp.gated {
        let mut hidden = Scratch::take(rows * mlp.d_mlp);
        let pairs = hidden
            .chunks_exact_mut(mlp.d_mlp)
            .zip(inner.chunks_exact(width));
        for (hidden, inner) in pairs {
            let (gate, up) = inner.split_at(mlp.d_mlp);
            gated(pool.isa(), mlp.activation, gate, up, hidden);
        }
        down(&hidden, out);
    } else {
        plain(pool.isa(), mlp.activation, &mut inner);
        down(&inner, out);
    }
}

kernel! {
    /// `out = act(gate) ⊙ up`.
    fn gated(activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
        let rows = out.iter_mut().zip(gate).zip(up);
        match activation {
            Activation::Gelu => rows.for_each(|((o, g), u)| *o = simd::gelu::<F>(*g) * u),
            Activation::GeluTanh => rows.for_each(|((o, g), u)| *o = simd::gelu_tanh::<F>(*g) * u),
            Activation::Silu => rows.for_each(|((o, g), u)| *o = simd::silu::<F>(*g) * u),
            Activation::Relu => rows.for_each(|((o, g), u)| *o = simd::max(0.0, *g) * u),
        }
    }
}

kernel! {
    /// `x = act(x)`.
    fn plain(activation: Activation, x: &mut [f32]) {
        match activation {
            Activation::Gelu => x.iter_mut().for_each(|x| *x = simd::gelu::<F>(*x)),
            Activation::GeluTanh => x.iter_mut().for_each(|x| *x = simd::gelu_tanh::<F>(*x)),
            Activation::Silu => x.iter_mut().for_each(|x| *x = simd::silu::<F>(*x)),
            Activation::Relu => x.iter_mut().for_each(|x| *x = simd::max(0.0, *x)),
        }
    }
}

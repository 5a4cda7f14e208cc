//! Logits, and the cross-entropy of chosen tokens without holding the logits.

use super::simd::{self, kernel};
use crate::device::cpu::Cpu;
use crate::device::cpu::memory::{Parts, Scratch};
use crate::device::cpu::pool::Pool;
use crate::device::lm::{Head, NO_TARGET};

/// Rows of a block: with a tile of the vocabulary its logits take a few MiB. Four times as
/// many where the tiles are in codes.
const BLOCK: usize = 96;

/// `out` [rows, vocab] = logits of `x` [rows, d].
pub(super) fn logits(pool: &Pool, x: &[f32], rows: usize, head: &Head<Cpu>, out: &mut [f32]) {
    let d = head.tiles[0].k();
    let height = head.tiles[0].block(BLOCK);
    for (first, x) in x[..rows * d].chunks(height * d).enumerate() {
        let rows = x.len() / d;
        for (index, tile) in head.tiles.iter().enumerate() {
            let n = tile.n();
            let mut part = Scratch::take(rows * n);
            tile.product(pool, x, rows, None, &mut part);
            cap(pool, head.softcap, &mut part);
            for (row, part) in part.chunks_exact(n).enumerate() {
                let place = (first * height + row) * head.vocab + index * head.tile;
                out[place..place + n].copy_from_slice(part);
            }
        }
    }
}

/// `out[r]` = the loss of `targets[r]` at row r of `x`, where there is one.
pub(super) fn losses(pool: &Pool, x: &[f32], head: &Head<Cpu>, targets: &[u32], out: &mut [f64]) {
    let asked: Vec<usize> = (0..targets.len())
        .filter(|&r| targets[r] != NO_TARGET)
        .collect();
    let mut found = vec![0.0; asked.len()];
    let parts = Parts::new(&mut found);
    let height = head.tiles[0].block(BLOCK);
    let block = |index: usize| {
        let rows = &asked[index * height..asked.len().min((index + 1) * height)];
        // SAFETY: blocks do not overlap.
        let found = unsafe { parts.part(index * height, rows.len()) };
        self::block(pool, x, head, rows, targets, found);
    };
    let blocks = asked.len().div_ceil(height);
    // A block in a task runs on one thread; few blocks are each shared among all threads.
    if blocks >= 2 * pool.threads() {
        pool.run(blocks, block);
    } else {
        (0..blocks).for_each(block);
    }
    for (&r, loss) in asked.iter().zip(found) {
        out[r] = loss;
    }
}

/// A row's logits so far: the largest, Σ e^(logit − largest), and the target's.
#[derive(Clone, Copy)]
struct Running {
    max: f32,
    sum: f64,
    target: f32,
}

fn block(
    pool: &Pool,
    x: &[f32],
    head: &Head<Cpu>,
    rows: &[usize],
    targets: &[u32],
    found: &mut [f64],
) {
    let d = head.tiles[0].k();
    let mut gathered = Scratch::take(rows.len() * d);
    for (to, &r) in gathered.chunks_exact_mut(d).zip(rows) {
        to.copy_from_slice(&x[r * d..][..d]);
    }
    let mut running = vec![
        Running {
            max: f32::NEG_INFINITY,
            sum: 0.0,
            target: 0.0,
        };
        rows.len()
    ];
    for (index, tile) in head.tiles.iter().enumerate() {
        let n = tile.n();
        let mut logits = Scratch::take(rows.len() * n);
        tile.product(pool, &gathered, rows.len(), None, &mut logits);
        cap(pool, head.softcap, &mut logits);
        let first = index * head.tile;
        for ((row, logits), &r) in running.iter_mut().zip(logits.chunks_exact(n)).zip(rows) {
            if let Some(logit) = (targets[r] as usize)
                .checked_sub(first)
                .and_then(|at| logits.get(at))
            {
                row.target = *logit;
            }
            let (max, sum) = sum_exp(pool.isa(), logits, row.max);
            row.sum = row.sum * f64::from(row.max - max).exp() + sum;
            row.max = max;
        }
    }
    for (found, row) in found.iter_mut().zip(&running) {
        *found = f64::from(row.max) - f64::from(row.target) + row.sum.ln();
    }
}

fn cap(pool: &Pool, softcap: Option<f64>, logits: &mut [f32]) {
    if let Some(c) = softcap {
        softcapped(pool.isa(), c as f32, logits);
    }
}

kernel! {
    /// `x = c · tanh(x / c)`.
    pub(super) fn softcapped(c: f32, x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = c * simd::tanh::<F>(*x / c));
    }
}

const LANES: usize = 32;

kernel! {
    /// The largest of `x` and `max`, and Σ e^(x − largest).
    fn sum_exp(x: &[f32], max: f32) -> (f32, f64) {
        let (whole, rest) = x.as_chunks::<LANES>();
        let mut largest = [max; LANES];
        for chunk in whole {
            for (largest, x) in largest.iter_mut().zip(chunk) {
                *largest = simd::max(*largest, *x);
            }
        }
        let max = largest.iter().chain(rest).fold(max, |a, b| simd::max(a, *b));
        let mut sums = [0.0_f32; LANES];
        for chunk in whole {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum += simd::exp::<F>(x - max);
            }
        }
        for (sum, x) in sums.iter_mut().zip(rest) {
            *sum += simd::exp::<F>(x - max);
        }
        (max, sums.iter().map(|s| f64::from(*s)).sum())
    }
}

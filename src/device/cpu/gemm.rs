//! Matrix products with a packed right-hand side: `out = a · wᵀ`.
//!
//! Both sides are packed into panels ([`super::tile`]). Tasks are blocks of rows and
//! outputs; consecutive tasks share a block of `w` that fits in L3, and a task's block of
//! `a` fits in L2.

use super::memory::{Aligned, Parts, Scratch};
use super::pack::{self, View};
use super::pool::Pool;
use super::tile::{KC, MR, NR, Tile};

/// The longest sum that is formed before the output is touched: packed rows of `a` of this
/// length leave room in L2 for a useful number of them.
const K_GROUP: usize = 16 * KC;
/// Floats of a task's block of `a`.
const A_BLOCK: usize = 96 << 10;
/// Floats of a block of `w`.
const W_BLOCK: usize = 1 << 20;

/// A weight matrix [n, k] (rows are outputs), packed once for [`gemm`].
pub struct PackedWeight {
    n: usize,
    k: usize,
    /// For each group of at most [`K_GROUP`] values of k, the panels `[n / NR][k][NR]`.
    data: Aligned,
}

impl PackedWeight {
    /// Packs `w` [n, k], row-major.
    pub fn new(w: &[f32], n: usize, k: usize) -> Self {
        assert_eq!(w.len(), n * k);
        let w = View::rows(w, k);
        let mut data = Aligned::zeros(n.div_ceil(NR) * NR * k);
        let mut panels = &mut data[..];
        for (start, len) in groups(k) {
            for first in (0..n).step_by(NR) {
                let panel;
                (panel, panels) = panels.split_at_mut(len * NR);
                pack::panel::<NR>(w.skip_columns(start), first, NR.min(n - first), None, panel);
            }
        }
        Self { n, k, data }
    }

    /// Outputs of the product.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Length of the inner products.
    pub fn k(&self) -> usize {
        self.k
    }
}

/// The groups of k, as (start, length); one empty group where `k` is 0.
fn groups(k: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..k.max(1))
        .step_by(K_GROUP)
        .map(move |start| (start, K_GROUP.min(k - start)))
}

/// `out[m, n] = a[m, k] · wᵀ + bias`, or `out += …` where `accumulate`.
///
/// Every element's sum runs over k in one fixed order, whatever `m`, the number of
/// threads, or the place of the row in the batch.
pub fn gemm(
    pool: &Pool,
    a: &[f32],
    m: usize,
    w: &PackedWeight,
    bias: Option<&[f32]>,
    accumulate: bool,
    out: &mut [f32],
) {
    let (n, k) = (w.n, w.k);
    assert_eq!(a.len(), m * k);
    let a = View::rows(a, k);
    for (start, len) in groups(k) {
        let width = n.div_ceil(NR) * NR;
        let w = &w.data[width * start..][..width * len];
        let a = pack_panels::<MR>(pool, a.skip_columns(start), m, len, None);
        let store = Store::new(out, m, n, bias, accumulate, start);
        tiles(pool, &a, w, m, n, len, &store);
    }
}

/// As [`gemm`], of matrices `a` [m, k] and `w` [n, k] of any layout.
pub fn product(
    pool: &Pool,
    a: View<'_>,
    w: View<'_>,
    (m, n, k): (usize, usize, usize),
    bias: Option<&[f32]>,
    accumulate: bool,
    out: &mut [f32],
) {
    for (start, len) in groups(k) {
        let a = pack_panels::<MR>(pool, a.skip_columns(start), m, len, None);
        let w = pack_panels::<NR>(pool, w.skip_columns(start), n, len, None);
        let store = Store::new(out, m, n, bias, accumulate, start);
        tiles(pool, &a, &w, m, n, len, &store);
    }
}

/// Packs the rows of `m` [rows, k], less `minus` [k], into panels `[rows / W][k][W]`.
pub(super) fn pack_panels<const W: usize>(
    pool: &Pool,
    m: View<'_>,
    rows: usize,
    k: usize,
    minus: Option<&[f32]>,
) -> Scratch {
    /// Panels a task.
    const CHUNK: usize = 4;
    let panels = rows.div_ceil(W);
    let mut packed = Scratch::take(panels * W * k);
    let parts = Parts::new(&mut packed);
    pool.run(panels.div_ceil(CHUNK), |task| {
        for index in task * CHUNK..panels.min((task + 1) * CHUNK) {
            // SAFETY: each panel belongs to one task.
            let panel = unsafe { parts.part(index * W * k, W * k) };
            let first = index * W;
            pack::panel::<W>(m, first, W.min(rows - first), minus, panel);
        }
    });
    packed
}

/// Where and how a product's tiles are written.
struct Store<'a> {
    n: usize,
    bias: Option<&'a [f32]>,
    add: bool,
    out: Parts<'a, f32>,
}

impl<'a> Store<'a> {
    /// The place of the products of the group of k that begins at `start`.
    fn new(
        out: &'a mut [f32],
        m: usize,
        n: usize,
        bias: Option<&'a [f32]>,
        accumulate: bool,
        start: usize,
    ) -> Self {
        assert_eq!(out.len(), m * n);
        assert!(bias.is_none_or(|b| b.len() == n));
        Self {
            n,
            bias: bias.filter(|_| start == 0),
            add: accumulate || start > 0,
            out: Parts::new(out),
        }
    }

    /// Writes the part of `tile` that lies inside `out`.
    ///
    /// # Safety
    /// No other thread writes this part.
    unsafe fn tile(&self, tile: &Tile, row: usize, rows: usize, col: usize) {
        let cols = NR.min(self.n - col);
        let mut bias = [0.0; NR];
        if let Some(all) = self.bias {
            bias[..cols].copy_from_slice(&all[col..col + cols]);
        }
        for i in 0..rows {
            // SAFETY: the caller's promise.
            let out = unsafe { self.out.part((row + i) * self.n + col, cols) };
            let sums = tile.row(i);
            // A full row has a length that the compiler knows.
            match <&mut [f32; NR]>::try_from(&mut *out) {
                Ok(out) => self.row(out, sums, &bias),
                Err(_) => self.row(out, &sums[..cols], &bias[..cols]),
            }
        }
    }

    #[inline(always)]
    fn row(&self, out: &mut [f32], sums: &[f32], bias: &[f32]) {
        for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
            *out = match self.add {
                true => *out + (sum + bias),
                false => sum + bias,
            };
        }
    }
}

/// All tiles of one group of k.
fn tiles(pool: &Pool, a: &[f32], w: &[f32], m: usize, n: usize, k: usize, store: &Store<'_>) {
    let (rows, cols) = blocks(pool, m, n, k);
    let (row_blocks, col_blocks) = (m.div_ceil(rows * MR), n.div_ceil(cols * NR));
    pool.run(row_blocks * col_blocks, |task| {
        let (col_block, row_block) = (task / row_blocks, task % row_blocks);
        let mut tile = Tile::new();
        for col in (col_block * cols..).take(cols).take_while(|c| c * NR < n) {
            let w = &w[col * NR * k..][..NR * k];
            for row in (row_block * rows..).take(rows).take_while(|r| r * MR < m) {
                tile.product(pool.isa(), &a[row * MR * k..][..MR * k], w);
                // SAFETY: each tile belongs to one task.
                unsafe { store.tile(&tile, row * MR, MR.min(m - row * MR), col * NR) };
            }
        }
    });
}

/// Panels of rows and of columns in a task: as large as the caches allow, and small enough
/// that every thread gets several tasks. The sums do not depend on it.
fn blocks(pool: &Pool, m: usize, n: usize, k: usize) -> (usize, usize) {
    let (panels_m, panels_n) = (m.div_ceil(MR), n.div_ceil(NR));
    let even = |panels: usize, most: usize| {
        let most = most.clamp(1, panels.max(1));
        panels.div_ceil(panels.div_ceil(most).max(1)).max(1)
    };
    let mut rows = even(panels_m, A_BLOCK / (MR * k.max(1)));
    let mut cols = even(panels_n, W_BLOCK / (NR * k.max(1)));
    let wanted = 6 * pool.threads();
    while panels_m.div_ceil(rows) * panels_n.div_ceil(cols) < wanted && rows * cols > 8 {
        if rows * MR > cols * NR || cols == 1 {
            rows = rows.div_ceil(2);
        } else {
            cols = cols.div_ceil(2);
        }
    }
    (rows, cols)
}

#[cfg(test)]
mod tests;

//! Matrix products with a packed right-hand side: `out = a · wᵀ`.
//!
//! Both sides are packed into panels (`tile`). Tasks are blocks of rows and
//! outputs; consecutive tasks share a block of `w` that fits in L3, and a task's block of
//! `a` fits in L2.

use super::memory::{Aligned, Parts, Scratch};
use super::pack::{self, View};
use super::pool::Pool;
use super::store::Store;
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
        let bias = bias.filter(|_| start == 0);
        let store = Store::new(out, m, n, bias, accumulate || start > 0);
        tiles(pool, a.skip_columns(start), w, (m, n, len), &store);
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
        let w = pack_panels::<NR>(pool, w.skip_columns(start), n, len, None);
        let bias = bias.filter(|_| start == 0);
        let store = Store::new(out, m, n, bias, accumulate || start > 0);
        tiles(pool, a.skip_columns(start), &w, (m, n, len), &store);
    }
}

/// `out[m, n] = a[m, k] · wᵀ + bias`, where `decode` writes a part of a row of `w` [n, k],
/// from a column on: it is called for a block of rows that fits in L3 at a time.
pub fn decoded(
    pool: &Pool,
    a: &[f32],
    (m, n, k): (usize, usize, usize),
    decode: impl Fn(usize, usize, &mut [f32]) + Sync,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    assert_eq!(a.len(), m * k);
    let a = View::rows(a, k);
    for (start, len) in groups(k) {
        let bias = bias.filter(|_| start == 0);
        let cols = (W_BLOCK / (NR * len.max(1))).max(1) * NR;
        for first in (0..n).step_by(cols) {
            let cols = cols.min(n - first);
            let row = |row: usize, to: &mut [f32]| decode(first + row, start, to);
            let w = decode_panels(pool, cols, len, row);
            let store = Store::new(out, m, n, bias, start > 0).beginning_at(first);
            tiles(pool, a.skip_columns(start), &w, (m, cols, len), &store);
        }
    }
}

/// As [`pack_panels`], of rows that `decode` writes.
fn decode_panels(
    pool: &Pool,
    rows: usize,
    k: usize,
    decode: impl Fn(usize, &mut [f32]) + Sync,
) -> Scratch {
    let panels = rows.div_ceil(NR);
    let mut packed = Scratch::take(panels * NR * k);
    let parts = Parts::new(&mut packed);
    pool.run(panels, |index| {
        // SAFETY: each panel belongs to one task.
        let panel = unsafe { parts.part(index * NR * k, NR * k) };
        let first = index * NR;
        let count = NR.min(rows - first);
        let mut plain = Scratch::take(count * k);
        for (row, to) in plain.chunks_exact_mut(k.max(1)).enumerate() {
            decode(first + row, to);
        }
        pack::panel::<NR>(View::rows(&plain, k), 0, count, None, panel);
    });
    packed
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

/// All tiles of one group of k; `w` is packed.
fn tiles(pool: &Pool, a: View<'_>, w: &[f32], (m, n, k): (usize, usize, usize), to: &Store<'_>) {
    let (panels_m, panels_n) = (m.div_ceil(MR), n.div_ceil(NR));
    let (rows, cols) = blocks(pool, panels_m, panels_n, k);
    let row_blocks = panels_m.div_ceil(rows);
    let col_blocks = panels_n.div_ceil(cols);
    // Rows that are used by one task only are packed by it: they are still in L2 then.
    let packed = (col_blocks > 1).then(|| pack_panels::<MR>(pool, a, m, k, None));
    pool.run(row_blocks * col_blocks, |task| {
        let (col_block, row_block) = (task / row_blocks, task % row_blocks);
        let rows = row_block * rows..panels_m.min((row_block + 1) * rows);
        let cols = col_block * cols..panels_n.min((col_block + 1) * cols);
        let own = packed.is_none().then(|| {
            let mut own = Scratch::take(rows.len() * MR * k);
            for (row, panel) in rows.clone().zip(own.chunks_exact_mut((MR * k).max(1))) {
                let first = row * MR;
                pack::panel::<MR>(a, first, MR.min(m - first), None, panel);
            }
            own
        });
        let a = match (&packed, &own) {
            (Some(packed), _) => &packed[rows.start * MR * k..],
            (_, Some(own)) => &own[..],
            _ => unreachable!("one of them is there"),
        };
        let mut tile = Tile::new();
        for col in cols {
            let w = &w[col * NR * k..][..NR * k];
            let bias = to.bias(col * NR);
            for row in rows.clone() {
                to.prefetch(row * MR, col * NR);
                tile.product(pool.isa(), &a[(row - rows.start) * MR * k..][..MR * k], w);
                // SAFETY: each tile belongs to one task.
                unsafe { to.tile(pool.isa(), &tile, &bias, row * MR, col * NR) };
            }
        }
    });
}

/// Panels of rows and of columns in a task: as large as the caches allow, and small enough
/// that every thread gets several tasks. The sums do not depend on it.
fn blocks(pool: &Pool, panels_m: usize, panels_n: usize, k: usize) -> (usize, usize) {
    let even = |panels: usize, most: usize| {
        let most = most.clamp(1, panels.max(1));
        panels.div_ceil(panels.div_ceil(most).max(1)).max(1)
    };
    let mut rows = even(panels_m, A_BLOCK / (MR * k.max(1)));
    let mut cols = even(panels_n, W_BLOCK / (NR * k.max(1)));
    let wanted = 6 * pool.threads();
    while panels_m.div_ceil(rows) * panels_n.div_ceil(cols) < wanted {
        // With fewer than four panels of rows the traffic of `w` shows.
        match (rows, cols) {
            (8.., _) => rows = rows.div_ceil(2),
            (_, 2..) => cols = cols.div_ceil(2),
            _ => break,
        }
    }
    (rows, cols)
}

#[cfg(test)]
mod tests;

//! Where and how the tiles of a product are written.

use super::memory::Parts;
use super::simd::{LANES, for_each_isa};
use super::tile::{MR, NR, Tile};
use super::{isa::Isa, simd};

/// The output [m, n] of a product, and what happens to it.
pub struct Store<'a> {
    m: usize,
    n: usize,
    /// Column of the output at which the tiles begin.
    first: usize,
    bias: Option<&'a [f32]>,
    add: bool,
    out: Parts<'a, f32>,
}

impl<'a> Store<'a> {
    /// `out` = tiles + bias, or `out` += tiles + bias where `add`.
    pub fn new(out: &'a mut [f32], m: usize, n: usize, bias: Option<&'a [f32]>, add: bool) -> Self {
        assert_eq!(out.len(), m * n);
        assert!(bias.is_none_or(|b| b.len() == n));
        let out = Parts::new(out);
        Self {
            m,
            n,
            first: 0,
            bias,
            add,
            out,
        }
    }

    /// For tiles that begin at column `first`, a multiple of [`NR`].
    pub fn beginning_at(self, first: usize) -> Self {
        Self { first, ..self }
    }

    /// The bias of the columns from `col` on; 0 where there is none.
    pub fn bias(&self, col: usize) -> [f32; NR] {
        let col = self.first + col;
        let mut bias = [0.0; NR];
        if let Some(all) = self.bias {
            let cols = NR.min(self.n - col);
            bias[..cols].copy_from_slice(&all[col..col + cols]);
        }
        bias
    }

    /// Fetches the place of a tile, which may be far away, while its product is formed.
    pub fn prefetch(&self, row: usize, col: usize) {
        let col = self.first + col;
        let cols = NR.min(self.n - col);
        for row in row..self.m.min(row + MR) {
            // SAFETY: nothing is read or written through it.
            simd::prefetch(unsafe { self.out.part(row * self.n + col, cols) });
        }
    }

    /// Writes the part of `tile` that lies inside the output.
    ///
    /// # Safety
    /// No other thread uses this part.
    pub unsafe fn tile(&self, isa: Isa, tile: &Tile, bias: &[f32; NR], row: usize, col: usize) {
        let col = self.first + col;
        let cols = NR.min(self.n - col);
        let rows = MR.min(self.m - row);
        // SAFETY: the caller's promise.
        let out = |i: usize| unsafe { self.out.part((row + i) * self.n + col, cols) };
        if cols == NR {
            let mut full: [&mut [f32]; MR] = std::array::from_fn(|i| match i < rows {
                true => out(i),
                false => &mut [],
            });
            return write(isa, tile, bias, self.add, &mut full[..rows]);
        }
        for i in 0..rows {
            let sums = tile.row(i).iter().zip(bias).map(|(sum, bias)| sum + bias);
            for (out, sum) in out(i).iter_mut().zip(sums) {
                *out = if self.add { *out + sum } else { sum };
            }
        }
    }
}

for_each_isa! {
    fn write<L>(tile: &Tile, bias: &[f32; NR], add: bool, out: &mut [&mut [f32]]) {
        for (i, out) in out.iter_mut().enumerate() {
            for c in (0..NR).step_by(LANES) {
                let mut sum = L::load(&tile.row(i)[c..]).plus(L::load(&bias[c..]));
                if add {
                    sum = L::load(&out[c..]).plus(sum);
                }
                sum.store(&mut out[c..]);
            }
        }
    }
}

//! Dense products in f32.

use super::Cuda;
use super::launch::{Shape, count};
use super::memory::{In, Out};
use crate::domain::Result;

/// Side of the smaller tiles; the larger are twice as wide.
pub const TILE: usize = 64;
/// Larger tiles are taken where there are as many, which is as many as large GPUs have
/// multiprocessors: smaller ones keep them all busy then, and sums are the same.
pub const ENOUGH: usize = 132;

/// Tiles of this side for a product of [m, n]: two stretches of 16 values of both factors.
fn tiles(side: usize, m: usize, n: usize) -> Shape {
    Shape {
        blocks: [n.div_ceil(side), m.div_ceil(side)],
        threads: 256,
        shared: 4 * 16 * (side + 4) * 4,
    }
}

/// The shape of `product_tn`.
pub fn small_tiles(m: usize, n: usize) -> Shape {
    tiles(TILE, m, n)
}

impl Cuda {
    /// c [m, n] = (a − center)·bᵀ + bias, with rows of `columns` in `c`; see `product_nt`.
    pub(super) fn product(
        &self,
        a: In<'_, f32>,
        center: Option<In<'_, f32>>,
        b: In<'_, f32>,
        pick: Option<In<'_, u32>>,
        bias: Option<In<'_, f32>>,
        c: Out<'_, f32>,
        [m, n, k]: [usize; 3],
        columns: usize,
    ) -> Result<()> {
        let (gpu, kernels, columns) = (&self.gpu, &self.kernels, count(columns));
        let (small, large) = (tiles(TILE, m, n), tiles(2 * TILE, m, n));
        let [m, n, k] = [m, n, k].map(count);
        if large.blocks[0] * large.blocks[1] >= self.enough {
            kernels.product_wide(gpu, large, a, center, b, pick, bias, c, m, n, k, columns)
        } else {
            kernels.product_nt(gpu, small, a, center, b, pick, bias, c, m, n, k, columns)
        }
    }
}

//! Weights of language models as products read them.

use crate::device::coded::Coded;
use crate::device::cpu::gemm::{self, PackedWeight};
use crate::device::cpu::pool::Pool;

/// A weight matrix [n, k].
pub enum Weight {
    /// In 32 bits, packed once.
    Packed(PackedWeight),
    /// In codes, which every product decodes and packs again.
    Coded(Coded),
}

impl Weight {
    /// Outputs of the product.
    pub fn n(&self) -> usize {
        match self {
            Self::Packed(w) => w.n(),
            Self::Coded(w) => w.n(),
        }
    }

    /// Length of the inner products.
    pub fn k(&self) -> usize {
        match self {
            Self::Packed(w) => w.k(),
            Self::Coded(w) => w.k(),
        }
    }

    /// Rows of a block of `rows`, where blocks stand between two products: the inner rows
    /// stay in cache, and what is decoded serves enough of them.
    pub fn block(&self, rows: usize) -> usize {
        match self {
            Self::Packed(_) => rows,
            Self::Coded(_) => 4 * rows,
        }
    }

    /// `out[m, n] = a[m, k] · wᵀ + bias`. Codes give the bits that packing the decoded
    /// matrix would give.
    pub fn product(&self, pool: &Pool, a: &[f32], m: usize, bias: Option<&[f32]>, out: &mut [f32]) {
        match self {
            Self::Packed(w) => gemm::gemm(pool, a, m, w, bias, false, out),
            Self::Coded(w) => {
                let row = |row: usize, start: usize, to: &mut [f32]| w.decode(row, start, to);
                gemm::decoded(pool, a, (m, w.n(), w.k()), row, bias, out);
            }
        }
    }
}

//! Factors of products whose sums run along the rows of both: as they are, or turned, in what the
//! device multiplies: f32, or bf16 where numbers are rounded, also to fp16. They hold gradients and
//! values of every size, of which bf16 has the range without a scale.

use super::Cuda;
use super::halves::Half;
use super::launch::{Shape, count};
use super::memory::{In, Memory, Out};
use super::tensor::{DEPTH, HOPPER, portable};
use crate::domain::{Amp, Code, Error, Result};

/// Side of the tiles in which a matrix is turned.
const SIDE: usize = 64;
/// What a block needs for one.
const TILE_SHARED: usize = SIDE * (SIDE + 1) * 4;
/// Values that tensor cores load at a time: rows in bf16 are multiples.
const PIECE: usize = 8;

/// A factor [n, k].
pub enum Factor<'a> {
    /// In f32, where it was.
    Given(In<'a, f32>),
    /// In f32.
    Made(Memory<f32>),
    /// In bf16, in rows or in panels with 0 behind them; whole panels fit either side.
    Rounded(Memory<u16>),
}

impl Factor<'_> {
    fn f32(&self) -> Option<In<'_, f32>> {
        match self {
            Self::Given(rows) => Some(*rows),
            Self::Made(rows) => Some(rows.input(0, rows.len())),
            Self::Rounded(_) => None,
        }
    }
}

impl Cuda {
    /// The rows [n, k] as a factor.
    pub(super) fn factor<'a>(&self, rows: In<'a, f32>, n: usize, k: usize) -> Result<Factor<'a>> {
        let half = Half::Bf16;
        Ok(match (self.amp, self.wgmma) {
            (Amp::Off, _) => Factor::Given(rows),
            (Amp::Bf16 | Amp::Fp16, true) => {
                Factor::Rounded(half.panels(self, rows, None, None, [n, k, HOPPER[1]])?)
            }
            (Amp::Bf16 | Amp::Fp16, false) => {
                let padded = k.next_multiple_of(PIECE);
                Factor::Rounded(half.rows(self, rows, None, 1.0, [n, k, padded])?)
            }
        })
    }

    /// The columns of the rows [k, n], each less its `center`, as a factor [n, k].
    pub(super) fn turned(
        &self,
        rows: In<'_, f32>,
        center: Option<In<'_, f32>>,
        k: usize,
        n: usize,
    ) -> Result<Factor<'static>> {
        let (gpu, kernels) = (&self.gpu, &self.kernels);
        let (wide, padded) = match (self.amp, self.wgmma) {
            (Amp::Off, _) => (n, k),
            (Amp::Bf16 | Amp::Fp16, true) => {
                (n.next_multiple_of(HOPPER[1]), k.next_multiple_of(DEPTH))
            }
            (Amp::Bf16 | Amp::Fp16, false) => (n, k.next_multiple_of(PIECE)),
        };
        let len = wide * padded;
        let shape = Shape {
            blocks: [wide.div_ceil(SIDE), padded.div_ceil(SIDE)],
            threads: 256,
            shared: TILE_SHARED,
        };
        let [k, n, wide, padded] = [k, n, wide, padded].map(count);
        Ok(match self.amp {
            Amp::Off => {
                let mut out = Memory::new(gpu, len)?;
                kernels.turn(gpu, shape, rows, center, out.output(len), k, n)?;
                Factor::Made(out)
            }
            Amp::Bf16 | Amp::Fp16 => {
                let (mut out, panels) = (Memory::new(gpu, len)?, u32::from(self.wgmma));
                let to = out.output(len);
                kernels.turn_to_bf16(gpu, shape, rows, center, to, k, n, wide, padded, panels)?;
                Factor::Rounded(out)
            }
        })
    }

    /// c [m, n] = a · bᵀ + bias, of factors [m, k] and [n, k].
    pub(super) fn multiply(
        &self,
        a: &Factor<'_>,
        b: &Factor<'_>,
        bias: Option<In<'_, f32>>,
        c: Out<'_, f32>,
        [m, n, k]: [usize; 3],
    ) -> Result<()> {
        let (gpu, kernels) = (&self.gpu, &self.kernels);
        if let (Factor::Rounded(a), Factor::Rounded(b)) = (a, b) {
            let (a, b) = (a.input(0, a.len()), b.input(0, b.len()));
            let [rows, columns] = [m, n].map(count);
            return if self.wgmma {
                let (shape, depths) = (self.hopper(m, n), count(k.div_ceil(DEPTH)));
                kernels.product_hopper(
                    gpu, shape, a, b, None, bias, c, rows, columns, depths, columns,
                )
            } else {
                let (shape, k) = (portable(m, n), count(k.next_multiple_of(PIECE)));
                kernels.product_bf16(gpu, shape, a, b, None, bias, c, rows, columns, k, columns)
            };
        }
        let (Some(a), Some(b)) = (a.f32(), b.f32()) else {
            let message = "its factors are not held alike";
            return Err(Error::new(Code::Internal, "a product", message));
        };
        self.product(a, None, b, None, bias, c, [m, n, k], n)
    }
}

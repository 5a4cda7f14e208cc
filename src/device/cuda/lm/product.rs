//! Weight matrices on the GPU and the products with them: in f32, or out of bf16 on tensor cores
//! with f32 sums. The one place that knows how factors lie in memory.

use crate::device::coded::Coded;
use crate::device::cuda::Cuda;
use crate::device::cuda::launch::{Shape, count};
use crate::device::cuda::memory::{In, Memory, Out};
use crate::domain::{Code, Error, Result};

/// Values of k in what tensor cores load at a time.
const PIECE: usize = 8;
/// Side of a tile of `product_bf16`.
const SIDE_BF16: usize = 128;
/// Shared memory of `product_bf16`: three stages of two panels of 128 rows of 40.
const SHARED_BF16: usize = 3 * 2 * 128 * 40 * 2;

/// A weight matrix [n, k].
pub struct Matrix {
    held: Held,
    pub n: usize,
    pub k: usize,
}

enum Held {
    F32(Memory<f32>),
    /// Rows of a multiple of 8, with 0 behind them.
    Bf16(Memory<u16>),
}

/// Rows [m, k] as the products with a matrix take them.
pub struct Factor<'a> {
    rows: Rows<'a>,
    m: usize,
}

enum Rows<'a> {
    F32(In<'a, f32>),
    Bf16(Memory<u16>),
}

/// The codes of bf16, the only ones that kernels read.
///
/// # Errors
/// `model-unsupported` for all others.
pub fn bits(coded: &Coded) -> Result<&[u16]> {
    coded.bf16_bits().ok_or_else(|| {
        let message = "GPUs hold language models in f32 and bf16 only, as yet";
        Error::new(Code::ModelUnsupported, "model.precision", message)
            .hint("set it to one of these, or run with --device cpu")
    })
}

impl Factor<'_> {
    /// Rows that were written as [`Matrix::padded`] says.
    pub fn bf16(rows: Memory<u16>, m: usize) -> Self {
        let rows = Rows::Bf16(rows);
        Self { rows, m }
    }
}

impl Matrix {
    pub fn plain(cuda: &Cuda, w: &[f32], n: usize, k: usize) -> Result<Self> {
        let held = Held::F32(Memory::of(&cuda.gpu, &w[..n * k])?);
        Ok(Self { held, n, k })
    }

    pub fn coded(cuda: &Cuda, coded: &Coded) -> Result<Self> {
        let (n, k, bits) = (coded.n(), coded.k(), bits(coded)?);
        let padded = k.next_multiple_of(PIECE);
        let rows = if padded == k {
            Memory::of(&cuda.gpu, bits)?
        } else {
            let mut rows = vec![0; n * padded];
            for (to, row) in rows.chunks_exact_mut(padded).zip(bits.chunks_exact(k)) {
                to[..k].copy_from_slice(row);
            }
            Memory::of(&cuda.gpu, &rows)?
        };
        let held = Held::Bf16(rows);
        Ok(Self { held, n, k })
    }

    /// Length of the rows that a factor in bf16 has; none where it is in f32.
    pub fn padded(&self) -> Option<usize> {
        match self.held {
            Held::F32(_) => None,
            Held::Bf16(_) => Some(self.k.next_multiple_of(PIECE)),
        }
    }

    /// `x` [m, k] for products with this matrix and those that are held and as deep as it is.
    pub fn factor<'a>(&self, cuda: &Cuda, x: In<'a, f32>, m: usize) -> Result<Factor<'a>> {
        let rows = match self.padded() {
            None => Rows::F32(x),
            Some(padded) => {
                let mut rows = Memory::new(&cuda.gpu, m * padded)?;
                let (shape, out) = (Shape::warps(m), rows.output(m * padded));
                let [rows_of, k, padded] = [m, self.k, padded].map(count);
                let (gpu, kernels) = (&cuda.gpu, &cuda.kernels);
                kernels.round_to_bf16(gpu, shape, x, None, out, rows_of, k, padded)?;
                Rows::Bf16(rows)
            }
        };
        Ok(Factor { rows, m })
    }

    /// c [m, n] = x · selfᵀ + bias; rows of c begin every `columns`.
    pub fn apply(
        &self,
        cuda: &Cuda,
        x: &Factor<'_>,
        bias: Option<&Memory<f32>>,
        c: Out<'_, f32>,
        columns: usize,
    ) -> Result<()> {
        let (n, gpu, kernels) = (self.n, &cuda.gpu, &cuda.kernels);
        let bias = bias.map(|bias| bias.input(0, n));
        let blocks = |side: usize| [n.div_ceil(side), x.m.div_ceil(side)];
        match (&x.rows, &self.held) {
            (Rows::F32(a), Held::F32(b)) => {
                let shape = [x.m, n, self.k];
                cuda.product(
                    *a,
                    None,
                    b.input(0, n * self.k),
                    None,
                    bias,
                    c,
                    shape,
                    columns,
                )
            }
            (Rows::Bf16(a), Held::Bf16(b)) => {
                let shape = Shape {
                    blocks: blocks(SIDE_BF16),
                    threads: 256,
                    shared: SHARED_BF16,
                };
                let k = self.k.next_multiple_of(PIECE);
                let (a, b) = (a.input(0, x.m * k), b.input(0, n * k));
                let [m, n, k] = [x.m, n, k].map(count);
                kernels.product_bf16(gpu, shape, a, b, None, bias, c, m, n, k, count(columns))
            }
            _ => Err(Error::new(
                Code::Internal,
                "a product",
                "its factors are not held alike",
            )),
        }
    }
}

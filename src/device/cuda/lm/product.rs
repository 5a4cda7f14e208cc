//! Weight matrices on the GPU and the products with them: in f32, or out of bf16 on tensor cores
//! with f32 sums. The one place that knows how factors lie in memory.

use crate::device::coded::Coded;
use crate::device::cuda::Cuda;
use crate::device::cuda::halves::Half;
use crate::device::cuda::launch::count;
use crate::device::cuda::memory::{In, Memory, Out};
use crate::device::cuda::tensor::{DEPTH, HOPPER, PANEL, portable};
use crate::domain::{Code, Error, Result};

/// Values of k in what tensor cores load at a time.
const PIECE: usize = 8;

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
    /// Panels for wgmma, with 0 behind the rows and below them.
    Panels(Memory<u16>),
}

/// How a factor in bf16 lies in memory: see `place_of` in `common.cuh`.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Length of a row.
    pub padded: usize,
    /// Whether rows are cut into panels.
    pub panels: bool,
}

impl Layout {
    fn new(panels: bool, k: usize) -> Self {
        let padded = k.next_multiple_of(if panels { DEPTH } else { PIECE });
        Self { padded, panels }
    }

    /// Numbers that `m` rows take, whole panels where there are such.
    pub fn len(self, m: usize) -> usize {
        let rows = if self.panels {
            m.next_multiple_of(PANEL)
        } else {
            m
        };
        rows * self.padded
    }

    /// As kernels take it.
    pub fn arguments(self) -> [u32; 2] {
        [count(self.padded), u32::from(self.panels)]
    }

    /// The first value of piece `piece` of row `row`.
    fn place(self, row: usize, piece: usize) -> usize {
        if !self.panels {
            return row * self.padded + piece * PIECE;
        }
        let panel = row / PANEL * (self.padded / DEPTH) + piece * PIECE / DEPTH;
        let swizzled = (piece % (DEPTH / PIECE)) ^ (row % PIECE);
        (panel * PANEL + row % PANEL) * DEPTH + swizzled * PIECE
    }
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
    /// Rows that were written as [`Matrix::layout`] says.
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
        let layout = Layout::new(cuda.wgmma, k);
        let whole = if layout.panels {
            n.next_multiple_of(HOPPER[1])
        } else {
            n
        };
        let mut rows = vec![0; layout.len(whole)];
        for (r, row) in bits.chunks_exact(k).enumerate() {
            for (piece, values) in row.chunks(PIECE).enumerate() {
                rows[layout.place(r, piece)..][..values.len()].copy_from_slice(values);
            }
        }
        let rows = Memory::of(&cuda.gpu, &rows)?;
        let held = match layout.panels {
            true => Held::Panels(rows),
            false => Held::Bf16(rows),
        };
        Ok(Self { held, n, k })
    }

    /// How a factor in bf16 has to lie; none where it is in f32.
    pub fn layout(&self) -> Option<Layout> {
        match self.held {
            Held::F32(_) => None,
            Held::Bf16(_) => Some(Layout::new(false, self.k)),
            Held::Panels(_) => Some(Layout::new(true, self.k)),
        }
    }

    /// `x` [m, k] for products with this matrix and those that are held and as deep as it is.
    pub fn factor<'a>(&self, cuda: &Cuda, x: In<'a, f32>, m: usize) -> Result<Factor<'a>> {
        let rows = match self.layout() {
            None => Rows::F32(x),
            Some(layout) if layout.panels => {
                Rows::Bf16(Half::Bf16.panels(cuda, x, None, None, [m, self.k, PANEL])?)
            }
            Some(layout) => {
                let rows = [m, self.k, layout.padded];
                Rows::Bf16(Half::Bf16.rows(cuda, x, None, 1.0, rows)?)
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
                let (shape, k) = (portable(x.m, n), self.k.next_multiple_of(PIECE));
                let (a, b) = (a.input(0, x.m * k), b.input(0, n * k));
                let [m, n, k, columns] = [x.m, n, k, columns].map(count);
                kernels.product_bf16(gpu, shape, a, b, None, bias, c, m, n, k, columns)
            }
            (Rows::Bf16(a), Held::Panels(b)) => {
                let (shape, depths) = (cuda.hopper(x.m, n), self.k.div_ceil(DEPTH));
                let (a, b) = (a.input(0, a.len()), b.input(0, b.len()));
                let [m, n, depths, columns] = [x.m, n, depths, columns].map(count);
                kernels.product_hopper(gpu, shape, a, b, None, bias, c, m, n, depths, columns)
            }
            _ => Err(Error::new(
                Code::Internal,
                "a product",
                "its factors are not held alike",
            )),
        }
    }
}

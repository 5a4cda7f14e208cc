//! Weight matrices on the GPU and the products with them, in f32 or of factors in bf16 on tensor
//! cores with f32 sums. The one place that knows how factors lie in memory.
//!
//! Codes are decoded just before each product, to memory that is given back behind it: numbers in
//! f16 to f32, so that nothing of them is lost, and integers times their scales to bf16.

use super::coded;
use crate::device::coded::{Bits, Coded};
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
    /// To be multiplied in f32.
    F16(coded::Held),
    /// With 0 behind the rows, and below them where there are panels.
    Bf16(Layout, Memory<u16>),
    /// To be multiplied in bf16.
    Integers(Layout, coded::Held),
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

    /// Numbers that `m` rows of what is multiplied take, whole panels where there are such.
    pub fn len(self, m: usize) -> usize {
        let rows = if self.panels {
            m.next_multiple_of(PANEL)
        } else {
            m
        };
        rows * self.padded
    }

    /// Rows of a matrix of `n`: whole tiles of panels.
    pub fn whole(self, n: usize) -> usize {
        if self.panels {
            n.next_multiple_of(HOPPER[1])
        } else {
            n
        }
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
        let (n, k) = (coded.n(), coded.k());
        let layout = Layout::new(cuda.wgmma, k);
        let held = match coded.bits() {
            Bits::Bf16(bits) => Held::Bf16(layout, laid_out(cuda, bits, layout, [n, k])?),
            Bits::F16(_) => Held::F16(coded::Held::new(cuda, coded)?),
            Bits::Int8(..) | Bits::Int4(..) => {
                Held::Integers(layout, coded::Held::new(cuda, coded)?)
            }
        };
        Ok(Self { held, n, k })
    }

    /// How a factor in bf16 has to lie; none where it is in f32.
    pub fn layout(&self) -> Option<Layout> {
        match self.held {
            Held::F32(_) | Held::F16(_) => None,
            Held::Bf16(layout, _) | Held::Integers(layout, _) => Some(layout),
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
        let bias = bias.map(|bias| bias.input(0, self.n));
        let to = To { bias, c, columns };
        match (&x.rows, &self.held) {
            (Rows::F32(a), Held::F32(w)) => self.in_f32(cuda, *a, x.m, w, to),
            (Rows::F32(a), Held::F16(codes)) => {
                self.in_f32(cuda, *a, x.m, &codes.widened(cuda)?, to)
            }
            (Rows::Bf16(a), Held::Bf16(layout, w)) => self.in_bf16(cuda, a, x.m, *layout, w, to),
            (Rows::Bf16(a), Held::Integers(layout, codes)) => {
                let w = codes.rounded(cuda, *layout)?;
                self.in_bf16(cuda, a, x.m, *layout, &w, to)
            }
            _ => Err(Error::new(
                Code::Internal,
                "a product",
                "its factors are not held alike",
            )),
        }
    }

    fn in_f32(
        &self,
        cuda: &Cuda,
        a: In<'_, f32>,
        m: usize,
        w: &Memory<f32>,
        to: To<'_>,
    ) -> Result<()> {
        let (w, shape) = (w.input(0, self.n * self.k), [m, self.n, self.k]);
        cuda.product(a, None, w, None, to.bias, to.c, shape, to.columns)
    }

    fn in_bf16(
        &self,
        cuda: &Cuda,
        a: &Memory<u16>,
        m: usize,
        layout: Layout,
        w: &Memory<u16>,
        to: To<'_>,
    ) -> Result<()> {
        let (gpu, kernels) = (&cuda.gpu, &cuda.kernels);
        let (a, b) = (a.input(0, layout.len(m)), w.input(0, w.len()));
        let [rows, n, columns] = [m, self.n, to.columns].map(count);
        let (bias, c) = (to.bias, to.c);
        if layout.panels {
            let (shape, depths) = (cuda.hopper(m, self.n), count(layout.padded / DEPTH));
            kernels.product_hopper(gpu, shape, a, b, None, bias, c, rows, n, depths, columns)
        } else {
            let (shape, k) = (portable(m, self.n), count(layout.padded));
            kernels.product_bf16(gpu, shape, a, b, None, bias, c, rows, n, k, columns)
        }
    }
}

/// Where a product goes.
struct To<'a> {
    bias: Option<In<'a, f32>>,
    c: Out<'a, f32>,
    /// Rows of `c` begin every so many.
    columns: usize,
}

/// The rows `bits` [n, k] as a factor.
fn laid_out(cuda: &Cuda, bits: &[u16], layout: Layout, [n, k]: [usize; 2]) -> Result<Memory<u16>> {
    let mut rows = vec![0; layout.whole(n) * layout.padded];
    for (r, row) in bits.chunks_exact(k).enumerate() {
        for (piece, values) in row.chunks(PIECE).enumerate() {
            rows[layout.place(r, piece)..][..values.len()].copy_from_slice(values);
        }
    }
    Memory::of(&cuda.gpu, &rows)
}

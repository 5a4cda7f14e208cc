//! The encoder product, a stretch of latents at a time, and what the selections keep of it.
//!
//! A stretch of pre-activations is small enough to stay in the GPU's cache between the kernel
//! that writes it and those that read it; the whole [B, F] is never there.

use super::compact::Compact;
use super::launch::{Shape, count};
use super::memory::{In, Memory};
use super::topk::TopK;
use super::{Cuda, Factors};
use crate::device::sae::{Encode, Pick, Select};
use crate::domain::Result;

/// Side of a tile of the product.
const TILE: usize = 64;
/// Bytes of shared memory of a block of the product: two slices of 16 of a tile's sides.
pub const PRODUCT_SHARED: usize = 2 * 16 * (TILE + 4) * 4;

/// … of that in bf16: three stages of two panels of 128 rows of 40.
const BF16_SHARED: usize = 3 * 2 * 128 * 40 * 2;

/// A stretch of pre-activations.
pub struct Stretch<'a> {
    /// [tokens, columns].
    pub p: &'a Memory<f32>,
    /// Length of a row.
    pub columns: usize,
    /// Latents in it.
    pub count: usize,
    /// The first of them, or its place among those that were asked for.
    pub first: usize,
    /// Numbers of latents, where not all were asked for.
    pub among: Option<&'a Memory<u32>>,
}

/// A selection under way.
enum Selection<'a> {
    TopK(TopK<'a>),
    Compact(Compact<'a>),
}

type Product<'a> = Encode<'a, Memory<f32>>;

/// The latents that a selection is among, and how many they are.
fn among<'a>(pick: &Pick<'a, Cuda>) -> Option<(&'a Memory<u32>, usize)> {
    match &pick.select {
        Select::TopK {
            among: Some(among), ..
        } => Some((among.latents, among.count)),
        _ => None,
    }
}

/// Latents of a stretch.
fn columns_of(cuda: &Cuda, product: &Product<'_>) -> usize {
    let fit = cuda.stretch / (4 * product.x.count.max(1)) / TILE * TILE;
    fit.clamp(TILE, product.d_sae.next_multiple_of(TILE))
}

/// Fills the codes of every pick.
pub fn encode(cuda: &Cuda, product: &Product<'_>, picks: &mut [Pick<'_, Cuda>]) -> Result<()> {
    let (tokens, d_sae) = (product.x.count, product.d_sae);
    let columns = columns_of(cuda, product);
    let mut p = Memory::new(&cuda.gpu, tokens * columns)?;
    let operands = Operands::new(cuda, product)?;
    let mut selections = Vec::new();
    for pick in &*picks {
        selections.push(match pick.select {
            Select::TopK { k, scale, .. } => {
                Selection::TopK(TopK::new(cuda, tokens, d_sae, k, scale)?)
            }
            Select::BatchTopK { total, scale } => {
                Selection::Compact(Compact::best(cuda, tokens, d_sae, total, scale)?)
            }
            Select::Above { lower } => {
                Selection::Compact(Compact::above(cuda, tokens, d_sae, lower)?)
            }
        });
    }
    if picks.iter().any(|pick| among(pick).is_none()) {
        for first in (0..d_sae).step_by(columns) {
            let width = columns.min(d_sae - first);
            operands.multiply(cuda, product, None, first, width, &mut p, columns)?;
            let stretch = Stretch {
                p: &p,
                columns,
                count: width,
                first,
                among: None,
            };
            for (selection, pick) in selections.iter_mut().zip(&*picks) {
                match selection {
                    Selection::TopK(_) if among(pick).is_some() => {}
                    Selection::TopK(topk) => topk.see(cuda, &stretch)?,
                    Selection::Compact(compact) => compact.see(cuda, &stretch)?,
                }
            }
        }
    }
    for (selection, pick) in selections.iter_mut().zip(&*picks) {
        let (Selection::TopK(topk), Some((latents, number))) = (selection, among(pick)) else {
            continue;
        };
        for first in (0..number).step_by(columns) {
            let width = columns.min(number - first);
            operands.multiply(cuda, product, Some(latents), first, width, &mut p, columns)?;
            let stretch = Stretch {
                p: &p,
                columns,
                count: width,
                first,
                among: Some(latents),
            };
            topk.see(cuda, &stretch)?;
        }
    }
    for (selection, pick) in selections.into_iter().zip(picks) {
        *pick.codes = match selection {
            Selection::TopK(topk) => topk.finish(cuda)?,
            Selection::Compact(compact) => compact.finish(),
        };
    }
    Ok(())
}

/// The factors of the product, as they are multiplied.
enum Operands {
    F32,
    /// x − center and the encoder in bf16, with rows of a multiple of 8.
    Bf16 {
        x: Memory<u16>,
        w: Memory<u16>,
        k: usize,
    },
}

impl Operands {
    fn new(cuda: &Cuda, product: &Product<'_>) -> Result<Self> {
        let (x, d, d_sae) = (product.x, product.d_in, product.d_sae);
        if cuda.factors == Factors::F32 {
            return Ok(Self::F32);
        }
        let k = d.next_multiple_of(8);
        let center = product.center.map(|center| center.input(0, d));
        let rows = x.buf.input(x.first * d, x.count * d);
        Ok(Self::Bf16 {
            x: cuda.round_to_bf16(rows, center, x.count, d, k)?,
            w: cuda.round_to_bf16(product.w_enc.input(0, d_sae * d), None, d_sae, d, k)?,
            k,
        })
    }

    /// p [tokens, columns] = pre-activations of `width` latents from `first`, or from place
    /// `first` among those that are given.
    fn multiply(
        &self,
        cuda: &Cuda,
        product: &Product<'_>,
        among: Option<&Memory<u32>>,
        first: usize,
        width: usize,
        p: &mut Memory<f32>,
        columns: usize,
    ) -> Result<()> {
        let (x, d, d_sae) = (product.x, product.d_in, product.d_sae);
        // Rows that are named are found from the matrix' first row.
        let row = if among.is_some() { 0 } else { first };
        let pick = among.map(|latents| latents.input(first, width));
        let bias = Some(product.b_enc.input(row, d_sae - row));
        match self {
            Self::F32 => cuda.product(
                x.buf.input(x.first * d, x.count * d),
                product.center.map(|center| center.input(0, d)),
                product.w_enc.input(row * d, (d_sae - row) * d),
                pick,
                bias,
                p,
                [x.count, width, d],
                columns,
            ),
            Self::Bf16 { x: a, w, k } => {
                let shape = Shape {
                    blocks: [width.div_ceil(128), x.count.div_ceil(128)],
                    threads: 256,
                    shared: BF16_SHARED,
                };
                cuda.kernels.product_bf16(
                    &cuda.gpu,
                    shape,
                    a.input(0, x.count * k),
                    w.input(row * k, (d_sae - row) * k),
                    pick,
                    bias,
                    p.output(x.count * columns),
                    count(x.count),
                    count(width),
                    count(*k),
                    count(columns),
                )
            }
        }
    }
}

impl Cuda {
    /// The encoder product of [`SaeOps::encode`](crate::device::sae::SaeOps::encode), stretch
    /// after stretch, of which nothing is kept: what an encoder costs without its selection.
    ///
    /// # Errors
    /// `out-of-memory`; those of the GPU.
    pub fn encoder_product(&self, product: &Product<'_>) -> Result<()> {
        let columns = columns_of(self, product);
        let mut p = Memory::new(&self.gpu, product.x.count * columns)?;
        let operands = Operands::new(self, product)?;
        for first in (0..product.d_sae).step_by(columns) {
            let width = columns.min(product.d_sae - first);
            operands.multiply(self, product, None, first, width, &mut p, columns)?;
        }
        Ok(())
    }

    /// The rows less `center` as bf16, with 0 behind them up to `padded`.
    fn round_to_bf16(
        &self,
        rows: In<'_, f32>,
        center: Option<In<'_, f32>>,
        n: usize,
        d: usize,
        padded: usize,
    ) -> Result<Memory<u16>> {
        let len = n * padded;
        let mut out = Memory::new(&self.gpu, len)?;
        let (shape, to) = (Shape::threads(len), out.output(len));
        let [d, padded] = [d, padded].map(count);
        self.kernels
            .round_to_bf16(&self.gpu, shape, rows, center, to, len as u64, d, padded)?;
        Ok(out)
    }

    /// out [m, n] = (a − center)·bᵀ + bias, with rows of `columns` in `out`.
    pub(super) fn product(
        &self,
        a: In<'_, f32>,
        center: Option<In<'_, f32>>,
        b: In<'_, f32>,
        pick: Option<In<'_, u32>>,
        bias: Option<In<'_, f32>>,
        out: &mut Memory<f32>,
        [m, n, k]: [usize; 3],
        columns: usize,
    ) -> Result<()> {
        let shape = Shape {
            blocks: [n.div_ceil(TILE), m.div_ceil(TILE)],
            threads: 256,
            shared: PRODUCT_SHARED,
        };
        let (gpu, out) = (&self.gpu, out.output(m * columns));
        let [m, n, k] = [m, n, k].map(count);
        self.kernels.product_nt(
            gpu,
            shape,
            a,
            center,
            b,
            pick,
            bias,
            out,
            m,
            n,
            k,
            count(columns),
        )
    }
}

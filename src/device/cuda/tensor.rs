//! The encoder's product on tensor cores, out of factors that are rounded to 16 bits.

use super::Cuda;
use super::encode::Product;
use super::halves::Half;
use super::kernels::Kernels;
use super::launch::{Shape, count};
use super::memory::{In, Memory};
use super::shadow::Shadow;
use super::stream::Lists;
use crate::domain::Result;
use std::sync::Arc;

/// Bytes in which a block gathers what passes a bound: 8 warps of 128 numbers and places.
const STAGED: usize = 8 * 128 * 8;
/// Side of a tile of mma.sync, and what it is computed in: three stages of two panels of 128 rows
/// of 40 values.
const PORTABLE: usize = 128;
const PORTABLE_SHARED: usize = 3 * 2 * 128 * 40 * 2;
/// Rows of a panel.
pub const PANEL: usize = 128;
/// A tile of wgmma, the depth of its panels, and what it is computed in: four stages of three
/// panels of 128 rows, two barriers a stage, and what is needed to begin at a multiple of 1024.
pub const HOPPER: [usize; 2] = [PANEL, 256];
pub const DEPTH: usize = 64;
const HOPPER_SHARED: usize = 4 * 3 * 128 * DEPTH * 2 + STAGED + 8 * 8 + 1024;

/// What is appended.
pub enum By<'a> {
    /// Keys p · scale_j above the bound of their token.
    Token {
        scale: Option<&'a Memory<f32>>,
        bounds: &'a Memory<f32>,
    },
    /// Pre-activations above the bound of their latent.
    Latent(&'a Memory<f32>),
}

/// x − center and the encoder in 16 bits.
pub struct Rounded {
    half: Half,
    tokens: usize,
    x: Memory<u16>,
    w: Arc<Shadow>,
    /// Length of a row: a multiple of 8, or of the depth of panels.
    pub k: usize,
}

impl Rounded {
    /// … of which the encoder's rows are kept beside them, for as long as they are the same.
    pub fn kept(cuda: &Cuda, product: &Product<'_>, half: Half) -> Result<Self> {
        let shape = [product.d_sae, product.d_in];
        let w = Shadow::kept(cuda, product.w_enc, half, shape)?;
        Self::with(cuda, product, half, w)
    }

    /// … of which nothing stays.
    pub fn new(cuda: &Cuda, product: &Product<'_>, half: Half) -> Result<Self> {
        let shape = [product.d_sae, product.d_in];
        let w = Shadow::of(cuda, product.w_enc, half, shape)?;
        Self::with(cuda, product, half, Arc::new(w))
    }

    fn with(cuda: &Cuda, product: &Product<'_>, half: Half, w: Arc<Shadow>) -> Result<Self> {
        let (x, d, k) = (product.x, product.d_in, w.k);
        let center = product.center.map(|center| center.input(0, d));
        let rows = x.buf.input(x.first * d, x.count * d);
        let rounded = if cuda.wgmma {
            half.panels(cuda, rows, center, None, [x.count, d, HOPPER[0]])?
        } else {
            half.rows(cuda, rows, center, 1.0, [x.count, d, k])?
        };
        Ok(Self {
            half,
            tokens: x.count,
            x: rounded,
            w,
            k,
        })
    }

    /// Latents from which on stretches may begin are multiples of this.
    pub const fn grain(wgmma: bool) -> usize {
        if wgmma { HOPPER[1] } else { 64 }
    }

    /// All rows of x − center.
    pub fn a(&self) -> In<'_, u16> {
        self.x.input(0, self.x.len())
    }

    /// The encoder's rows from `row`.
    pub fn b(&self, row: usize) -> In<'_, u16> {
        let at = row * self.k;
        let w = &self.w.numbers;
        w.input(at, w.len() - at)
    }

    /// Panels in a row.
    pub fn depths(&self) -> usize {
        self.k / DEPTH
    }

    /// p [tokens, columns] = pre-activations of `width` latents from `row`, or of those of `pick`.
    pub fn product(
        &self,
        cuda: &Cuda,
        product: &Product<'_>,
        [row, width]: [usize; 2],
        pick: Option<In<'_, u32>>,
        p: &mut Memory<f32>,
        columns: usize,
    ) -> Result<()> {
        let (d, d_sae) = (product.d_in, product.d_sae);
        let bias = Some(product.b_enc.input(row, d_sae - row));
        let c = p.output(self.tokens * columns);
        let [m, n, columns] = [self.tokens, width, columns].map(count);
        let (gpu, kernels) = (&cuda.gpu, &cuda.kernels);
        if !cuda.wgmma {
            let shape = portable(self.tokens, width);
            let (a, b, k) = (self.a(), self.b(row), count(self.k));
            let run = match self.half {
                Half::Bf16 => Kernels::product_bf16,
                Half::F16 => Kernels::product_f16,
            };
            return run(kernels, gpu, shape, a, b, pick, bias, c, m, n, k, columns);
        }
        let shape = cuda.hopper(self.tokens, width);
        let picked;
        let b = if pick.is_some() {
            let w = product.w_enc.input(0, d_sae * d);
            let rows = [width, d, HOPPER[1]];
            picked = self.half.panels(cuda, w, None, pick, rows)?;
            picked.input(0, picked.len())
        } else {
            self.b(row)
        };
        let (a, depths) = (self.a(), count(self.depths()));
        let run = match self.half {
            Half::Bf16 => Kernels::product_hopper,
            Half::F16 => Kernels::product_hopper_f16,
        };
        run(
            kernels, gpu, shape, a, b, pick, bias, c, m, n, depths, columns,
        )
    }

    /// Appends what passes `by` to `lists`, of `width` latents from `first`.
    pub fn append(
        &self,
        cuda: &Cuda,
        product: &Product<'_>,
        by: &By<'_>,
        [first, width]: [usize; 2],
        lists: &mut Lists,
    ) -> Result<()> {
        let rest = product.d_sae - first;
        let [a, b] = [self.a(), self.b(first)];
        let bias = product.b_enc.input(first, rest);
        let (scale, bounds) = match *by {
            By::Token { scale, bounds } => (scale, Some(bounds.input(0, self.tokens))),
            By::Latent(lower) => (Some(lower), None),
        };
        let scale = scale.map(|scale| scale.input(first, rest));
        let counts = lists.counts.output(self.tokens);
        let (places, length) = (self.tokens * lists.length, count(lists.length));
        let (keys, pres) = (lists.keys.output(places), lists.pres.output(places));
        let [m, n, at] = [self.tokens, width, first].map(count);
        let (gpu, kernels) = (&cuda.gpu, &cuda.kernels);
        let (shape, k) = match cuda.wgmma {
            true => (cuda.hopper(self.tokens, width), self.depths()),
            false => (appending(self.tokens, width), self.k),
        };
        let run = match (by, cuda.wgmma, self.half) {
            (By::Token { .. }, true, Half::Bf16) => Kernels::append_hopper,
            (By::Token { .. }, true, Half::F16) => Kernels::append_hopper_f16,
            (By::Token { .. }, false, Half::Bf16) => Kernels::append_bf16,
            (By::Token { .. }, false, Half::F16) => Kernels::append_f16,
            (By::Latent(_), true, Half::Bf16) => Kernels::above_hopper,
            (By::Latent(_), true, Half::F16) => Kernels::above_hopper_f16,
            (By::Latent(_), false, Half::Bf16) => Kernels::above_bf16,
            (By::Latent(_), false, Half::F16) => Kernels::above_f16,
        };
        let k = count(k);
        run(
            kernels, gpu, shape, a, b, bias, scale, bounds, counts, keys, pres, m, n, k, at, length,
        )
    }
}

/// The shape of `product_bf16`.
pub fn portable(m: usize, n: usize) -> Shape {
    Shape {
        blocks: [n.div_ceil(PORTABLE), m.div_ceil(PORTABLE)],
        threads: 256,
        shared: PORTABLE_SHARED,
    }
}

/// The shape of `append_bf16`.
pub fn appending(m: usize, n: usize) -> Shape {
    portable(m, n).shared(PORTABLE_SHARED + STAGED)
}

impl Cuda {
    /// A block a multiprocessor, and no more than there are tiles.
    pub(super) fn hopper(&self, m: usize, n: usize) -> Shape {
        let tiles = m.div_ceil(HOPPER[0]) * n.div_ceil(HOPPER[1]);
        Shape::blocks(tiles.min(self.processors), 384).shared(HOPPER_SHARED)
    }
}

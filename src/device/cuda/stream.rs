//! TopK over all latents without their pre-activations in memory.
//!
//! The first latents give each token a bound, and of the others only what is above it is written,
//! by the product itself. As many latents as were seen are taken at a time: then about k of a
//! token pass, whatever the width.

use super::Cuda;
use super::codes::Codes;
use super::encode::Product;
use super::later::Later;
use super::launch::{Shape, count};
use super::memory::{Memory, Out};
use super::tensor::{By, Rounded};
use crate::domain::Result;

/// As many pre-activations as a warp holds.
pub const FIRST: usize = 1024;
/// Tokens of a block, one a warp.
pub const WARPS: usize = 8;
/// Beyond, numbers of a block do not fit in the shared memory that needs no asking for.
const MOST: usize = 256;

/// Whether this way is open.
pub fn is_for(cuda: &Cuda, product: &Product<'_>, k: usize) -> bool {
    let first = first(cuda);
    k > 0 && k <= MOST.min(first / 2) && product.d_sae > first && product.x.count > 0
}

/// What passed the bound of each token, in any order.
pub struct Lists {
    /// How many did \[tokens\].
    pub counts: Memory<u32>,
    /// [tokens, length].
    pub keys: Memory<u64>,
    /// [tokens, length].
    pub pres: Memory<f32>,
    /// Places of a token.
    pub length: usize,
}

impl Lists {
    /// Empty ones of `length` places.
    pub fn new(cuda: &Cuda, tokens: usize, length: usize) -> Result<Self> {
        Ok(Self {
            counts: Memory::zeros(&cuda.gpu, tokens)?,
            keys: Memory::new(&cuda.gpu, tokens * length)?,
            pres: Memory::new(&cuda.gpu, tokens * length)?,
            length,
        })
    }
}

/// The best of each token, in any order.
pub struct Best {
    pub tokens: usize,
    pub k: usize,
    /// [tokens, k].
    pub keys: Memory<u64>,
    /// [tokens, k].
    pub pres: Memory<f32>,
    /// What is below is not among them \[tokens\].
    pub bounds: Memory<f32>,
}

/// Latents whose pre-activations are written whole.
pub fn first(cuda: &Cuda) -> usize {
    cuda.first
        .next_multiple_of(Rounded::grain(cuda.wgmma))
        .min(FIRST)
}

/// Places for what passes of a token: eight times what is expected to.
pub fn room(k: usize) -> usize {
    (8 * k).max(256)
}

/// The k best of every token, and later whether they are not: 0, unless more passed a bound than
/// there was room for. `None` where this way is not open.
pub fn topk(
    cuda: &Cuda,
    product: &Product<'_>,
    rounded: &Rounded,
    k: usize,
    scale: Option<&Memory<f32>>,
) -> Result<Option<(Codes, Later)>> {
    let (tokens, d_sae, first) = (product.x.count, product.d_sae, first(cuda));
    if !is_for(cuda, product, k) {
        return Ok(None);
    }
    let mut best = Best::new(cuda, product, rounded, k, scale)?;
    let mut lists = Lists::new(cuda, tokens, room(k))?;
    let overflow = cuda.later_bits(0, f64::from)?;
    let mut seen = first;
    while seen < d_sae {
        let width = seen.min(d_sae - seen);
        let by = By::Token {
            scale,
            bounds: &best.bounds,
        };
        rounded.append(cuda, product, &by, [seen, width], &mut lists)?;
        best.fold(cuda, &mut lists, overflow.memory().half(overflow.at))?;
        seen += width;
    }
    Ok(Some((best.codes(cuda, d_sae)?, overflow)))
}

impl Best {
    /// Room for them.
    pub fn room(cuda: &Cuda, tokens: usize, k: usize) -> Result<Self> {
        let gpu = &cuda.gpu;
        Ok(Self {
            tokens,
            k,
            keys: Memory::new(gpu, tokens * k)?,
            pres: Memory::new(gpu, tokens * k)?,
            bounds: Memory::new(gpu, tokens)?,
        })
    }

    /// … among the first latents.
    fn new(
        cuda: &Cuda,
        product: &Product<'_>,
        rounded: &Rounded,
        k: usize,
        scale: Option<&Memory<f32>>,
    ) -> Result<Self> {
        let (gpu, tokens, first) = (&cuda.gpu, product.x.count, first(cuda));
        let mut p = Memory::new(gpu, tokens * first)?;
        rounded.product(cuda, product, [0, first], None, &mut p, first)?;
        let mut best = Self::room(cuda, tokens, k)?;
        cuda.kernels.topk_first(
            gpu,
            Shape::warps(tokens),
            p.input(0, tokens * first),
            scale.map(|scale| scale.input(0, first)),
            best.keys.output(tokens * k),
            best.pres.output(tokens * k),
            best.bounds.output(tokens),
            count(tokens),
            count(first),
            count(k),
        )?;
        Ok(best)
    }

    /// A warp a token, each with k numbers of shared memory.
    fn shape(&self) -> Shape {
        Shape::warps(self.tokens).shared(WARPS * self.k * 4)
    }

    /// … and what was appended, which goes from the lists.
    fn fold(&mut self, cuda: &Cuda, lists: &mut Lists, overflow: Out<'_, u32>) -> Result<()> {
        let (tokens, k, places) = (self.tokens, self.k, self.tokens * lists.length);
        let shape = self.shape();
        cuda.kernels.topk_fold(
            &cuda.gpu,
            shape,
            lists.counts.output(tokens),
            lists.keys.input(0, places),
            lists.pres.input(0, places),
            self.keys.output(tokens * k),
            self.pres.output(tokens * k),
            self.bounds.output(tokens),
            overflow,
            count(tokens),
            count(lists.length),
            count(k),
        )
    }

    /// … by latent.
    pub fn codes(&self, cuda: &Cuda, d_sae: usize) -> Result<Codes> {
        let edges = self.tokens * self.k;
        let mut codes = Codes::room(cuda, self.tokens, d_sae, edges)?;
        cuda.kernels.topk_order(
            &cuda.gpu,
            self.shape(),
            self.keys.input(0, edges),
            self.pres.input(0, edges),
            codes.row_ptr.output(self.tokens + 1),
            codes.latent.output(edges),
            codes.pre.output(edges),
            count(self.tokens),
            count(self.k),
        )?;
        Ok(codes)
    }
}

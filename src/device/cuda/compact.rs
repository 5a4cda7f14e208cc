//! Selections of unknown length: what is above a bound, and the best of a whole batch.
//!
//! Edges of a stretch are put behind those of earlier stretches. BatchTopK drops, after every
//! stretch, what cannot win any more; the bound that remains keeps the next stretches short.

use super::Cuda;
use super::codes::Codes;
use super::encode::Stretch;
use super::launch::{Shape, count};
use super::memory::Memory;
use crate::domain::Result;

/// How a pre-activation becomes an edge.
enum By<'a> {
    /// It is above the latent's bound.
    Bound(&'a Memory<f32>),
    /// It is among the best of the batch.
    Rank {
        total: usize,
        scale: Option<&'a Memory<f32>>,
        /// The least key that can still win, the mask of its bits, and how many edges that have
        /// it do.
        state: Memory<u32>,
    },
}

/// A selection under way.
pub struct Compact<'a> {
    by: By<'a>,
    codes: Codes,
}

impl<'a> Compact<'a> {
    pub fn above(cuda: &Cuda, tokens: usize, d_sae: usize, lower: &'a Memory<f32>) -> Result<Self> {
        Ok(Self {
            by: By::Bound(lower),
            codes: Codes::empty(cuda, tokens, d_sae)?,
        })
    }

    pub fn best(
        cuda: &Cuda,
        tokens: usize,
        d_sae: usize,
        total: usize,
        scale: Option<&'a Memory<f32>>,
    ) -> Result<Self> {
        let state = Memory::zeros(&cuda.gpu, 3)?;
        Ok(Self {
            by: By::Rank {
                total,
                scale,
                state,
            },
            codes: Codes::empty(cuda, tokens, d_sae)?,
        })
    }

    pub fn finish(self) -> Codes {
        self.codes
    }

    pub fn see(&mut self, cuda: &Cuda, stretch: &Stretch<'_>) -> Result<()> {
        if self.codes.tokens == 0 || matches!(self.by, By::Rank { total: 0, .. }) {
            return Ok(());
        }
        self.append(cuda, stretch)?;
        if let By::Rank {
            total,
            scale,
            state,
        } = &mut self.by
            && self.codes.edges > *total
        {
            self.codes = prune(cuda, &self.codes, *total, *scale, state)?;
        }
        Ok(())
    }

    fn append(&mut self, cuda: &Cuda, stretch: &Stretch<'_>) -> Result<()> {
        let (gpu, old) = (&cuda.gpu, &self.codes);
        let (tokens, d_sae) = (old.tokens, old.d_sae);
        let (lower, scale, least) = match &self.by {
            By::Bound(lower) => (Some(lower.input(0, d_sae)), None, None),
            By::Rank { scale, state, .. } => {
                let scale = scale.map(|scale| scale.input(0, d_sae));
                (None, scale, Some(state.input(0, 1)))
            }
        };
        let p = stretch.p.input(0, tokens * stretch.columns);
        let row_ptr = old.row_ptr.input(0, tokens + 1);
        let [columns, width, first] = [stretch.columns, stretch.count, stretch.first].map(count);
        let mut lengths = Memory::new(gpu, tokens)?;
        cuda.kernels.compact_count(
            gpu,
            Shape::warps(tokens),
            p,
            lower,
            scale,
            least,
            row_ptr,
            lengths.output(tokens),
            count(tokens),
            columns,
            width,
            first,
        )?;
        let mut to_ptr = Memory::new(gpu, tokens + 1)?;
        cuda.scan(&lengths, tokens, &mut to_ptr)?;
        let mut edges = [0];
        to_ptr.read(tokens, &mut edges)?;
        let edges = edges[0] as usize;
        let mut new = Codes::room(cuda, tokens, d_sae, edges)?;
        cuda.kernels.compact_append(
            gpu,
            Shape::warps(tokens),
            p,
            lower,
            scale,
            least,
            row_ptr,
            old.latent.input(0, old.edges),
            old.pre.input(0, old.edges),
            to_ptr.input(0, tokens + 1),
            new.latent.output(edges),
            new.pre.output(edges),
            count(tokens),
            columns,
            width,
            first,
        )?;
        new.row_ptr = to_ptr;
        self.codes = new;
        Ok(())
    }
}

/// The `total` edges with the largest keys; `state` is then the least of them.
fn prune(
    cuda: &Cuda,
    old: &Codes,
    total: usize,
    scale: Option<&Memory<f32>>,
    state: &mut Memory<u32>,
) -> Result<Codes> {
    let (gpu, tokens, n) = (&cuda.gpu, old.tokens, old.edges);
    let latents = old.latent.input(0, n);
    let edges = old.pre.input(0, n);
    let row_ptr = old.row_ptr.input(0, tokens + 1);
    let scale = scale.map(|scale| scale.input(0, old.d_sae));
    let mut histogram = Memory::zeros(gpu, 256)?;
    // A block looks at several stretches of 256 edges.
    let blocks = n.div_ceil(256).min(512);
    for shift in [24, 16, 8, 0] {
        let shape = Shape::blocks(blocks, 256).shared(256 * 4);
        cuda.kernels.rank_histogram(
            gpu,
            shape,
            latents,
            edges,
            scale,
            state.input(0, 3),
            histogram.output(256),
            count(n),
            shift,
        )?;
        let one = Shape::blocks(1, 32);
        let (to, bins) = (state.output(3), histogram.output(256));
        cuda.kernels
            .rank_digit(gpu, one, to, bins, count(total), shift)?;
    }
    let state = state.input(0, 3);
    let [mut kept, mut equal] = [Memory::new(gpu, tokens)?, Memory::new(gpu, tokens)?];
    cuda.kernels.rank_count(
        gpu,
        Shape::warps(tokens),
        row_ptr,
        latents,
        edges,
        scale,
        state,
        kept.output(tokens),
        equal.output(tokens),
        count(tokens),
    )?;
    let mut ties = Memory::new(gpu, tokens + 1)?;
    cuda.scan(&equal, tokens, &mut ties)?;
    cuda.kernels.rank_ties(
        gpu,
        Shape::threads(tokens),
        state,
        ties.input(0, tokens + 1),
        kept.output(tokens),
        count(tokens),
    )?;
    let mut new = Codes::room(cuda, tokens, old.d_sae, total)?;
    cuda.scan(&kept, tokens, &mut new.row_ptr)?;
    let to_ptr = new.row_ptr.input(0, tokens + 1);
    cuda.kernels.rank_keep(
        gpu,
        Shape::warps(tokens),
        row_ptr,
        latents,
        edges,
        scale,
        state,
        ties.input(0, tokens + 1),
        to_ptr,
        new.latent.output(total),
        new.pre.output(total),
        count(tokens),
    )?;
    Ok(new)
}

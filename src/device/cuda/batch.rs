//! BatchTopK over all latents without their pre-activations in memory.
//!
//! As TopK in `stream.rs`, with one bound for the whole batch: of the first latents whatever is
//! positive is written, then as many latents as were seen at a time, of which about as many keys
//! pass as are sought. After each time a radix search over what was written finds the next bound.

use super::Cuda;
use super::codes::Codes;
use super::encode::Product;
use super::later::Later;
use super::launch::{Shape, count};
use super::memory::Memory;
use super::stream::{Lists, WARPS, first, room};
use super::tensor::{By, Rounded};
use crate::domain::Result;

/// Keys of a token that are sought, at most: a block holds the lists of its tokens in the shared
/// memory that needs no asking for.
const MOST: usize = 192;
/// Digits of a bound that is yet to rise: keys are 32 bits, and these tell apart what differs by a
/// hundredth.
const ROUGH: &[u32] = &[24, 16];
const EXACT: &[u32] = &[24, 16, 8, 0];

/// The `total` best of the batch, and later whether they are not: 0, unless more of a token passed a
/// bound than there was room for, or fewer than `total` keys are positive. `None` where this way is
/// not open.
pub fn topk(
    cuda: &Cuda,
    product: &Product<'_>,
    rounded: &Rounded,
    total: usize,
    scale: Option<&Memory<f32>>,
) -> Result<Option<(Codes, Later)>> {
    let (tokens, d_sae) = (product.x.count, product.d_sae);
    let mean = total.div_ceil(tokens.max(1));
    if total == 0 || mean > MOST || d_sae <= first(cuda) {
        return Ok(None);
    }
    let length = room(mean);
    let mut batch = Batch {
        tokens,
        total,
        lists: Lists::new(cuda, tokens, length)?,
        state: Memory::new(&cuda.gpu, 3)?,
        histogram: Memory::zeros(&cuda.gpu, 256)?,
    };
    let mut bounds = Memory::zeros(&cuda.gpu, tokens)?;
    let overflow = cuda.later_bits(0, f64::from)?;
    // Of so many latents no more can pass than there is room for.
    let grain = Rounded::grain(cuda.wgmma);
    let (mut seen, mut width) = (0, first(cuda).min(length / grain * grain));
    while seen < d_sae {
        width = width.min(d_sae - seen);
        let by = By::Token {
            scale,
            bounds: &bounds,
        };
        rounded.append(cuda, product, &by, [seen, width], &mut batch.lists)?;
        batch.search(cuda, ROUGH)?;
        batch.prune(cuda, &mut bounds, &overflow)?;
        seen += width;
        width = seen;
    }
    batch.search(cuda, EXACT)?;
    Ok(Some((batch.codes(cuda, d_sae, &overflow)?, overflow)))
}

/// What can still win.
struct Batch {
    tokens: usize,
    /// How many win.
    total: usize,
    lists: Lists,
    /// The least key that can; see `rank_digit`.
    state: Memory<u32>,
    /// Of one digit; cleared by whoever has read it.
    histogram: Memory<u32>,
}

impl Batch {
    /// Looks for the least key that can win, as far as these digits tell it: as many keys as are
    /// sought reach it, where there are so many.
    fn search(&mut self, cuda: &Cuda, shifts: &[u32]) -> Result<()> {
        let (gpu, kernels, lists) = (&cuda.gpu, &cuda.kernels, &self.lists);
        let places = self.tokens * lists.length;
        let [tokens, length] = [self.tokens, lists.length].map(count);
        // A warp looks at the lists of several tokens.
        let blocks = self.tokens.div_ceil(WARPS).min(512);
        let shape = Shape::blocks(blocks, 256).shared(256 * 4);
        for &shift in shifts {
            kernels.batch_histogram(
                gpu,
                shape,
                lists.counts.input(0, self.tokens),
                lists.keys.input(0, places),
                self.state.input(0, 3),
                self.histogram.output(256),
                tokens,
                length,
                shift,
            )?;
            let (state, bins) = (self.state.output(3), self.histogram.output(256));
            let one = Shape::blocks(1, 32);
            kernels.rank_digit(gpu, one, state, bins, count(self.total), shift)?;
        }
        Ok(())
    }

    /// Drops what cannot win.
    fn prune(&mut self, cuda: &Cuda, bounds: &mut Memory<f32>, overflow: &Later) -> Result<()> {
        let lists = &mut self.lists;
        let places = self.tokens * lists.length;
        cuda.kernels.batch_prune(
            &cuda.gpu,
            Shape::warps(self.tokens),
            lists.counts.output(self.tokens),
            lists.keys.output(places),
            lists.pres.output(places),
            bounds.output(self.tokens),
            self.state.input(0, 3),
            overflow.memory().half(overflow.at),
            count(self.tokens),
            count(lists.length),
        )
    }

    /// The winners, by latent.
    fn codes(&self, cuda: &Cuda, d_sae: usize, overflow: &Later) -> Result<Codes> {
        let (state, total) = (self.state.input(0, 3), self.total);
        let (gpu, kernels, lists) = (&cuda.gpu, &cuda.kernels, &self.lists);
        let (n, places) = (self.tokens, self.tokens * self.lists.length);
        let counts = lists.counts.input(0, n);
        let keys = lists.keys.input(0, places);
        let [tokens, length] = [n, lists.length].map(count);
        let [mut won, mut equal] = [Memory::new(gpu, n)?, Memory::new(gpu, n)?];
        let (above, same) = (won.output(n), equal.output(n));
        kernels.batch_count(
            gpu,
            Shape::warps(n),
            counts,
            keys,
            state,
            above,
            same,
            tokens,
            length,
        )?;
        let mut ties = Memory::new(gpu, n + 1)?;
        cuda.scan(&equal, n, &mut ties)?;
        let ties = ties.input(0, n + 1);
        kernels.rank_ties(gpu, Shape::threads(n), state, ties, won.output(n), tokens)?;
        let mut codes = Codes::room(cuda, n, d_sae, total)?;
        cuda.scan(&won, n, &mut codes.row_ptr)?;
        kernels.batch_emit(
            gpu,
            Shape::warps(n).shared(WARPS * lists.length * 4),
            counts,
            keys,
            lists.pres.input(0, places),
            state,
            ties,
            codes.row_ptr.output(n + 1),
            codes.latent.output(total),
            codes.pre.output(total),
            overflow.memory().half(overflow.at),
            tokens,
            length,
            count(total),
        )?;
        Ok(codes)
    }
}

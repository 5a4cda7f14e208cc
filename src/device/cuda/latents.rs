//! Sums over the edges of each latent.

use super::Cuda;
use super::decode::threads_of;
use super::halves::Half;
use super::kernels::Kernels;
use super::launch::{Shape, count};
use super::memory::Memory;
use super::sae::{Buf, flag};
use crate::device::sae::OuterGrad;
use crate::domain::Result;

/// Edges of a latent that one block sums, at least, and pieces of more, at most.
const PIECE: usize = 128;
const PIECES: usize = 1024;
/// Shared memory of a block that sums them.
const OUTER_SHARED: usize = 2 * 64 * 4;

impl Cuda {
    /// Outer products by latent, in two launches: latents with few edges and pieces of those with
    /// many, then the sums of pieces. Where numbers are rounded, so are the rows, once, less their
    /// center and times their scale.
    pub(super) fn outer(&self, work: &OuterGrad<'_, Self>, out: &mut Buf) -> Result<()> {
        let (codes, d) = (work.codes, work.d);
        // One prefix has all latents.
        let prefixes = Some(work.prefixes).filter(|prefixes| prefixes.len() > 1);
        if prefixes.is_none()
            && let Some(dense) = codes.dense(self)
        {
            return dense.outer(self, work, out);
        }
        let sorted = codes.by_latent(self)?;
        let (on_gpu, groups) = match prefixes {
            Some(prefixes) => (
                Some(self.prefixes.get(&self.gpu, prefixes)?),
                prefixes.len(),
            ),
            None => (None, 0),
        };
        let (n, block) = (codes.edges, work.rows.count * d);
        let piece = n.div_ceil(PIECES).max(PIECE);
        // A latent has an edge to each token at most.
        let pieces = if codes.tokens > piece {
            n.div_ceil(piece)
        } else {
            0
        };
        let mut partials = Memory::new(&self.gpu, 2 * pieces * d)?;
        let threads = threads_of(d);
        let shape = Shape::blocks(2 * pieces + codes.d_sae, threads).shared(OUTER_SHARED);
        let starts = sorted.starts.input(0, codes.d_sae + 1);
        let latents = sorted.latent.input(0, n);
        let (order, token) = (sorted.order.input(0, n), sorted.token.input(0, n));
        let values = work.values.input(0, n);
        let all = groups.max(1) * work.rows.count;
        let rows = work.rows.buf.input(work.rows.first * d, all * d);
        let center = work.center.map(|center| center.input(0, d));
        let widths = on_gpu.as_ref().map(|on_gpu| on_gpu.widths.input(0, groups));
        let to = out.output(codes.d_sae * d);
        let of_pieces = partials.output(2 * pieces * d);
        let (gpu, kernels, block) = (&self.gpu, &self.kernels, block as u64);
        let (edges, width, groups) = (count(n), count(d), count(groups));
        let (add, long, many) = (flag(work.accumulate), count(piece), count(pieces));
        match Half::of(self.amp) {
            None => kernels.outer_grad(
                gpu, shape, starts, latents, order, token, values, rows, center, widths, to,
                of_pieces, block, edges, width, groups, add, long, many, 1.0,
            )?,
            Some(half) => {
                let (scale, back) = (work.scale as f32, (1.0 / work.scale) as f32);
                let rounded = half.rows(self, rows, center, scale, [all, d, d])?;
                let run = match half {
                    Half::Bf16 => Kernels::outer_grad_bf16,
                    Half::F16 => Kernels::outer_grad_f16,
                };
                let rows = rounded.input(0, all * d);
                run(
                    kernels, gpu, shape, starts, latents, order, token, values, rows, None, widths,
                    to, of_pieces, block, edges, width, groups, add, long, many, back,
                )?;
            }
        }
        self.kernels.outer_finish(
            &self.gpu,
            Shape::blocks(pieces, threads),
            sorted.starts.input(0, codes.d_sae + 1),
            sorted.latent.input(0, n),
            partials.input(0, 2 * pieces * d),
            out.output(codes.d_sae * d),
            count(n),
            count(d),
            flag(work.accumulate),
            count(piece),
        )
    }
}

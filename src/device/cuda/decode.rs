//! From edges to reconstructions.

use super::Cuda;
use super::later::Later;
use super::launch::{Shape, count};
use super::memory::{In, Memory};
use super::sae::Buf;
use super::sums::SUMS;
use crate::device::sae::{Base, Decode, Reconstruct, Reconstruction, Rows, Target};
use crate::domain::Result;

/// Columns of a tile of `reconstruct_tiles`.
const COLUMNS: usize = 128;
/// Warps of its block, at most.
const WARPS: usize = 8;
/// Edges whose rows a warp holds, at most.
const SLOTS: usize = 128;

/// Threads of a block in which each owns columns of rows of width `d`: four where it can.
pub fn threads_of(d: usize) -> u32 {
    let columns = if d.is_multiple_of(4) { d / 4 } else { d };
    count(columns.clamp(1, 256)).next_multiple_of(32)
}

/// How a block of `reconstruct_tiles` looks.
struct Tiles {
    slots: usize,
    warps: usize,
    /// Bytes of shared memory.
    shared: usize,
}

impl Tiles {
    /// Two blocks are to fit a multiprocessor, of which a block may have `shared` bytes. `None`
    /// where rows are no multiple of 16 bytes, or one warp is too much.
    fn of(codes: &super::codes::Codes, d: usize, prefixes: usize, shared: usize) -> Option<Self> {
        // Room for the mean: with TopK each token has as many.
        let mean = codes.edges.div_ceil(codes.tokens);
        let slots = mean.next_multiple_of(32).clamp(32, SLOTS);
        let warp = 4 * ((slots + prefixes) * (COLUMNS + 4) + 3 * slots) + 32 * 8 * prefixes;
        let tiles = d.div_ceil(COLUMNS);
        let most = (shared.saturating_sub(2 * SUMS) / 2 / warp)
            .min(WARPS)
            .min(tiles);
        if !d.is_multiple_of(4) || most == 0 {
            return None;
        }
        let warps = tiles.div_ceil(tiles.div_ceil(most));
        Some(Self {
            slots,
            warps,
            shared: warps * warp + SUMS,
        })
    }
}

/// What a reconstruction is compared with, and what is taken off that.
pub fn target<'a>(target: &Target<'a, Buf>, d: usize) -> (In<'a, f32>, Option<In<'a, f32>>) {
    let rows = |y: &Rows<'a, Buf>| y.buf.input(y.first * d, y.count * d);
    match target {
        Target::Rows(y) => (rows(y), None),
        Target::Residual { of, out } => (rows(of), Some(out.input(0, of.count * d))),
    }
}

impl Cuda {
    /// The base of a reconstruction, and how far its rows lie apart.
    pub(super) fn base<'a>(
        base: &Base<'a, Buf>,
        tokens: usize,
        d: usize,
    ) -> (Option<In<'a, f32>>, u64) {
        match *base {
            Base::Zero => (None, 0),
            Base::Row(row) => (Some(row.input(0, d)), 0),
            Base::Rows(rows) => (Some(rows.input(0, tokens * d)), d as u64),
        }
    }

    pub(super) fn decoded(&self, work: &Decode<'_, Self>, out: &mut Buf) -> Result<()> {
        let (codes, d) = (work.codes, work.d_out);
        if codes.tokens == 0 {
            return Ok(());
        }
        if let Some(dense) = codes.dense(self) {
            return dense.decode(self, work, out);
        }
        let (base, stride) = Self::base(&work.base, codes.tokens, d);
        self.kernels.decode(
            &self.gpu,
            Shape::blocks(codes.tokens, threads_of(d)),
            codes.row_ptr.input(0, codes.tokens + 1),
            codes.latent.input(0, codes.edges),
            work.values.input(0, codes.edges),
            work.w_dec.input(0, codes.d_sae * d),
            base,
            out.output(codes.tokens * d),
            stride,
            count(d),
        )
    }

    /// The gradients, and later Σ‖x̂ − y‖² of each prefix.
    pub(super) fn compare(
        &self,
        work: &Reconstruct<'_, Self>,
        out: Reconstruction<'_, Buf>,
    ) -> Result<Later> {
        let (decode, prefixes) = (&work.decode, work.prefixes.len());
        let (codes, d) = (decode.codes, decode.d_out);
        let (tokens, edges) = (codes.tokens, codes.edges);
        if tokens == 0 {
            return self.sum_rows(&Memory::none(&self.gpu), prefixes, 0);
        }
        if prefixes == 1
            && let Some(dense) = codes.dense(self)
        {
            return dense.compare(self, work, out);
        }
        let (base, stride) = Self::base(&decode.base, tokens, d);
        let (y, less) = target(&work.target, d);
        let on_gpu = self.prefixes.get(&self.gpu, work.prefixes)?;
        let mut errors = Memory::new(&self.gpu, prefixes * tokens)?;
        let row_ptr = codes.row_ptr.input(0, tokens + 1);
        let latents = codes.latent.input(0, edges);
        let values = decode.values.input(0, edges);
        let w_dec = decode.w_dec.input(0, codes.d_sae * d);
        let (to, grad) = (out.out.map(|out| out.output(tokens * d)), out.grad);
        let grad = grad.output(prefixes * tokens * d);
        let (dots, squares) = (out.dots.output(edges), errors.output(prefixes * tokens));
        let widths = on_gpu.widths.input(0, prefixes);
        let scales = on_gpu.scales.input(0, prefixes);
        let kernels = &self.kernels;
        if let Some(tiles) = Tiles::of(codes, d, prefixes, self.target.shared) {
            let shape = Shape::blocks(tokens, count(32 * tiles.warps)).shared(tiles.shared);
            let [d, prefixes, slots] = [d, prefixes, tiles.slots].map(count);
            kernels.reconstruct_tiles(
                &self.gpu, shape, row_ptr, latents, values, w_dec, base, y, less, widths, scales,
                to, grad, dots, squares, stride, d, prefixes, slots,
            )?;
        } else {
            let shape = Shape::blocks(tokens, 256).shared(SUMS);
            let [d, prefixes] = [d, prefixes].map(count);
            kernels.reconstruct(
                &self.gpu, shape, row_ptr, latents, values, w_dec, base, y, less, widths, scales,
                to, grad, dots, squares, stride, d, prefixes,
            )?;
        }
        self.sum_rows(&errors, prefixes, tokens)
    }
}

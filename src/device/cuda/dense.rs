//! Codes as a matrix, for batches in which so many pairs of token and latent are edges that dense
//! products are cheaper than a row of d numbers for each edge: AuxK, which chooses many among few
//! latents, and variants with bounds while most latents still fire.
//!
//! A gather moves 4·d bytes an edge, a product computes 2·d operations a pair, so it depends on the
//! share of pairs that are edges, and hardly on d: `kernels/README.md` has the rates. The choice is
//! made by counts of this batch, so that its bits do not depend on what came before.
//!
//! The matrix is there in stretches of tokens or of latents only, none larger than what the edges
//! themselves take, or than a stretch of pre-activations. Every sum runs over all latents or over
//! all tokens of the codes, however they are cut. What is no edge is 0: a number that is not finite
//! gets into more sums than row by row, all of them of a step that is refused.

use super::Cuda;
use super::codes::Codes;
use super::decode::{target, threads_of};
use super::factor::Factor;
use super::later::Later;
use super::launch::{Shape, count};
use super::memory::{In, Memory, Out};
use super::sae::{Buf, flag};
use super::sums::SUMS;
use crate::device::sae::{Base, Decode, OuterGrad, Reconstruct, Reconstruction};
use crate::domain::{Amp, Result};

/// Shares of pairs that are edges from which on products are cheaper.
const FROM_F32: f64 = 1.0 / 16.0;
const FROM_BF16: f64 = 1.0 / 64.0;
/// Stretches of tokens and latents are multiples of this, the side of a product's tile.
const GRAIN: usize = 128;

/// Codes of which a matrix is made.
pub struct Dense<'a> {
    codes: &'a Codes,
    /// Latents that edges may be of: its columns.
    columns: usize,
}

impl Codes {
    /// The codes as a matrix, where that is cheaper.
    pub(super) fn dense(&self, cuda: &Cuda) -> Option<Dense<'_>> {
        let from = cuda.dense_from.unwrap_or(match cuda.amp {
            Amp::Off => FROM_F32,
            Amp::Bf16 | Amp::Fp16 => FROM_BF16,
        });
        let columns = self.among.as_ref().map_or(self.d_sae, |list| list.len());
        let pairs = self.tokens as f64 * columns as f64;
        let codes = self;
        (self.edges > 0 && self.edges as f64 >= from * pairs).then_some(Dense { codes, columns })
    }
}

impl Dense<'_> {
    fn list(&self) -> Option<In<'_, u32>> {
        let list = self.codes.among.as_ref()?;
        Some(list.input(0, list.len()))
    }

    /// Stretches of `all` rows (first, count) of which each has `across` numbers.
    fn stretches(
        &self,
        cuda: &Cuda,
        all: usize,
        across: usize,
    ) -> impl Iterator<Item = (usize, usize)> {
        let bytes = cuda.stretch.max(8 * self.codes.edges);
        let fit = (bytes / (4 * across) / GRAIN * GRAIN).max(GRAIN);
        (0..all)
            .step_by(fit)
            .map(move |first| (first, fit.min(all - first)))
    }

    /// The matrix with these values, of some tokens and columns (first, count).
    fn rows(
        &self,
        cuda: &Cuda,
        values: &Buf,
        (token, tokens): (usize, usize),
        (column, columns): (usize, usize),
    ) -> Result<Memory<f32>> {
        let codes = self.codes;
        let mut out = Memory::new(&cuda.gpu, tokens * columns)?;
        cuda.kernels.edges_to_rows(
            &cuda.gpu,
            Shape::blocks(tokens, 256),
            codes.row_ptr.input(0, codes.tokens + 1),
            codes.latent.input(0, codes.edges),
            values.input(0, codes.edges),
            self.list(),
            out.output(tokens * columns),
            count(self.columns),
            count(token),
            count(column),
            count(columns),
        )?;
        Ok(out)
    }

    /// Adds rows of `d` to those of the latents of these columns; or `out` becomes them, and 0
    /// where [`Dense::clear`] was before.
    fn put(
        &self,
        cuda: &Cuda,
        rows: &Memory<f32>,
        (column, columns): (usize, usize),
        out: &mut Buf,
        d: usize,
        accumulate: bool,
    ) -> Result<()> {
        cuda.kernels.put_rows(
            &cuda.gpu,
            Shape::blocks(columns, threads_of(d)),
            rows.input(0, columns * d),
            self.list(),
            out.output(self.codes.d_sae * d),
            count(column),
            count(d),
            flag(accumulate),
        )
    }

    /// Latents that are no columns have no edges.
    fn clear(&self, out: &mut Buf, d: usize, accumulate: bool) -> Result<()> {
        match self.codes.among {
            Some(_) if !accumulate => out.fill(0, self.codes.d_sae * d, 0),
            _ => Ok(()),
        }
    }

    /// Rows of the matrix with `values` times a factor, to `out`; the matrix's memory is left.
    fn summed(
        &self,
        cuda: &Cuda,
        values: &Buf,
        part: (usize, usize),
        (factor, d): (&Factor<'_>, usize),
        bias: Option<In<'_, f32>>,
        out: Out<'_, f32>,
    ) -> Result<Memory<f32>> {
        let (n, columns) = (part.1, self.columns);
        let rows = self.rows(cuda, values, part, (0, columns))?;
        let left = cuda.factor(rows.input(0, n * columns), n, columns)?;
        cuda.multiply(&left, factor, bias, out, [n, d, columns])?;
        drop(left);
        Ok(rows)
    }

    /// As [`Cuda::decoded`].
    pub fn decode(&self, cuda: &Cuda, work: &Decode<'_, Cuda>, out: &mut Buf) -> Result<()> {
        let (tokens, columns, d) = (self.codes.tokens, self.columns, work.d_out);
        let taken = self.taken(cuda, work.w_dec, d)?;
        let w = taken.as_ref().unwrap_or(work.w_dec).input(0, columns * d);
        let of_columns = cuda.turned(w, None, columns, d)?;
        let bias = match work.base {
            Base::Row(row) => Some(row.input(0, d)),
            Base::Zero | Base::Rows(_) => None,
        };
        for part in self.stretches(cuda, tokens, columns) {
            let to = out.output_at(part.0 * d, part.1 * d);
            self.summed(cuda, work.values, part, (&of_columns, d), bias, to)?;
        }
        let Base::Rows(base) = work.base else {
            return Ok(());
        };
        let n = tokens * d;
        let (base, to) = (base.input(0, n), out.output(n));
        let shape = Shape::threads(n);
        cuda.kernels.add_to(&cuda.gpu, shape, base, to, n as u64)
    }

    /// As [`Cuda::compare`], of one prefix: x̂ = base + A·W, G = scale·(x̂ − y), and da is what
    /// G·Wᵀ has in the places of edges.
    pub fn compare(
        &self,
        cuda: &Cuda,
        work: &Reconstruct<'_, Cuda>,
        out: Reconstruction<'_, Buf>,
    ) -> Result<Later> {
        let (gpu, kernels, codes) = (&cuda.gpu, &cuda.kernels, self.codes);
        let (tokens, columns, decode) = (codes.tokens, self.columns, &work.decode);
        let (d, edges) = (decode.d_out, codes.edges);
        let (base, stride) = Cuda::base(&decode.base, tokens, d);
        let (y, less) = target(&work.target, d);
        let scale = work.prefixes[0].scale as f32;
        let taken = self.taken(cuda, decode.w_dec, d)?;
        let w = taken.as_ref().unwrap_or(decode.w_dec).input(0, columns * d);
        let of_latents = cuda.factor(w, columns, d)?;
        let of_columns = cuda.turned(w, None, columns, d)?;
        let Reconstruction {
            out: mut to,
            grad,
            dots,
        } = out;
        let mut errors = Memory::new(gpu, tokens)?;
        for part in self.stretches(cuda, tokens, columns) {
            let (first, n) = part;
            let sums = grad.output_at(first * d, n * d);
            let factor = (&of_columns, d);
            let mut a = self.summed(cuda, decode.values, part, factor, None, sums)?;
            kernels.compare(
                gpu,
                Shape::blocks(n, 256).shared(SUMS),
                base,
                y,
                less,
                to.as_mut().map(|to| to.output(tokens * d)),
                grad.output(tokens * d),
                errors.output(tokens),
                stride,
                scale,
                count(first),
                count(d),
            )?;
            // The matrix of da takes the place of that of a.
            let g = cuda.factor(grad.input(first * d, n * d), n, d)?;
            cuda.multiply(
                &g,
                &of_latents,
                None,
                a.output(n * columns),
                [n, columns, d],
            )?;
            kernels.rows_to_edges(
                gpu,
                Shape::blocks(n, 256),
                codes.row_ptr.input(0, tokens + 1),
                codes.latent.input(0, edges),
                a.input(0, n * columns),
                self.list(),
                dots.output(edges),
                count(columns),
                count(first),
                count(columns),
            )?;
        }
        cuda.sum_rows(&errors, 1, tokens)
    }

    /// The rows of `w` that are of columns, one behind the other, where not all are.
    fn taken(&self, cuda: &Cuda, w: &Buf, d: usize) -> Result<Option<Memory<f32>>> {
        let Some(list) = self.list() else {
            return Ok(None);
        };
        let mut out = Memory::new(&cuda.gpu, self.columns * d)?;
        cuda.kernels.take_rows(
            &cuda.gpu,
            Shape::blocks(self.columns, threads_of(d)),
            w.input(0, self.codes.d_sae * d),
            list,
            out.output(self.columns * d),
            count(d),
        )?;
        Ok(Some(out))
    }

    /// As [`Cuda::outer`], of one block of rows: Aᵀ·(rows − center).
    pub fn outer(&self, cuda: &Cuda, work: &OuterGrad<'_, Cuda>, out: &mut Buf) -> Result<()> {
        let (tokens, d) = (self.codes.tokens, work.d);
        let rows = work.rows.buf.input(work.rows.first * d, tokens * d);
        let center = work.center.map(|center| center.input(0, d));
        let right = cuda.turned(rows, center, tokens, d)?;
        self.clear(out, d, work.accumulate)?;
        for part in self.stretches(cuda, self.columns, tokens) {
            let columns = part.1;
            let a = self.rows(cuda, work.values, (0, tokens), part)?;
            let left = cuda.turned(a.input(0, tokens * columns), None, tokens, columns)?;
            drop(a);
            let mut sums = Memory::new(&cuda.gpu, columns * d)?;
            cuda.multiply(
                &left,
                &right,
                None,
                sums.output(columns * d),
                [columns, d, tokens],
            )?;
            self.put(cuda, &sums, part, out, d, work.accumulate)?;
        }
        Ok(())
    }

    /// counts\[j\] += positive values of latent j, up to the largest number.
    pub fn count(&self, cuda: &Cuda, values: &Buf, counts: &mut Memory<u32>) -> Result<()> {
        let (gpu, kernels, codes) = (&cuda.gpu, &cuda.kernels, self.codes);
        let (n, d_sae) = (codes.edges, codes.d_sae);
        let mut found = Memory::zeros(gpu, d_sae)?;
        kernels.count_edges(
            gpu,
            Shape::threads(n),
            codes.latent.input(0, n),
            values.input(0, n),
            found.output(d_sae),
            count(n),
        )?;
        kernels.add_counts(
            gpu,
            Shape::threads(d_sae),
            found.input(0, d_sae),
            counts.output(d_sae),
            count(d_sae),
        )
    }

    /// The sum of each latent's values.
    pub fn sums(&self, cuda: &Cuda, values: &Buf, out: &mut Buf, accumulate: bool) -> Result<()> {
        let tokens = self.codes.tokens;
        self.clear(out, 1, accumulate)?;
        for part in self.stretches(cuda, self.columns, tokens) {
            let columns = part.1;
            let a = self.rows(cuda, values, (0, tokens), part)?;
            let a = a.input(0, tokens * columns);
            let partials = cuda.column_partials(a, None, None, tokens, columns)?;
            let mut sums = Memory::new(&cuda.gpu, columns)?;
            let to = Some(sums.output(columns));
            cuda.finish_columns(&partials, to, None, 1.0, columns, false)?;
            self.put(cuda, &sums, part, out, 1, accumulate)?;
        }
        Ok(())
    }
}

//! Sparse-autoencoder operations as kernel launches. What each means stands in
//! [`crate::device::sae`], and how it is done in `kernels/`.

use super::Cuda;
use super::codes::Codes;
use super::encode;
use super::halves::Half;
use super::later::Later;
use super::launch::{Shape, count};
use super::memory::{In, Memory};
use super::product::small_tiles;
use super::rules::{RuleArguments, penalty_arguments};
use crate::device::sae::{
    AdamStep, Decode, EdgeGrads, Encode, HostCodes, OuterGrad, Penalty, Pick, PreAct, Reconstruct,
    Reconstruction, Rows, Rule, SaeOps,
};
use crate::domain::Result;

pub(super) type Buf = Memory<f32>;

fn rows_of<'a>(rows: Rows<'a, Buf>, d: usize) -> In<'a, f32> {
    rows.buf.input(rows.first * d, rows.count * d)
}

pub(super) fn flag(value: bool) -> u32 {
    u32::from(value)
}

impl SaeOps for Cuda {
    type Codes = Codes;
    type Later = Later;

    fn numbers(&self, later: Vec<Later>) -> Result<Vec<Vec<f64>>> {
        self.read_later(&later, &Memory::none(&self.gpu), &mut [])
    }

    fn numbers_and_counts(
        &self,
        later: Vec<Later>,
        counts: &Memory<u32>,
        to: &mut [u32],
    ) -> Result<Vec<Vec<f64>>> {
        self.read_later(&later, counts, to)
    }

    fn scales_loss(&self) -> bool {
        Half::of(self.amp) == Some(Half::F16)
    }

    fn largest_rounded(
        &self,
        rows: Rows<'_, Buf>,
        center: Option<&Buf>,
        d: usize,
    ) -> Result<Option<Later>> {
        let Some(half) = Half::of(self.amp) else {
            return Ok(None);
        };
        let center = center.map(|center| center.input(0, d));
        half.largest(self, rows_of(rows, d), center, [rows.count, d])
    }

    fn new_codes(&self) -> Codes {
        Codes::none(self)
    }

    fn tokens(&self, codes: &Codes) -> usize {
        codes.tokens
    }

    fn edges(&self, codes: &Codes) -> usize {
        codes.edges
    }

    fn pre<'a>(&self, codes: &'a Codes) -> &'a Buf {
        &codes.pre
    }

    fn download_codes(&self, codes: &Codes) -> Result<HostCodes<f32>> {
        codes.download()
    }

    fn slice_codes(
        &self,
        codes: &Codes,
        first: usize,
        number: usize,
        out: &mut Codes,
    ) -> Result<()> {
        *out = codes.slice(self, first, number)?;
        Ok(())
    }

    fn encode(&self, product: &Encode<'_, Buf>, picks: &mut [Pick<'_, Self>]) -> Result<()> {
        encode::encode(self, product, picks, false).map(|_| ())
    }

    fn try_encode(
        &self,
        product: &Encode<'_, Buf>,
        picks: &mut [Pick<'_, Self>],
    ) -> Result<Option<Later>> {
        encode::encode(self, product, picks, true)
    }

    fn least_positive(&self, codes: &Codes, scale: Option<&Buf>) -> Result<Later> {
        let n = codes.edges;
        let least = self.later_bits(0xff, |key| match key {
            u32::MAX => 0.0,
            // Positive keys are ordered as their bits are, with the sign's bit set.
            key => f64::from(f32::from_bits(key & !(1 << 31))),
        })?;
        self.kernels.least_positive(
            &self.gpu,
            Shape::threads(n),
            codes.latent.input(0, n),
            codes.pre.input(0, n),
            scale.map(|scale| scale.input(0, codes.d_sae)),
            least.memory().half(least.at),
            count(n),
        )?;
        Ok(least)
    }

    fn activate(&self, codes: &Codes, rule: &Rule<'_, Buf>, values: &mut Buf) -> Result<Later> {
        let n = codes.edges;
        let rule = RuleArguments::of(rule, codes.d_sae);
        let [b_gate, r_mag, b_mag] = rule.gate;
        let shape = Shape::threads(n).shared(32 * 4);
        let blocks = shape.blocks[0];
        let mut active = Memory::new(&self.gpu, blocks)?;
        self.kernels.activate(
            &self.gpu,
            shape,
            codes.latent.input(0, n),
            codes.pre.input(0, n),
            values.output(n),
            active.output(blocks),
            rule.threshold,
            b_gate,
            r_mag,
            b_mag,
            count(n),
            rule.kind,
        )?;
        self.sum_rows(&active, 1, blocks)
    }

    fn activate_backward(
        &self,
        codes: &Codes,
        rule: &Rule<'_, Buf>,
        penalty: &Penalty<'_, Buf>,
        pre_act: Option<&PreAct<'_, Buf, Memory<u32>>>,
        da: &Buf,
        grads: &mut EdgeGrads<'_, Buf>,
    ) -> Result<Later> {
        let (n, tokens, d_sae) = (codes.edges, codes.tokens, codes.d_sae);
        if tokens == 0 {
            return self.sum_rows(&Memory::none(&self.gpu), 2, 0);
        }
        let rule = RuleArguments::of(rule, d_sae);
        let [b_gate, r_mag, b_mag] = rule.gate;
        let (loss, weight, curve, norms) = penalty_arguments(penalty, d_sae);
        let mut losses = Memory::new(&self.gpu, 2 * tokens)?;
        self.kernels.activate_backward(
            &self.gpu,
            Shape::warps(tokens),
            codes.row_ptr.input(0, tokens + 1),
            codes.latent.input(0, n),
            codes.pre.input(0, n),
            da.input(0, n),
            grads.pre.output(n),
            grads.norm.as_mut().map(|buf| buf.output(n)),
            grads.threshold.as_mut().map(|buf| buf.output(n)),
            grads.r_mag.as_mut().map(|buf| buf.output(n)),
            grads.b_mag.as_mut().map(|buf| buf.output(n)),
            losses.output(2 * tokens),
            rule.threshold,
            b_gate,
            r_mag,
            b_mag,
            norms,
            pre_act.map(|loss| loss.norms.input(0, d_sae)),
            pre_act.map(|loss| loss.dead.input(0, d_sae)),
            weight,
            curve,
            rule.bandwidth,
            pre_act.map_or(0.0, |loss| loss.weight),
            rule.kind,
            loss,
            flag(rule.ste_to_input),
            flag(grads.add_to_pre),
            count(tokens),
        )?;
        self.sum_rows(&losses, 2, tokens)
    }

    fn decode(&self, work: &Decode<'_, Self>, out: &mut Buf) -> Result<()> {
        self.decoded(work, out)
    }

    fn reconstruct(
        &self,
        work: &Reconstruct<'_, Self>,
        out: Reconstruction<'_, Buf>,
    ) -> Result<Later> {
        self.compare(work, out)
    }

    fn outer_grad(&self, work: &OuterGrad<'_, Self>, out: &mut Buf) -> Result<()> {
        self.outer(work, out)
    }

    fn latent_sums(
        &self,
        codes: &Codes,
        values: &Buf,
        out: &mut Buf,
        accumulate: bool,
    ) -> Result<()> {
        if let Some(dense) = codes.dense(self) {
            return dense.sums(self, values, out, accumulate);
        }
        let sorted = codes.by_latent(self)?;
        self.kernels.latent_sums(
            &self.gpu,
            Shape::warps(codes.d_sae),
            sorted.starts.input(0, codes.d_sae + 1),
            sorted.order.input(0, codes.edges),
            values.input(0, codes.edges),
            out.output(codes.d_sae),
            count(codes.d_sae),
            flag(accumulate),
        )
    }

    fn count_fired(&self, codes: &Codes, values: &Buf, counts: &mut Memory<u32>) -> Result<()> {
        if let Some(dense) = codes.dense(self) {
            return dense.count(self, values, counts);
        }
        let sorted = codes.by_latent(self)?;
        self.kernels.count_fired(
            &self.gpu,
            Shape::warps(codes.d_sae),
            sorted.starts.input(0, codes.d_sae + 1),
            sorted.order.input(0, codes.edges),
            values.input(0, codes.edges),
            counts.output(codes.d_sae),
            count(codes.d_sae),
        )
    }

    fn column_sums(
        &self,
        rows: Rows<'_, Buf>,
        d: usize,
        out: &mut Buf,
        accumulate: bool,
    ) -> Result<()> {
        let partials = self.column_partials(rows_of(rows, d), None, None, rows.count, d)?;
        self.finish_columns(&partials, Some(out.output(d)), None, 1.0, d, accumulate)
    }

    fn spread(&self, rows: Rows<'_, Buf>, d: usize) -> Result<Later> {
        let n = rows.count;
        let sums = self.column_partials(rows_of(rows, d), None, None, n, d)?;
        let mut means = Memory::new(&self.gpu, d)?;
        self.finish_columns(&sums, None, Some(&mut means), 1.0 / n as f64, d, false)?;
        let means = Some(means.input(0, d));
        let squares = self.column_partials(rows_of(rows, d), None, means, n, d)?;
        let mut sums = Memory::new(&self.gpu, d)?;
        self.finish_columns(&squares, None, Some(&mut sums), 1.0, d, false)?;
        self.sum_rows(&sums, 1, d)
    }

    fn scaled(&self, rows: Rows<'_, Buf>, d: usize, factor: f64, out: &mut Buf) -> Result<()> {
        let n = rows.count * d;
        let (from, to) = (rows_of(rows, d), out.output(n));
        self.kernels.scaled(
            &self.gpu,
            Shape::threads(n),
            from,
            to,
            n as u64,
            factor as f32,
        )
    }

    fn linear(
        &self,
        x: Rows<'_, Buf>,
        w: &Buf,
        bias: &Buf,
        d_in: usize,
        d_out: usize,
        out: &mut Buf,
    ) -> Result<()> {
        self.product(
            rows_of(x, d_in),
            None,
            w.input(0, d_out * d_in),
            None,
            Some(bias.input(0, d_out)),
            out.output(x.count * d_out),
            [x.count, d_out, d_in],
            d_out,
        )
    }

    fn linear_grad(
        &self,
        g: Rows<'_, Buf>,
        x: Rows<'_, Buf>,
        d_in: usize,
        d_out: usize,
        dw: &mut Buf,
        accumulate: bool,
    ) -> Result<()> {
        let shape = small_tiles(d_out, d_in);
        let (a, b, c) = (rows_of(g, d_out), rows_of(x, d_in), dw.output(d_out * d_in));
        let [m, n, k] = [d_out, d_in, x.count].map(count);
        self.kernels
            .product_tn(&self.gpu, shape, a, b, c, m, n, k, flag(accumulate))
    }

    fn add_matvec_t(
        &self,
        w: &Buf,
        rows: usize,
        d: usize,
        v: &Buf,
        factor: f64,
        out: &mut Buf,
    ) -> Result<()> {
        let weights = Some(v.input(0, rows));
        let partials = self.column_partials(w.input(0, rows * d), weights, None, rows, d)?;
        self.finish_columns(&partials, Some(out.output(d)), None, factor, d, true)
    }

    fn row_norms(&self, w: &Buf, rows: usize, d: usize, out: &mut Buf) -> Result<()> {
        let (w, out) = (w.input(0, rows * d), out.output(rows));
        let shape = Shape::warps(rows);
        self.kernels
            .row_norms(&self.gpu, shape, w, out, count(rows), count(d))
    }

    fn add_norm_grad(&self, w: &Buf, rows: usize, d: usize, v: &Buf, grad: &mut Buf) -> Result<()> {
        let (w, v, grad) = (
            w.input(0, rows * d),
            v.input(0, rows),
            grad.output(rows * d),
        );
        let shape = Shape::warps(rows);
        self.kernels
            .add_norm_grad(&self.gpu, shape, w, v, grad, count(rows), count(d))
    }

    fn normalize_rows(&self, w: &mut Buf, rows: usize, d: usize) -> Result<()> {
        let (w, shape) = (w.output(rows * d), Shape::warps(rows));
        self.kernels
            .normalize_rows(&self.gpu, shape, w, count(rows), count(d))
    }

    fn project_rows(&self, w: &Buf, rows: usize, d: usize, grad: &mut Buf) -> Result<()> {
        let (w, grad) = (w.input(0, rows * d), grad.output(rows * d));
        let shape = Shape::warps(rows);
        self.kernels
            .project_rows(&self.gpu, shape, w, grad, count(rows), count(d))
    }

    fn sum_squares(&self, buffers: &[(&Buf, usize)]) -> Result<Later> {
        self.squares(buffers)
    }

    fn adam(
        &self,
        step: &AdamStep,
        param: &mut Buf,
        grad: &Buf,
        m: &mut Buf,
        v: &mut Buf,
    ) -> Result<()> {
        self.optimised(step, param, grad, m, v)
    }

    fn clamp_below(&self, buf: &mut Buf, least: f64) -> Result<()> {
        let n = buf.len();
        let to = buf.output(n);
        self.kernels
            .clamp_below(&self.gpu, Shape::threads(n), to, n as u64, least as f32)
    }
}

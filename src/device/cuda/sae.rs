//! Sparse-autoencoder operations as kernel launches. What each means stands in
//! [`crate::device::sae`], and how it is done in `kernels/`.

use super::Cuda;
use super::codes::Codes;
use super::encode::{self, PRODUCT_SHARED};
use super::launch::{Shape, count};
use super::memory::{In, Memory};
use super::rules::{RuleArguments, penalty_arguments};
use super::sums::SUMS;
use crate::device::sae::{
    AdamStep, Base, Decode, EdgeGrads, Encode, HostCodes, OuterGrad, Penalty, Pick, PreAct, Prefix,
    Reconstruct, Reconstruction, Rows, Rule, SaeOps, Target,
};
use crate::domain::Result;

pub(super) type Buf = Memory<f32>;

/// Partial sums of a whole buffer, at most.
const PARTIALS: usize = 1024;

fn rows_of<'a>(rows: Rows<'a, Buf>, d: usize) -> In<'a, f32> {
    rows.buf.input(rows.first * d, rows.count * d)
}

pub(super) fn flag(value: bool) -> u32 {
    u32::from(value)
}

impl Cuda {
    /// The base of a reconstruction, and how far its rows lie apart.
    fn base<'a>(base: &Base<'a, Buf>, tokens: usize, d: usize) -> (Option<In<'a, f32>>, u64) {
        match *base {
            Base::Zero => (None, 0),
            Base::Row(row) => (Some(row.input(0, d)), 0),
            Base::Rows(rows) => (Some(rows.input(0, tokens * d)), d as u64),
        }
    }

    pub(super) fn widths(&self, prefixes: &[Prefix]) -> Result<Memory<u32>> {
        let widths: Vec<u32> = prefixes.iter().map(|p| count(p.width)).collect();
        Memory::of(&self.gpu, &widths)
    }
}

impl SaeOps for Cuda {
    type Codes = Codes;

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
        encode::encode(self, product, picks)
    }

    fn least_positive(&self, codes: &Codes, scale: Option<&Buf>) -> Result<Option<f64>> {
        const NONE: u32 = u32::MAX;
        let n = codes.edges;
        let mut least = Memory::of(&self.gpu, &[NONE])?;
        self.kernels.least_positive(
            &self.gpu,
            Shape::threads(n),
            codes.latent.input(0, n),
            codes.pre.input(0, n),
            scale.map(|scale| scale.input(0, codes.d_sae)),
            least.output(1),
            count(n),
        )?;
        let key = least.to_host()?[0];
        // Positive keys are ordered as their bits are, with the sign's bit set.
        Ok((key != NONE).then(|| f64::from(f32::from_bits(key & !(1 << 31)))))
    }

    fn activate(&self, codes: &Codes, rule: &Rule<'_, Buf>, values: &mut Buf) -> Result<u64> {
        let n = codes.edges;
        let rule = RuleArguments::of(rule, codes.d_sae);
        let [b_gate, r_mag, b_mag] = rule.gate;
        let mut active = Memory::zeros(&self.gpu, 1)?;
        self.kernels.activate(
            &self.gpu,
            Shape::threads(n),
            codes.latent.input(0, n),
            codes.pre.input(0, n),
            values.output(n),
            active.output(1),
            rule.threshold,
            b_gate,
            r_mag,
            b_mag,
            count(n),
            rule.kind,
        )?;
        Ok(u64::from(active.to_host()?[0]))
    }

    fn activate_backward(
        &self,
        codes: &Codes,
        rule: &Rule<'_, Buf>,
        penalty: &Penalty<'_, Buf>,
        pre_act: Option<&PreAct<'_, Buf, Memory<u32>>>,
        da: &Buf,
        grads: &mut EdgeGrads<'_, Buf>,
    ) -> Result<[f64; 2]> {
        let (n, tokens, d_sae) = (codes.edges, codes.tokens, codes.d_sae);
        if tokens == 0 {
            return Ok([0.0; 2]);
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
        let sums = self.sum_rows(&losses, 2, tokens)?;
        Ok([sums[0], sums[1]])
    }

    fn decode(&self, work: &Decode<'_, Self>, out: &mut Buf) -> Result<()> {
        let (codes, d) = (work.codes, work.d_out);
        if codes.tokens == 0 {
            return Ok(());
        }
        let (base, stride) = Self::base(&work.base, codes.tokens, d);
        self.kernels.decode(
            &self.gpu,
            Shape::blocks(codes.tokens, 256),
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

    fn reconstruct(
        &self,
        work: &Reconstruct<'_, Self>,
        out: Reconstruction<'_, Buf>,
    ) -> Result<Vec<f64>> {
        let (decode, prefixes) = (&work.decode, work.prefixes.len());
        let (codes, d) = (decode.codes, decode.d_out);
        let (tokens, edges) = (codes.tokens, codes.edges);
        if tokens == 0 {
            return Ok(vec![0.0; prefixes]);
        }
        let (base, stride) = Self::base(&decode.base, tokens, d);
        let (y, less) = match &work.target {
            Target::Rows(y) => (*y, None),
            Target::Residual { of, out } => (*of, Some(out.input(0, tokens * d))),
        };
        let widths = self.widths(work.prefixes)?;
        let scales: Vec<f32> = work.prefixes.iter().map(|p| p.scale as f32).collect();
        let scales = Memory::of(&self.gpu, &scales)?;
        let mut errors = Memory::new(&self.gpu, prefixes * tokens)?;
        self.kernels.reconstruct(
            &self.gpu,
            Shape::blocks(tokens, 256).shared(SUMS),
            codes.row_ptr.input(0, tokens + 1),
            codes.latent.input(0, edges),
            decode.values.input(0, edges),
            decode.w_dec.input(0, codes.d_sae * d),
            base,
            y.buf.input(y.first * d, tokens * d),
            less,
            widths.input(0, prefixes),
            scales.input(0, prefixes),
            out.out.map(|out| out.output(tokens * d)),
            out.grad.output(prefixes * tokens * d),
            out.dots.output(edges),
            errors.output(prefixes * tokens),
            stride,
            count(d),
            count(prefixes),
        )?;
        self.sum_rows(&errors, prefixes, tokens)
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
        self.finish_columns(&partials, Some(out), None, 1.0, d, accumulate)
    }

    fn spread(&self, rows: Rows<'_, Buf>, d: usize) -> Result<f64> {
        let n = rows.count;
        let sums = self.column_partials(rows_of(rows, d), None, None, n, d)?;
        let mut means = Memory::new(&self.gpu, d)?;
        self.finish_columns(&sums, None, Some(&mut means), 1.0 / n as f64, d, false)?;
        let means = Some(means.input(0, d));
        let (squares, chunks) = self.column_partials(rows_of(rows, d), None, means, n, d)?;
        Ok(self.sum_rows(&squares, 1, chunks * d)?[0])
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
            out,
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
        let shape = Shape {
            blocks: [d_in.div_ceil(64), d_out.div_ceil(64)],
            threads: 256,
            shared: PRODUCT_SHARED,
        };
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
        self.finish_columns(&partials, Some(out), None, factor, d, true)
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

    fn sum_squares(&self, buf: &Buf, len: usize) -> Result<f64> {
        if len == 0 {
            return Ok(0.0);
        }
        // Stretches depend on the length alone.
        let stretch = len.div_ceil(PARTIALS).max(4096);
        let blocks = len.div_ceil(stretch);
        let mut partials = Memory::new(&self.gpu, blocks)?;
        self.kernels.square_partials(
            &self.gpu,
            Shape::blocks(blocks, 256).shared(SUMS),
            buf.input(0, len),
            partials.output(blocks),
            len as u64,
            stretch as u64,
        )?;
        Ok(self.sum_rows(&partials, 1, blocks)?[0])
    }

    fn adam(
        &self,
        step: &AdamStep,
        param: &mut Buf,
        grad: &Buf,
        m: &mut Buf,
        v: &mut Buf,
    ) -> Result<()> {
        let n = param.len();
        self.kernels.adam(
            &self.gpu,
            Shape::threads(n),
            param.output(n),
            grad.input(0, n),
            m.output(n),
            v.output(n),
            n as u64,
            step.grad_scale as f32,
            step.beta1 as f32,
            (1.0 - step.beta1) as f32,
            step.beta2 as f32,
            (1.0 - step.beta2) as f32,
            step.eps as f32,
            (1.0 - step.lr * step.decay) as f32,
            (step.lr / step.correction1) as f32,
            (1.0 / step.correction2.sqrt()) as f32,
        )
    }

    fn clamp_below(&self, buf: &mut Buf, least: f64) -> Result<()> {
        let n = buf.len();
        let to = buf.output(n);
        self.kernels
            .clamp_below(&self.gpu, Shape::threads(n), to, n as u64, least as f32)
    }
}

//! [`SaeOps`] on the CPU: where each operation is computed.

use super::codes::Codes;
use super::gemm;
use super::pack::View;
use super::{Cpu, edges, encode, fit, outer, weights};
use crate::device::sae::{
    AdamStep, Decode, EdgeGrads, Encode, HostCodes, OuterGrad, Penalty, Pick, PreAct, Reconstruct,
    Reconstruction, Rows, Rule, SaeOps,
};
use crate::domain::Result;

/// The elements of `rows`.
pub(super) fn slice<'a>(rows: Rows<'a, Vec<f32>>, d: usize) -> &'a [f32] {
    &rows.buf[rows.first * d..][..rows.count * d]
}

impl SaeOps for Cpu {
    type Codes = Codes;
    type Later = Vec<f64>;

    fn numbers(&self, later: Vec<Vec<f64>>) -> Result<Vec<Vec<f64>>> {
        Ok(later)
    }

    fn new_codes(&self) -> Codes {
        Codes::new()
    }

    fn tokens(&self, codes: &Codes) -> usize {
        codes.tokens()
    }

    fn edges(&self, codes: &Codes) -> usize {
        codes.edges()
    }

    fn pre<'a>(&self, codes: &'a Codes) -> &'a Vec<f32> {
        &codes.pre
    }

    fn download_codes(&self, codes: &Codes) -> Result<HostCodes<f32>> {
        Ok(HostCodes {
            row_ptr: codes.row_ptr.clone(),
            latent: codes.latent.clone(),
            pre: codes.pre.clone(),
        })
    }

    fn slice_codes(
        &self,
        codes: &Codes,
        first: usize,
        count: usize,
        out: &mut Codes,
    ) -> Result<()> {
        edges::slice(codes, first, count, out)
    }

    fn encode(&self, product: &Encode<'_, Vec<f32>>, picks: &mut [Pick<'_, Self>]) -> Result<()> {
        encode::encode(&self.pool, product, picks)
    }

    fn least_positive(&self, codes: &Codes, scale: Option<&Vec<f32>>) -> Result<Vec<f64>> {
        let least = edges::least_positive(codes, scale);
        Ok(vec![least.unwrap_or(0.0)])
    }

    fn activate(
        &self,
        codes: &Codes,
        rule: &Rule<'_, Vec<f32>>,
        values: &mut Vec<f32>,
    ) -> Result<Vec<f64>> {
        Ok(vec![
            edges::activate(&self.pool, codes, rule, values)? as f64
        ])
    }

    fn activate_backward(
        &self,
        codes: &Codes,
        rule: &Rule<'_, Vec<f32>>,
        penalty: &Penalty<'_, Vec<f32>>,
        pre_act: Option<&PreAct<'_, Vec<f32>, Vec<u32>>>,
        da: &Vec<f32>,
        grads: &mut EdgeGrads<'_, Vec<f32>>,
    ) -> Result<Vec<f64>> {
        let sums = edges::activate_backward(&self.pool, codes, rule, penalty, pre_act, da, grads)?;
        Ok(sums.to_vec())
    }

    fn decode(&self, decode: &Decode<'_, Self>, out: &mut Vec<f32>) -> Result<()> {
        fit::decode(&self.pool, decode, out)
    }

    fn reconstruct(
        &self,
        work: &Reconstruct<'_, Self>,
        out: Reconstruction<'_, Vec<f32>>,
    ) -> Result<Vec<f64>> {
        fit::reconstruct(&self.pool, work, out)
    }

    fn outer_grad(&self, work: &OuterGrad<'_, Self>, out: &mut Vec<f32>) -> Result<()> {
        outer::outer_grad(&self.pool, work, out)
    }

    fn latent_sums(
        &self,
        codes: &Codes,
        values: &Vec<f32>,
        out: &mut Vec<f32>,
        accumulate: bool,
    ) -> Result<()> {
        edges::latent_sums(&self.pool, codes, values, out, accumulate)
    }

    fn count_fired(&self, codes: &Codes, values: &Vec<f32>, counts: &mut Vec<u32>) -> Result<()> {
        edges::count_fired(&self.pool, codes, values, counts)
    }

    fn column_sums(
        &self,
        rows: Rows<'_, Vec<f32>>,
        d: usize,
        out: &mut Vec<f32>,
        accumulate: bool,
    ) -> Result<()> {
        weights::column_sums(&self.pool, slice(rows, d), d, out, accumulate)
    }

    fn spread(&self, rows: Rows<'_, Vec<f32>>, d: usize) -> Result<Vec<f64>> {
        Ok(vec![weights::spread(&self.pool, slice(rows, d), d)?])
    }

    fn scaled(
        &self,
        rows: Rows<'_, Vec<f32>>,
        d: usize,
        factor: f64,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let (from, factor) = (slice(rows, d), factor as f32);
        weights::for_chunks(&self.pool, &mut out[..from.len()], |start, out| {
            out.iter_mut()
                .zip(&from[start..])
                .for_each(|(out, v)| *out = factor * v);
        });
        Ok(())
    }

    fn linear(
        &self,
        x: Rows<'_, Vec<f32>>,
        w: &Vec<f32>,
        bias: &Vec<f32>,
        d_in: usize,
        d_out: usize,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let (out, bias) = (&mut out[..x.count * d_out], &bias[..d_out]);
        let (rows, w) = (View::rows(slice(x, d_in), d_in), View::rows(w, d_in));
        let shape = (x.count, d_out, d_in);
        gemm::product(&self.pool, rows, w, shape, Some(bias), false, out);
        Ok(())
    }

    fn linear_grad(
        &self,
        g: Rows<'_, Vec<f32>>,
        x: Rows<'_, Vec<f32>>,
        d_in: usize,
        d_out: usize,
        dw: &mut Vec<f32>,
        accumulate: bool,
    ) -> Result<()> {
        let dw = &mut dw[..d_out * d_in];
        let shape = (d_out, d_in, x.count);
        let g = View::transposed(slice(g, d_out), d_out);
        let x = View::transposed(slice(x, d_in), d_in);
        gemm::product(&self.pool, g, x, shape, None, accumulate, dw);
        Ok(())
    }

    fn add_matvec_t(
        &self,
        w: &Vec<f32>,
        rows: usize,
        d: usize,
        v: &Vec<f32>,
        factor: f64,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        weights::add_matvec_t(&self.pool, &w[..rows * d], d, v, factor, &mut out[..d])
    }

    fn row_norms(&self, w: &Vec<f32>, rows: usize, d: usize, out: &mut Vec<f32>) -> Result<()> {
        weights::row_norms(&self.pool, &w[..rows * d], d, out);
        Ok(())
    }

    fn add_norm_grad(
        &self,
        w: &Vec<f32>,
        rows: usize,
        d: usize,
        v: &Vec<f32>,
        grad: &mut Vec<f32>,
    ) -> Result<()> {
        weights::add_norm_grad(&self.pool, &w[..rows * d], d, v, grad);
        Ok(())
    }

    fn normalize_rows(&self, w: &mut Vec<f32>, rows: usize, d: usize) -> Result<()> {
        weights::normalize_rows(&self.pool, &mut w[..rows * d], d);
        Ok(())
    }

    fn project_rows(&self, w: &Vec<f32>, rows: usize, d: usize, grad: &mut Vec<f32>) -> Result<()> {
        weights::project_rows(&self.pool, &w[..rows * d], d, grad);
        Ok(())
    }

    fn sum_squares(&self, buffers: &[(&Vec<f32>, usize)]) -> Result<Vec<f64>> {
        let squares =
            |&(buf, len): &(&Vec<f32>, usize)| weights::sum_squares(&self.pool, &buf[..len]);
        Ok(vec![buffers.iter().map(squares).sum::<Result<f64>>()?])
    }

    fn adam(
        &self,
        step: &AdamStep,
        param: &mut Vec<f32>,
        grad: &Vec<f32>,
        m: &mut Vec<f32>,
        v: &mut Vec<f32>,
    ) -> Result<()> {
        weights::adam(&self.pool, step, param, grad, m, v);
        Ok(())
    }

    fn clamp_below(&self, buf: &mut Vec<f32>, least: f64) -> Result<()> {
        let least = least as f32;
        weights::for_chunks(&self.pool, buf, |_, part| {
            for v in part {
                if *v < least {
                    *v = least;
                }
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! Sparse-autoencoder operations in plain loops.

use super::{Codes, Reference, select};
use crate::device::Real;
use crate::device::sae::{
    AdamStep, Base, Decode, EdgeGrads, Encode, HostCodes, OuterGrad, Penalty, Pick, PreAct,
    Reconstruct, Reconstruction, Rows, Rule, SaeOps, Target, group_of,
};
use crate::domain::Result;

impl<R: Real> Codes<R> {
    fn tokens(&self) -> usize {
        self.host.row_ptr.len() - 1
    }

    /// Edges of token `b` with their latents.
    fn row(&self, b: usize) -> impl Iterator<Item = (usize, usize)> + use<'_, R> {
        let (from, to) = (self.host.row_ptr[b], self.host.row_ptr[b + 1]);
        (from as usize..to as usize).map(|e| (e, self.host.latent[e] as usize))
    }
}

fn put<R: Real>(place: &mut R, value: f64, accumulate: bool) {
    let old = if accumulate { place.to_f64() } else { 0.0 };
    *place = R::from_f64(old + value);
}

fn norm<R: Real>(row: &[R]) -> f64 {
    row.iter().map(|v| v.to_f64().powi(2)).sum::<f64>().sqrt()
}

/// x̂ of token `b` over the latents below `width`.
fn decode_row<R: Real>(work: &Decode<'_, Reference<R>>, b: usize, width: usize) -> Vec<f64> {
    let d = work.d_out;
    let mut row: Vec<f64> = match work.base {
        Base::Zero => vec![0.0; d],
        Base::Row(row) => row[..d].iter().map(|v| v.to_f64()).collect(),
        Base::Rows(rows) => rows[b * d..][..d].iter().map(|v| v.to_f64()).collect(),
    };
    for (e, j) in work.codes.row(b).filter(|&(_, j)| j < width) {
        let a = work.values[e].to_f64();
        for (sum, w) in row.iter_mut().zip(&work.w_dec[j * d..][..d]) {
            *sum += a * w.to_f64();
        }
    }
    row
}

impl<R: Real> SaeOps for Reference<R> {
    type Codes = Codes<R>;
    type Later = Vec<f64>;

    fn numbers(&self, later: Vec<Vec<f64>>) -> Result<Vec<Vec<f64>>> {
        Ok(later)
    }

    fn new_codes(&self) -> Codes<R> {
        Codes {
            host: HostCodes {
                row_ptr: vec![0],
                ..HostCodes::default()
            },
            d_sae: 0,
        }
    }

    fn tokens(&self, codes: &Codes<R>) -> usize {
        codes.tokens()
    }

    fn edges(&self, codes: &Codes<R>) -> usize {
        codes.host.latent.len()
    }

    fn pre<'a>(&self, codes: &'a Codes<R>) -> &'a Vec<R> {
        &codes.host.pre
    }

    fn download_codes(&self, codes: &Codes<R>) -> Result<HostCodes<R>> {
        Ok(codes.host.clone())
    }

    fn slice_codes(
        &self,
        codes: &Codes<R>,
        first: usize,
        count: usize,
        out: &mut Codes<R>,
    ) -> Result<()> {
        let rows = &codes.host.row_ptr[first..=first + count];
        let edges = rows[0] as usize..rows[count] as usize;
        out.d_sae = codes.d_sae;
        out.host = HostCodes {
            row_ptr: rows.iter().map(|&at| at - rows[0]).collect(),
            latent: codes.host.latent[edges.clone()].to_vec(),
            pre: codes.host.pre[edges].to_vec(),
        };
        Ok(())
    }

    fn encode(&self, product: &Encode<'_, Vec<R>>, picks: &mut [Pick<'_, Self>]) -> Result<()> {
        select::encode(product, picks);
        Ok(())
    }

    fn least_positive(&self, codes: &Codes<R>, scale: Option<&Vec<R>>) -> Result<Vec<f64>> {
        let keys = codes.host.latent.iter().zip(&codes.host.pre);
        let least = keys
            .map(|(&j, p)| p.to_f64() * scale.map_or(1.0, |s| s[j as usize].to_f64()))
            .filter(|key| *key > 0.0)
            .min_by(f64::total_cmp);
        Ok(vec![least.unwrap_or(0.0)])
    }

    fn activate(
        &self,
        codes: &Codes<R>,
        rule: &Rule<'_, Vec<R>>,
        values: &mut Vec<R>,
    ) -> Result<Vec<f64>> {
        let mut active = 0;
        for (e, &j) in codes.host.latent.iter().enumerate() {
            let a = rule.value(j as usize, codes.host.pre[e].to_f64());
            active += usize::from(a != 0.0);
            values[e] = R::from_f64(a);
        }
        Ok(vec![active as f64])
    }

    fn activate_backward(
        &self,
        codes: &Codes<R>,
        rule: &Rule<'_, Vec<R>>,
        penalty: &Penalty<'_, Vec<R>>,
        pre_act: Option<&PreAct<'_, Vec<R>, Vec<u32>>>,
        da: &Vec<R>,
        grads: &mut EdgeGrads<'_, Vec<R>>,
    ) -> Result<Vec<f64>> {
        let mut losses = vec![0.0; 2];
        for b in 0..codes.tokens() {
            let pre = |e: usize| codes.host.pre[e].to_f64();
            let active = |&(e, j): &(usize, usize)| rule.value(j, pre(e)) != 0.0;
            let l0 = codes.row(b).filter(active).count();
            losses[0] += penalty.of_token(l0);
            for (e, j) in codes.row(b) {
                let edge = rule.backward(penalty, pre_act, j, pre(e), da[e].to_f64(), l0);
                losses[0] += edge.penalty;
                losses[1] += edge.pre_act;
                put(&mut grads.pre[e], edge.pre, grads.add_to_pre);
                let extra = [
                    (&mut grads.norm, edge.norm),
                    (&mut grads.threshold, edge.threshold),
                    (&mut grads.r_mag, edge.r_mag),
                    (&mut grads.b_mag, edge.b_mag),
                ];
                for (out, value) in extra {
                    if let Some(out) = out {
                        put(&mut out[e], value, false);
                    }
                }
            }
        }
        Ok(losses)
    }

    fn decode(&self, work: &Decode<'_, Self>, out: &mut Vec<R>) -> Result<()> {
        for b in 0..work.codes.tokens() {
            let row = decode_row(work, b, work.codes.d_sae);
            for (place, value) in out[b * work.d_out..].iter_mut().zip(row) {
                *place = R::from_f64(value);
            }
        }
        Ok(())
    }

    fn reconstruct(
        &self,
        work: &Reconstruct<'_, Self>,
        mut out: Reconstruction<'_, Vec<R>>,
    ) -> Result<Vec<f64>> {
        let (decode, prefixes) = (&work.decode, work.prefixes);
        let (d, tokens) = (decode.d_out, decode.codes.tokens());
        let mut errors = vec![0.0; prefixes.len()];
        for b in 0..tokens {
            let target = |c: usize| match &work.target {
                Target::Rows(y) => y.buf[(y.first + b) * d + c].to_f64(),
                Target::Residual { of, out } => {
                    of.buf[(of.first + b) * d + c].to_f64() - out[b * d + c].to_f64()
                }
            };
            let mut sum = vec![0.0; d];
            for (m, prefix) in prefixes.iter().enumerate().rev() {
                let row = decode_row(decode, b, prefix.width);
                if let (Some(out), true) = (&mut out.out, m + 1 == prefixes.len()) {
                    for c in 0..d {
                        out[b * d + c] = R::from_f64(row[c]);
                    }
                }
                for c in 0..d {
                    let residual = row[c] - target(c);
                    errors[m] += residual * residual;
                    sum[c] += prefix.scale * residual;
                    out.grad[(m * tokens + b) * d + c] = R::from_f64(sum[c]);
                }
            }
            for (e, j) in decode.codes.row(b) {
                let m = group_of(prefixes, j);
                let g = &out.grad[(m * tokens + b) * d..][..d];
                let w = &decode.w_dec[j * d..][..d];
                let dot: f64 = g.iter().zip(w).map(|(g, w)| g.to_f64() * w.to_f64()).sum();
                out.dots[e] = R::from_f64(dot);
            }
        }
        Ok(errors)
    }

    fn outer_grad(&self, work: &OuterGrad<'_, Self>, out: &mut Vec<R>) -> Result<()> {
        let (d, codes) = (work.d, work.codes);
        let mut sum = vec![0.0; codes.d_sae * d];
        for b in 0..codes.tokens() {
            for (e, j) in codes.row(b) {
                let m = group_of(work.prefixes, j);
                let at = (work.rows.first + m * work.rows.count + b) * d;
                let v = work.values[e].to_f64();
                for c in 0..d {
                    let centre = work.center.map_or(0.0, |row| row[c].to_f64());
                    sum[j * d + c] += v * (work.rows.buf[at + c].to_f64() - centre);
                }
            }
        }
        for (place, value) in out.iter_mut().zip(sum) {
            put(place, value, work.accumulate);
        }
        Ok(())
    }

    fn latent_sums(
        &self,
        codes: &Codes<R>,
        values: &Vec<R>,
        out: &mut Vec<R>,
        accumulate: bool,
    ) -> Result<()> {
        let mut sum = vec![0.0; codes.d_sae];
        for (&j, value) in codes.host.latent.iter().zip(values) {
            sum[j as usize] += value.to_f64();
        }
        for (place, value) in out.iter_mut().zip(sum) {
            put(place, value, accumulate);
        }
        Ok(())
    }

    fn count_fired(&self, codes: &Codes<R>, values: &Vec<R>, counts: &mut Vec<u32>) -> Result<()> {
        for (&j, value) in codes.host.latent.iter().zip(values) {
            let count = &mut counts[j as usize];
            *count = count.saturating_add(u32::from(value.to_f64() > 0.0));
        }
        Ok(())
    }

    fn column_sums(
        &self,
        rows: Rows<'_, Vec<R>>,
        d: usize,
        out: &mut Vec<R>,
        accumulate: bool,
    ) -> Result<()> {
        for (c, place) in out[..d].iter_mut().enumerate() {
            let column = (0..rows.count).map(|b| rows.buf[(rows.first + b) * d + c].to_f64());
            put(place, column.sum(), accumulate);
        }
        Ok(())
    }

    fn spread(&self, rows: Rows<'_, Vec<R>>, d: usize) -> Result<Vec<f64>> {
        let mut total = 0.0;
        for c in 0..d {
            let column = || (0..rows.count).map(|b| rows.buf[(rows.first + b) * d + c].to_f64());
            let mean = column().sum::<f64>() / rows.count as f64;
            total += column().map(|v| (v - mean).powi(2)).sum::<f64>();
        }
        Ok(vec![total])
    }

    fn scaled(
        &self,
        rows: Rows<'_, Vec<R>>,
        d: usize,
        factor: f64,
        out: &mut Vec<R>,
    ) -> Result<()> {
        let from = &rows.buf[rows.first * d..][..rows.count * d];
        for (place, value) in out.iter_mut().zip(from) {
            *place = R::from_f64(factor * value.to_f64());
        }
        Ok(())
    }

    fn linear(
        &self,
        x: Rows<'_, Vec<R>>,
        w: &Vec<R>,
        bias: &Vec<R>,
        d_in: usize,
        d_out: usize,
        out: &mut Vec<R>,
    ) -> Result<()> {
        for b in 0..x.count {
            let row = &x.buf[(x.first + b) * d_in..][..d_in];
            for i in 0..d_out {
                let w = &w[i * d_in..][..d_in];
                let sum: f64 = row
                    .iter()
                    .zip(w)
                    .map(|(x, w)| x.to_f64() * w.to_f64())
                    .sum();
                out[b * d_out + i] = R::from_f64(sum + bias[i].to_f64());
            }
        }
        Ok(())
    }

    fn linear_grad(
        &self,
        g: Rows<'_, Vec<R>>,
        x: Rows<'_, Vec<R>>,
        d_in: usize,
        d_out: usize,
        dw: &mut Vec<R>,
        accumulate: bool,
    ) -> Result<()> {
        for i in 0..d_out {
            for c in 0..d_in {
                let products = (0..x.count).map(|b| {
                    g.buf[(g.first + b) * d_out + i].to_f64()
                        * x.buf[(x.first + b) * d_in + c].to_f64()
                });
                put(&mut dw[i * d_in + c], products.sum(), accumulate);
            }
        }
        Ok(())
    }

    fn add_matvec_t(
        &self,
        w: &Vec<R>,
        rows: usize,
        d: usize,
        v: &Vec<R>,
        factor: f64,
        out: &mut Vec<R>,
    ) -> Result<()> {
        for (c, place) in out[..d].iter_mut().enumerate() {
            let products = (0..rows).map(|j| v[j].to_f64() * w[j * d + c].to_f64());
            put(place, factor * products.sum::<f64>(), true);
        }
        Ok(())
    }

    fn row_norms(&self, w: &Vec<R>, rows: usize, d: usize, out: &mut Vec<R>) -> Result<()> {
        for j in 0..rows {
            out[j] = R::from_f64(norm(&w[j * d..][..d]));
        }
        Ok(())
    }

    fn add_norm_grad(
        &self,
        w: &Vec<R>,
        rows: usize,
        d: usize,
        v: &Vec<R>,
        grad: &mut Vec<R>,
    ) -> Result<()> {
        for j in 0..rows {
            let row = &w[j * d..][..d];
            let factor = v[j].to_f64() / norm(row).max(1e-12);
            for (place, w) in grad[j * d..].iter_mut().zip(row) {
                put(place, factor * w.to_f64(), true);
            }
        }
        Ok(())
    }

    fn normalize_rows(&self, w: &mut Vec<R>, rows: usize, d: usize) -> Result<()> {
        for row in w.chunks_exact_mut(d).take(rows) {
            let norm = norm(row);
            if norm > 0.0 {
                row.iter_mut()
                    .for_each(|v| *v = R::from_f64(v.to_f64() / norm));
            }
        }
        Ok(())
    }

    fn project_rows(&self, w: &Vec<R>, rows: usize, d: usize, grad: &mut Vec<R>) -> Result<()> {
        for (w, grad) in w.chunks_exact(d).zip(grad.chunks_exact_mut(d)).take(rows) {
            let square = norm(w).powi(2);
            if square > 0.0 {
                let dot: f64 = w
                    .iter()
                    .zip(&*grad)
                    .map(|(w, g)| w.to_f64() * g.to_f64())
                    .sum();
                for (g, w) in grad.iter_mut().zip(w) {
                    put(g, -dot / square * w.to_f64(), true);
                }
            }
        }
        Ok(())
    }

    fn sum_squares(&self, buffers: &[(&Vec<R>, usize)]) -> Result<Vec<f64>> {
        let squares = |&(buf, len): &(&Vec<R>, usize)| -> f64 {
            buf[..len].iter().map(|v| v.to_f64() * v.to_f64()).sum()
        };
        Ok(vec![buffers.iter().map(squares).sum()])
    }

    fn adam(
        &self,
        step: &AdamStep,
        param: &mut Vec<R>,
        grad: &Vec<R>,
        m: &mut Vec<R>,
        v: &mut Vec<R>,
    ) -> Result<()> {
        for i in 0..param.len() {
            let g = step.grad_scale * grad[i].to_f64();
            let mean = step.beta1 * m[i].to_f64() + (1.0 - step.beta1) * g;
            let square = step.beta2 * v[i].to_f64() + (1.0 - step.beta2) * g * g;
            m[i] = R::from_f64(mean);
            v[i] = R::from_f64(square);
            let root = (square / step.correction2).sqrt() + step.eps;
            let kept = param[i].to_f64() * (1.0 - step.lr * step.decay);
            param[i] = R::from_f64(kept - step.lr * (mean / step.correction1) / root);
        }
        Ok(())
    }

    fn clamp_below(&self, buf: &mut Vec<R>, least: f64) -> Result<()> {
        for v in buf {
            if v.to_f64() < least {
                *v = R::from_f64(least);
            }
        }
        Ok(())
    }
}

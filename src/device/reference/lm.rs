//! Language-model operations in plain loops.

use super::Reference;
use crate::device::Real;
use crate::device::coded::Coded;
use crate::device::lm::{
    Activation, Attention, Embed, Head, Linear, LmOps, Mlp, NO_TARGET, Norm, NormKind, QkNorm,
    RopeTable, Span, Table,
};
use crate::domain::Result;

/// A weight matrix [n, k], as it is.
pub struct Matrix<R> {
    rows: Vec<R>,
    k: usize,
}

impl<R: Real> Matrix<R> {
    fn n(&self) -> usize {
        self.rows.len() / self.k
    }

    /// The products of `x` [k] with every row.
    fn apply<'a>(&'a self, x: &'a [R]) -> impl Iterator<Item = f64> + 'a {
        self.rows.chunks(self.k).map(move |w| {
            let products = w.iter().zip(x).map(|(w, x)| w.to_f64() * x.to_f64());
            products.sum::<f64>()
        })
    }
}

fn wide<R: Real>(row: &[R]) -> Vec<f64> {
    row.iter().map(|v| v.to_f64()).collect()
}

fn apply<R: Real>(layer: &Linear<Reference<R>>, x: &[R], out: &mut [R]) {
    for (j, (out, sum)) in out.iter_mut().zip(layer.weight.apply(x)).enumerate() {
        *out = R::from_f64(sum + layer.bias.as_ref().map_or(0.0, |b| b[j].to_f64()));
    }
}

fn normalise<R: Real>(x: &[R], norm: &Norm<Reference<R>>, out: &mut [R]) {
    let x = wide(x);
    let mean = match norm.kind {
        NormKind::Layer => x.iter().sum::<f64>() / x.len() as f64,
        NormKind::Rms => 0.0,
    };
    let square = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (square + norm.eps).sqrt();
    for (i, out) in out.iter_mut().enumerate() {
        let bias = norm.bias.as_ref().map_or(0.0, |b| b[i].to_f64());
        *out = R::from_f64((x[i] - mean) * scale * norm.weight[i].to_f64() + bias);
    }
}

/// erf by its Taylor series, or beyond 3 by the continued fraction of erfc; both to the
/// last bits of f64.
fn erf(x: f64) -> f64 {
    let z = x.abs();
    let value = if z < 3.0 {
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            term *= -z * z / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        2.0 / std::f64::consts::PI.sqrt() * sum
    } else {
        let fraction = (1..60).rev().fold(z, |below, n| z + n as f64 / 2.0 / below);
        1.0 - (-z * z).exp() / std::f64::consts::PI.sqrt() / fraction
    };
    value.copysign(x)
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Gelu => x * 0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            x / (1.0 + (-2.0 * inner).exp())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
    }
}

fn capped(value: f64, cap: Option<f64>) -> f64 {
    cap.map_or(value, |cap| cap * (value / cap).tanh())
}

fn rotate<R: Real>(head: &mut [R], position: usize, rope: &RopeTable<Reference<R>>) {
    let half = rope.dim / 2;
    for i in 0..half {
        let at = position * half + i;
        let (cos, sin) = (rope.cos[at].to_f64(), rope.sin[at].to_f64());
        let (a, b) = (head[i].to_f64(), head[i + half].to_f64());
        head[i] = R::from_f64(a * cos - b * sin);
        head[i + half] = R::from_f64(b * cos + a * sin);
    }
}

fn normalise_in_place<R: Real>(x: &mut [R], norm: &Norm<Reference<R>>) {
    let old = x.to_vec();
    normalise(&old, norm, x);
}

/// Norms and turns the queries and keys of one row.
fn prepare<R: Real>(work: &Attention<'_, Reference<R>>, row: &mut [R], position: usize) {
    let (queries, rest) = row.split_at_mut(work.heads * work.head_dim);
    let keys = &mut rest[..work.kv_heads * work.head_dim];
    match work.qk_norm {
        QkNorm::Off => {}
        QkNorm::FullWidth(q, k) => {
            normalise_in_place(queries, q);
            normalise_in_place(keys, k);
        }
        QkNorm::PerHead(q, k) => {
            let heads = queries.chunks_mut(work.head_dim);
            heads.for_each(|head| normalise_in_place(head, q));
            let heads = keys.chunks_mut(work.head_dim);
            heads.for_each(|head| normalise_in_place(head, k));
        }
    }
    if let Some(rope) = work.rope {
        let heads = queries.chunks_mut(work.head_dim);
        for head in heads.chain(keys.chunks_mut(work.head_dim)) {
            rotate(head, position, rope);
        }
    }
}

fn attend<R: Real>(
    work: &Attention<'_, Reference<R>>,
    span: Span,
    head: usize,
    qkv: &[R],
    out: &mut [R],
) {
    let (d, width) = (work.head_dim, work.qkv_width());
    let shared = head / (work.heads / work.kv_heads);
    let row = |at: usize| &qkv[(span.start + at) * width..][..width];
    let query = |at: usize| &row(at)[head * d..][..d];
    let key = |at: usize| &row(at)[(work.heads + shared) * d..][..d];
    let value = |at: usize| &row(at)[(work.heads + work.kv_heads + shared) * d..][..d];
    for at in 0..span.len {
        let first = work.window.map_or(0, |w| (at + 1).saturating_sub(w));
        let scores: Vec<f64> = (first..=at)
            .map(|seen| {
                let products = query(at).iter().zip(key(seen));
                let dot: f64 = products.map(|(q, k)| q.to_f64() * k.to_f64()).sum();
                capped(dot * work.scale, work.softcap)
            })
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let place = (span.start + at) * work.heads * d + head * d;
        for (i, out) in out[place..place + d].iter_mut().enumerate() {
            let mixed = weights.iter().zip(first..);
            let mixed: f64 = mixed.map(|(w, seen)| w * value(seen)[i].to_f64()).sum();
            *out = R::from_f64(mixed / sum);
        }
    }
}

/// The logits of one row.
fn logits<R: Real>(x: &[R], head: &Head<Reference<R>>) -> Vec<f64> {
    let all = head.tiles.iter().flat_map(|tile| tile.apply(x));
    all.map(|logit| capped(logit, head.softcap)).collect()
}

impl<R: Real> LmOps for Reference<R> {
    type Weight = Matrix<R>;
    type CodedTable = Coded;

    fn pack(&self, w: &[R], n: usize, k: usize) -> Result<Matrix<R>> {
        let mut rows = self.allocate(n * k)?;
        rows.copy_from_slice(w);
        Ok(Matrix { rows, k })
    }

    fn pack_coded(&self, w: Coded) -> Result<Matrix<R>> {
        let k = w.k();
        let mut rows = self.allocate(w.n() * k)?;
        let mut plain = vec![0.0; k];
        for (row, to) in rows.chunks_exact_mut(k.max(1)).enumerate() {
            w.decode(row, 0, &mut plain);
            let values = to.iter_mut().zip(&plain);
            values.for_each(|(to, v)| *to = R::from_f64(f64::from(*v)));
        }
        Ok(Matrix { rows, k })
    }

    fn hold_coded(&self, table: Coded) -> Result<Coded> {
        Ok(table)
    }

    fn embed(&self, work: &Embed<'_, Self>, out: &mut Vec<R>) -> Result<()> {
        let d = work.d_model;
        for (r, out) in out.chunks_mut(d).take(work.ids.len()).enumerate() {
            let id = work.ids[r] as usize;
            let token = match work.table {
                Table::Plain(table) => wide(&table[id * d..][..d]),
                Table::Coded(table) => {
                    let mut plain = vec![0.0_f32; d];
                    table.decode(id, 0, &mut plain);
                    wide(&plain)
                }
            };
            let position = work.positions.map(|p| &p[work.at[r] as usize * d..][..d]);
            for (i, out) in out.iter_mut().enumerate() {
                let added = position.map_or(0.0, |p| p[i].to_f64());
                *out = R::from_f64(token[i] * work.scale + added);
            }
        }
        Ok(())
    }

    fn norm(&self, x: &Vec<R>, rows: usize, norm: &Norm<Self>, out: &mut Vec<R>) -> Result<()> {
        let d = norm.weight.len();
        let pairs = x.chunks(d).zip(out.chunks_mut(d));
        pairs
            .take(rows)
            .for_each(|(x, out)| normalise(x, norm, out));
        Ok(())
    }

    fn add(&self, delta: &Vec<R>, len: usize, to: &mut Vec<R>) -> Result<()> {
        for (to, delta) in to[..len].iter_mut().zip(delta) {
            *to = R::from_f64(to.to_f64() + delta.to_f64());
        }
        Ok(())
    }

    fn linear(
        &self,
        x: &Vec<R>,
        rows: usize,
        layer: &Linear<Self>,
        out: &mut Vec<R>,
    ) -> Result<()> {
        let pairs = x
            .chunks(layer.weight.k)
            .zip(out.chunks_mut(layer.weight.n()));
        pairs.take(rows).for_each(|(x, out)| apply(layer, x, out));
        Ok(())
    }

    fn attention(
        &self,
        work: &Attention<'_, Self>,
        qkv: &mut Vec<R>,
        out: &mut Vec<R>,
    ) -> Result<()> {
        out[..work.rows * work.heads * work.head_dim].fill(R::default());
        let width = work.qkv_width();
        for &span in work.spans {
            let rows = qkv[span.start * width..].chunks_mut(width);
            for (at, row) in rows.take(span.len).enumerate() {
                prepare(work, row, at);
            }
            for head in 0..work.heads {
                attend(work, span, head, qkv, out);
            }
        }
        Ok(())
    }

    fn mlp(&self, x: &Vec<R>, rows: usize, mlp: &Mlp<Self>, out: &mut Vec<R>) -> Result<()> {
        let mut inner = self.allocate(mlp.up.weight.n())?;
        let d = mlp.up.weight.k;
        let pairs = x.chunks(d).zip(out.chunks_mut(d));
        for (x, out) in pairs.take(rows) {
            apply(&mlp.up, x, &mut inner);
            let (gate, up) = inner.split_at_mut(mlp.d_mlp);
            for (i, value) in gate.iter_mut().enumerate() {
                let factor = if mlp.gated { up[i].to_f64() } else { 1.0 };
                *value = R::from_f64(activate(mlp.activation, value.to_f64()) * factor);
            }
            apply(&mlp.down, gate, out);
        }
        Ok(())
    }

    fn logits(&self, x: &Vec<R>, rows: usize, head: &Head<Self>, out: &mut Vec<R>) -> Result<()> {
        let d = head.tiles[0].k;
        let pairs = x.chunks(d).zip(out.chunks_mut(head.vocab));
        for (x, out) in pairs.take(rows) {
            for (out, logit) in out.iter_mut().zip(logits(x, head)) {
                *out = R::from_f64(logit);
            }
        }
        Ok(())
    }

    fn losses(
        &self,
        x: &Vec<R>,
        head: &Head<Self>,
        targets: &[u32],
        out: &mut [f64],
    ) -> Result<()> {
        let d = head.tiles[0].k;
        for (r, &target) in targets.iter().enumerate() {
            if target != NO_TARGET {
                let logits = logits(&x[r * d..][..d], head);
                let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = logits.iter().map(|l| (l - max).exp()).sum();
                out[r] = max + sum.ln() - logits[target as usize];
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::erf;

    #[test]
    fn erf_has_the_tabulated_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, value) in [
            (0.5, 0.520_499_877_8),
            (1.0, 0.842_700_792_9),
            (2.0, 0.995_322_265_0),
            (3.5, 0.999_999_256_9),
            (-1.0, -0.842_700_792_9),
        ] {
            assert!((erf(x) - value).abs() < 1e-10, "erf({x}) = {}", erf(x));
        }
    }
}

//! Language-model operations of the CPU backend.

mod attention;
mod loss;
mod mlp;
mod norm;
mod simd;
#[cfg(test)]
mod tests;
mod weight;

use super::memory::Parts;
use super::pool::Pool;
use super::{Cpu, gemm, out_of_memory};
use crate::device::coded::Coded;
use crate::device::lm::{Attention, Embed, Head, Linear, LmOps, Mlp, Norm, Table};
use crate::domain::Result;
use std::ops::Range;

/// Floats that a task of a cheap operation handles.
const GRAIN: usize = 16 << 10;

/// Shares out `rows` rows of `width` floats; `task` gets the rows and their part of `out`.
pub(super) fn for_rows(
    pool: &Pool,
    rows: usize,
    width: usize,
    out: &mut [f32],
    task: impl Fn(Range<usize>, &mut [f32]) + Sync,
) {
    let each = (GRAIN / width).max(1);
    let parts = Parts::new(out);
    pool.run(rows.div_ceil(each), |index| {
        let range = index * each..rows.min((index + 1) * each);
        // SAFETY: the ranges of two tasks do not overlap.
        let part = unsafe { parts.part(range.start * width, range.len() * width) };
        task(range, part);
    });
}

impl LmOps for Cpu {
    type Weight = weight::Weight;
    type CodedTable = Coded;

    fn pack(&self, w: &[f32], n: usize, k: usize) -> Result<weight::Weight> {
        // Packing aborts where it finds no memory: ask before.
        Vec::<f32>::new()
            .try_reserve_exact(w.len())
            .map_err(|_| out_of_memory(size_of_val(w)))?;
        Ok(weight::Weight::Packed(gemm::PackedWeight::new(w, n, k)))
    }

    fn pack_coded(&self, w: Coded) -> Result<weight::Weight> {
        Ok(weight::Weight::Coded(w))
    }

    fn hold_coded(&self, table: Coded) -> Result<Coded> {
        Ok(table)
    }

    fn embed(&self, work: &Embed<'_, Self>, out: &mut Vec<f32>) -> Result<()> {
        let (d, scale) = (work.d_model, work.scale as f32);
        for_rows(self.pool(), work.ids.len(), d, out, |rows, out| {
            for (r, out) in rows.zip(out.chunks_exact_mut(d)) {
                let token = work.ids[r] as usize;
                match work.table {
                    Table::Plain(table) => out.copy_from_slice(&table[token * d..][..d]),
                    Table::Coded(table) => table.decode(token, 0, out),
                }
                out.iter_mut().for_each(|v| *v *= scale);
                if let Some(positions) = work.positions {
                    let position = &positions[work.at[r] as usize * d..][..d];
                    out.iter_mut().zip(position).for_each(|(out, p)| *out += p);
                }
            }
        });
        Ok(())
    }

    fn norm(&self, x: &Vec<f32>, rows: usize, norm: &Norm<Self>, out: &mut Vec<f32>) -> Result<()> {
        let d = norm.weight.len();
        for_rows(self.pool(), rows, d, out, |rows, out| {
            for (r, out) in rows.zip(out.chunks_exact_mut(d)) {
                norm::row(self.pool().isa(), &x[r * d..][..d], norm, out);
            }
        });
        Ok(())
    }

    fn add(&self, delta: &Vec<f32>, len: usize, to: &mut Vec<f32>) -> Result<()> {
        for_rows(self.pool(), len, 1, to, |range, to| {
            to.iter_mut()
                .zip(&delta[range])
                .for_each(|(to, delta)| *to += delta);
        });
        Ok(())
    }

    fn linear(
        &self,
        x: &Vec<f32>,
        rows: usize,
        layer: &Linear<Self>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let (n, k) = (layer.weight.n(), layer.weight.k());
        let (x, out) = (&x[..rows * k], &mut out[..rows * n]);
        let bias = layer.bias.as_deref();
        layer.weight.product(self.pool(), x, rows, bias, out);
        Ok(())
    }

    fn attention(
        &self,
        work: &Attention<'_, Self>,
        qkv: &mut Vec<f32>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        attention::attention(self.pool(), work, qkv, out);
        Ok(())
    }

    fn mlp(&self, x: &Vec<f32>, rows: usize, mlp: &Mlp<Self>, out: &mut Vec<f32>) -> Result<()> {
        mlp::mlp(self.pool(), x, rows, mlp, out);
        Ok(())
    }

    fn logits(
        &self,
        x: &Vec<f32>,
        rows: usize,
        head: &Head<Self>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        loss::logits(self.pool(), x, rows, head, out);
        Ok(())
    }

    fn losses(
        &self,
        x: &Vec<f32>,
        head: &Head<Self>,
        targets: &[u32],
        out: &mut [f64],
    ) -> Result<()> {
        loss::losses(self.pool(), x, head, targets, out);
        Ok(())
    }
}

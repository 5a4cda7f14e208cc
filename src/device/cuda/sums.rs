//! Sums whose order depends on shapes alone: partial sums of stretches, then the sum of those.

use super::Cuda;
use super::later::Later;
use super::launch::{Shape, count};
use super::memory::{In, Memory, Out};
use crate::domain::Result;

/// Partial sums of a buffer, at most.
const PARTIALS: usize = 1024;
/// Shared memory of a block that sums in f64.
pub const SUMS: usize = 32 * 8;

impl Cuda {
    /// The sum of each of `rows` rows of `partials` [rows, n].
    pub(super) fn sum_rows(&self, partials: &Memory<f64>, rows: usize, n: usize) -> Result<Later> {
        let sums = self.later(rows)?;
        self.kernels.sum_rows(
            &self.gpu,
            Shape::blocks(rows, 1024).shared(SUMS),
            partials.input(0, rows * n),
            sums.memory().output(sums.at + rows),
            count(n),
            count(sums.at),
        )?;
        Ok(sums)
    }

    /// The squares of the first numbers of all buffers together.
    pub(super) fn squares(&self, buffers: &[(&Memory<f32>, usize)]) -> Result<Later> {
        // Stretches depend on the lengths alone.
        let parts = buffers.iter().map(|&(buffer, len)| {
            let stretch = len.div_ceil(PARTIALS).max(4096).next_multiple_of(4);
            (buffer, len, stretch, len.div_ceil(stretch))
        });
        let all = parts.clone().map(|(_, _, _, blocks)| blocks).sum();
        let mut partials = Memory::new(&self.gpu, all)?;
        let mut first = 0;
        for (buffer, len, stretch, blocks) in parts {
            self.kernels.square_partials(
                &self.gpu,
                Shape::blocks(blocks, 256).shared(SUMS),
                buffer.input(0, len),
                partials.output(all),
                len as u64,
                stretch as u64,
                count(first),
            )?;
            first += blocks;
        }
        self.sum_rows(&partials, 1, all)
    }

    /// Partial sums of the columns of `rows`, in f64, and how many there are of each.
    pub(super) fn column_partials(
        &self,
        rows: In<'_, f32>,
        weights: Option<In<'_, f32>>,
        means: Option<In<'_, f64>>,
        n: usize,
        d: usize,
    ) -> Result<(Memory<f64>, usize)> {
        let chunk = n.div_ceil(256).max(32);
        let chunks = n.div_ceil(chunk);
        let mut partials = Memory::new(&self.gpu, chunks * d)?;
        let shape = Shape {
            blocks: [d.div_ceil(128), chunks],
            threads: 128,
            shared: 0,
        };
        let (out, [n, d, chunk]) = (partials.output(chunks * d), [n, d, chunk].map(count));
        self.kernels
            .column_partials(&self.gpu, shape, rows, weights, means, out, n, d, chunk)?;
        Ok((partials, chunks))
    }

    pub(super) fn finish_columns(
        &self,
        (partials, chunks): &(Memory<f64>, usize),
        out: Option<Out<'_, f32>>,
        wide: Option<&mut Memory<f64>>,
        factor: f64,
        d: usize,
        accumulate: bool,
    ) -> Result<()> {
        self.kernels.column_finish(
            &self.gpu,
            Shape::blocks(d.div_ceil(32), 256).shared(256 * 8),
            partials.input(0, chunks * d),
            out,
            wide.map(|wide| wide.output(d)),
            factor,
            count(*chunks),
            count(d),
            u32::from(accumulate),
        )
    }
}

//! Copies of rows.

use super::Cuda;
use super::launch::{Shape, count};
use super::memory::Memory;
use crate::device::rows::{Picked, RowOps};
use crate::device::sae::Rows;
use crate::domain::Result;

impl RowOps for Cuda {
    fn gather_rows(
        &self,
        from: &Memory<f32>,
        picked: Picked<'_, Memory<u32>>,
        d: usize,
        to: &mut Memory<f32>,
        first: usize,
    ) -> Result<()> {
        self.kernels.gather_rows(
            &self.gpu,
            Shape::warps(picked.count),
            from.input(0, from.len()),
            picked.pick.input(picked.at, picked.count),
            to.output_at(first * d, picked.count * d),
            count(picked.count),
            count(d),
        )
    }

    fn first_not_finite(&self, rows: Rows<'_, Memory<f32>>, d: usize) -> Result<Option<usize>> {
        let mut least = Memory::<u32>::new(&self.gpu, 1)?;
        least.fill(0, 1, 0xff)?;
        self.kernels.first_not_finite(
            &self.gpu,
            Shape::warps(rows.count),
            rows.buf.input(rows.first * d, rows.count * d),
            least.output(1),
            count(rows.count),
            count(d),
        )?;
        let mut row = [0];
        least.read(0, &mut row)?;
        Ok((row[0] != u32::MAX).then_some(row[0] as usize))
    }
}

//! Copies of rows.

use super::Reference;
use crate::device::Real;
use crate::device::rows::{Picked, RowOps};
use crate::device::sae::Rows;
use crate::domain::Result;

impl<R: Real> RowOps for Reference<R> {
    fn gather_rows(
        &self,
        from: &Vec<R>,
        picked: Picked<'_, Vec<u32>>,
        d: usize,
        to: &mut Vec<R>,
        first: usize,
    ) -> Result<()> {
        for i in 0..picked.count {
            let row = picked.pick[picked.at + i] as usize;
            to[(first + i) * d..][..d].copy_from_slice(&from[row * d..][..d]);
        }
        Ok(())
    }

    fn first_not_finite(&self, rows: Rows<'_, Vec<R>>, d: usize) -> Result<Option<usize>> {
        let mut values = rows.buf[rows.first * d..].chunks_exact(d).take(rows.count);
        Ok(values.position(|row| row.iter().any(|v| !v.to_f64().is_finite())))
    }
}

//! Copies of rows.

use super::Cpu;
use super::lm::for_rows;
use super::sae::slice;
use crate::device::rows::{Picked, RowOps};
use crate::device::sae::Rows;
use crate::domain::Result;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Rows that a task looks through.
const EACH: usize = 64;

impl RowOps for Cpu {
    fn gather_rows(
        &self,
        from: &Vec<f32>,
        picked: Picked<'_, Vec<u32>>,
        d: usize,
        to: &mut Vec<f32>,
        first: usize,
    ) -> Result<()> {
        let pick = &picked.pick[picked.at..picked.at + picked.count];
        let to = &mut to[first * d..][..pick.len() * d];
        for_rows(self.pool(), pick.len(), d, to, |rows, to| {
            for (&row, to) in pick[rows].iter().zip(to.chunks_exact_mut(d)) {
                to.copy_from_slice(&from[row as usize * d..][..d]);
            }
        });
        Ok(())
    }

    fn first_not_finite(&self, rows: Rows<'_, Vec<f32>>, d: usize) -> Result<Option<usize>> {
        let values = slice(rows, d);
        let least = AtomicUsize::new(usize::MAX);
        self.pool().run(rows.count.div_ceil(EACH), |task| {
            let first = task * EACH;
            let end = rows.count.min(first + EACH);
            let mut rows = values[first * d..end * d].chunks_exact(d);
            // Without a way out of the row, so that it runs in vectors.
            let bad = |row: &[f32]| row.iter().fold(false, |bad, v| bad | !v.is_finite());
            if let Some(row) = rows.position(bad) {
                least.fetch_min(first + row, Relaxed);
            }
        });
        let least = least.into_inner();
        Ok((least != usize::MAX).then_some(least))
    }
}

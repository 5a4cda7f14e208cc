//! Matrices cut into strips of columns that fit in L2.
//!
//! Where every row of a matrix is gathered many times over, gathering from a strip of it
//! at a time makes each of those an L2 hit.

use super::gather::Strip;
use super::memory::{Parts, Scratch};
use super::pool::Pool;
use super::simd::LANES;
use crate::domain::Result;
use std::ops::Range;

/// Floats of a strip: most of L2.
const STRIP: usize = 140 << 10;

/// A copy of a matrix, cut.
pub struct Strips {
    /// [strips][rows][16·lanes]; what lies beyond the last column is 0.
    data: Scratch,
    rows: usize,
    columns: usize,
    lanes: usize,
}

/// Evaluates an expression with a constant that has the value of `lanes`.
macro_rules! with_lanes {
    ($lanes:expr, $n:ident => $work:expr) => {
        match $lanes {
            1 => {
                const $n: usize = 1;
                $work
            }
            2 => {
                const $n: usize = 2;
                $work
            }
            3 => {
                const $n: usize = 3;
                $work
            }
            4 => {
                const $n: usize = 4;
                $work
            }
            _ => {
                const $n: usize = 6;
                $work
            }
        }
    };
}
pub(super) use with_lanes;

impl Strips {
    /// Copies rows `row(0)` … `row(rows − 1)`, each of `columns` values, less `minus`.
    pub fn cut<'a>(
        pool: &Pool,
        rows: usize,
        columns: usize,
        row: impl Fn(usize) -> &'a [f32] + Sync,
        minus: Option<&[f32]>,
    ) -> Result<Self> {
        /// Rows a task.
        const CHUNK: usize = 64;
        let fits = |n: &usize| n * LANES * rows <= STRIP;
        let lanes = [6, 4, 3, 2].into_iter().find(fits).unwrap_or(1);
        let width = lanes * LANES;
        let count = columns.div_ceil(width);
        let mut data = Scratch::try_take(count * rows * width)?;
        let parts = Parts::new(&mut data);
        pool.run(rows.div_ceil(CHUNK), |task| {
            for i in task * CHUNK..rows.min((task + 1) * CHUNK) {
                for (strip, from) in row(i)[..columns].chunks(width).enumerate() {
                    // SAFETY: each row belongs to one task.
                    let to = unsafe { parts.part((strip * rows + i) * width, width) };
                    let (to, rest) = to.split_at_mut(from.len());
                    to.copy_from_slice(from);
                    rest.fill(0.0);
                    if let Some(minus) = minus {
                        let minus = &minus[strip * width..];
                        to.iter_mut().zip(minus).for_each(|(v, m)| *v -= m);
                    }
                }
            }
        });
        Ok(Self {
            data,
            rows,
            columns,
            lanes,
        })
    }

    /// Sixteenths of a strip's width: one of 1, 2, 3, 4, 6.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Number of strips.
    pub fn count(&self) -> usize {
        self.columns.div_ceil(self.lanes * LANES)
    }

    /// Strip `index`, and the columns of the matrix that it holds.
    pub fn strip<const N: usize>(&self, index: usize) -> (Strip<'_, N>, Range<usize>) {
        assert_eq!(N, self.lanes);
        let width = N * LANES;
        let data = &self.data[index * self.rows * width..][..self.rows * width];
        let first = index * width;
        let strip = Strip {
            data: data.as_chunks::<LANES>().0.as_chunks::<N>().0,
        };
        (strip, first..self.columns.min(first + width))
    }
}

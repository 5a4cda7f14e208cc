//! Matrices cut into strips of columns that fit in L2.
//!
//! Where every row of a matrix is gathered many times over, gathering from a strip of it
//! at a time makes each of those an L2 hit.

use super::gather::RowsOf;
use super::memory::{Parts, Scratch};
use super::pool::Pool;
use super::simd::LANES;

/// Floats of a strip.
const STRIP: usize = 160 << 10;

/// Strips [count][rows][width] of a matrix, or the matrix itself as the only one.
pub enum Strips<'a> {
    /// The matrix itself.
    Whole(RowsOf<'a>),
    /// A copy, cut; the last strip may be narrower than `width`.
    Cut {
        /// [count][rows][width].
        data: Scratch,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of a strip.
        width: usize,
        /// Columns of the matrix.
        columns: usize,
    },
}

impl<'a> Strips<'a> {
    /// Copies rows `row(0)` … `row(rows − 1)`, each of `columns` values, less `minus`.
    pub fn cut(
        pool: &Pool,
        rows: usize,
        columns: usize,
        row: impl Fn(usize) -> &'a [f32] + Sync,
        minus: Option<&[f32]>,
    ) -> Self {
        let most = (STRIP / rows.max(1) / LANES * LANES).max(LANES);
        let count = columns.div_ceil(most).max(1);
        let width = columns.div_ceil(count).div_ceil(LANES) * LANES;
        let count = columns.div_ceil(width);
        let mut data = Scratch::take(count * rows * width);
        let parts = Parts::new(&mut data);
        /// Rows a task.
        const CHUNK: usize = 64;
        pool.run(rows.div_ceil(CHUNK), |task| {
            for i in task * CHUNK..rows.min((task + 1) * CHUNK) {
                let from = &row(i)[..columns];
                for (strip, from) in from.chunks(width).enumerate() {
                    // SAFETY: each row belongs to one task.
                    let to = unsafe { parts.part((strip * rows + i) * width, from.len()) };
                    to.copy_from_slice(from);
                    if let Some(minus) = minus {
                        let minus = &minus[strip * width..];
                        to.iter_mut().zip(minus).for_each(|(v, m)| *v -= m);
                    }
                }
            }
        });
        Self::Cut {
            data,
            rows,
            width,
            columns,
        }
    }

    /// Number of strips.
    pub fn count(&self) -> usize {
        match self {
            Self::Whole(_) => 1,
            Self::Cut { width, columns, .. } => columns.div_ceil(*width),
        }
    }

    /// A strip, and the columns of the matrix that it holds.
    pub fn strip(&self, index: usize) -> (RowsOf<'_>, std::ops::Range<usize>) {
        match self {
            Self::Whole(rows) => (*rows, 0..rows.width),
            Self::Cut {
                data,
                rows,
                width,
                columns,
            } => {
                let first = index * width;
                let strip = RowsOf {
                    data: &data[index * rows * width..][..rows * width],
                    stride: *width,
                    width: (columns - first).min(*width),
                };
                (strip, first..first + strip.width)
            }
        }
    }
}

//! Copies of matrix parts in the order in which the micro-kernels read them.

/// A matrix of any layout: element (i, j) is `data[i · row_step + j · col_step]`, and one of
/// the steps is 1.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: &'a [f32],
    row_step: usize,
    col_step: usize,
}

impl<'a> View<'a> {
    /// A row-major matrix with rows of `cols` values.
    pub fn rows(data: &'a [f32], cols: usize) -> Self {
        Self {
            data,
            row_step: cols,
            col_step: 1,
        }
    }

    /// The transpose of a row-major matrix with rows of `rows` values.
    pub fn transposed(data: &'a [f32], rows: usize) -> Self {
        Self {
            data,
            row_step: 1,
            col_step: rows,
        }
    }

    /// The columns from `start` on.
    pub fn skip_columns(self, start: usize) -> Self {
        Self {
            // An empty matrix has nothing to skip.
            data: &self.data[(start * self.col_step).min(self.data.len())..],
            ..self
        }
    }
}

/// Packs rows `first..first + count` of `m`, less `minus` \[k\] from each, as `[k][W]`; what
/// is missing to `W` rows is zero.
pub fn panel<const W: usize>(
    m: View<'_>,
    first: usize,
    count: usize,
    minus: Option<&[f32]>,
    panel: &mut [f32],
) {
    if m.col_step == 1 {
        return panel_of::<W>(
            |row| &m.data[(first + row) * m.row_step..],
            count,
            minus,
            panel,
        );
    }
    assert!(count <= W && panel.len().is_multiple_of(W));
    for (step, to) in panel.chunks_exact_mut(W).enumerate() {
        to[..count].copy_from_slice(&m.data[step * m.col_step + first..][..count]);
        if let Some(minus) = minus {
            to[..count].iter_mut().for_each(|v| *v -= minus[step]);
        }
        to[count..].fill(0.0);
    }
}

/// As [`panel`], from rows that lie anywhere.
pub fn panel_of<'a, const W: usize>(
    row: impl Fn(usize) -> &'a [f32],
    count: usize,
    minus: Option<&[f32]>,
    panel: &mut [f32],
) {
    assert!(count <= W && W.is_multiple_of(4) && panel.len().is_multiple_of(W));
    /// Steps at a time: their part of the panel stays in L1 until it is complete.
    const STEPS: usize = 64;
    let k = panel.len() / W;
    for start in (0..k).step_by(STEPS) {
        let end = k.min(start + STEPS);
        let panel = &mut panel[start * W..end * W];
        for from in (0..count).step_by(4) {
            // A missing row repeats the last one and is cleared below.
            let rows = [0, 1, 2, 3].map(|i| &row(count.min(from + i + 1) - 1)[start..end]);
            transpose_4(rows, from, W, panel);
        }
    }
    if let Some(minus) = minus {
        for (to, minus) in panel.chunks_exact_mut(W).zip(minus) {
            to.iter_mut().for_each(|v| *v -= minus);
        }
    }
    if count < W {
        for to in panel.chunks_exact_mut(W) {
            to[count..].fill(0.0);
        }
    }
}

/// `panel[step · width + at + i] = rows[i][step]`.
fn transpose_4(rows: [&[f32]; 4], at: usize, width: usize, panel: &mut [f32]) {
    let k = rows[0].len();
    let fast = if cfg!(target_arch = "x86_64") {
        k / 4 * 4
    } else {
        0
    };
    #[cfg(target_arch = "x86_64")]
    for step in (0..fast).step_by(4) {
        use std::arch::x86_64::*;
        let to = &mut panel[step * width + at..][..3 * width + 4];
        // SAFETY: four values are read from each row, `step + 4 <= k`; the last of four
        // values is written at `3 · width + 3` of `to`. SSE is the baseline.
        unsafe {
            let [mut a, mut b, mut c, mut d] = rows.map(|r| _mm_loadu_ps(r.as_ptr().add(step)));
            _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
            for (i, v) in [a, b, c, d].into_iter().enumerate() {
                _mm_storeu_ps(to.as_mut_ptr().add(i * width), v);
            }
        }
    }
    for step in fast..k {
        for (i, row) in rows.iter().enumerate() {
            panel[step * width + at + i] = row[step];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<const W: usize>(rows: usize, k: usize, first: usize, count: usize) {
        let value = |i: usize, j: usize| (i * 1000 + j) as f32;
        let minus: Vec<f32> = (0..k).map(|j| 0.5 * j as f32).collect();
        let row_major: Vec<f32> = (0..rows * k).map(|e| value(e / k, e % k)).collect();
        let col_major: Vec<f32> = (0..rows * k).map(|e| value(e % rows, e / rows)).collect();
        let expected: Vec<f32> = (0..k * W)
            .map(|e| match (e % W, e / W) {
                (i, j) if i < count => value(first + i, j) - minus[j],
                _ => 0.0,
            })
            .collect();
        for view in [
            View::rows(&row_major, k),
            View::transposed(&col_major, rows),
        ] {
            let mut got = vec![f32::NAN; k * W];
            panel::<W>(view, first, count, Some(&minus), &mut got);
            assert_eq!(got, expected, "{rows} {k} {first} {count}");
        }
    }

    #[test]
    fn both_layouts_give_the_same_panel() {
        for k in [1, 3, 4, 5, 19] {
            check::<12>(20, k, 3, 12);
            check::<12>(20, k, 15, 5);
            check::<32>(40, k, 0, 32);
            check::<32>(40, k, 33, 7);
        }
    }
}

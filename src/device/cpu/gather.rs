//! Sums over gathered rows, and dot products with them: four rows at a time, so that the
//! accumulator is loaded once for four, while the next four are fetched.
//!
//! Orders: a sum takes its terms in the order of the list; a dot product has 16 lanes,
//! element c in lane c mod 16, added as a tree.

use super::simd::{LANES, add_lanes, fma};

/// Rows of a matrix: row i is `data[i · stride ..][.. width]`.
#[derive(Clone, Copy)]
pub struct RowsOf<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// From row to row.
    pub stride: usize,
    /// Elements of a row.
    pub width: usize,
}

impl<'a> RowsOf<'a> {
    #[inline(always)]
    fn row(&self, i: u32) -> &'a [f32] {
        &self.data[i as usize * self.stride..][..self.width]
    }

    /// Fetches columns `from ..  from + SEGMENT` of row `i`.
    #[inline(always)]
    fn prefetch(&self, i: u32, from: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let row = self.data.as_ptr().wrapping_add(i as usize * self.stride);
            let end = self.width.min(from + SEGMENT);
            for c in (from..end).step_by(16) {
                // SAFETY: a prefetch may be of any address.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(c).cast()) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (i, from);
    }
}

/// Columns between two rounds of prefetches.
const SEGMENT: usize = 128;
/// Rows taken at a time.
const GROUP: usize = 4;

/// sum[c] += Σ_e values[e]·(rows[list[e]][c] − center[c]).
///
/// `ahead` are the rows that will be asked for next.
#[inline(always)]
pub fn add_rows<const FMA: bool>(
    sum: &mut [f32],
    rows: RowsOf<'_>,
    list: &[u32],
    values: &[f32],
    center: Option<&[f32]>,
    ahead: &[u32],
) {
    let full = list.len() / GROUP * GROUP;
    for e in (0..full).step_by(GROUP) {
        let four: [&[f32]; GROUP] = std::array::from_fn(|i| rows.row(list[e + i]));
        let v: [f32; GROUP] = std::array::from_fn(|i| values[e + i]);
        let next = match e + GROUP < list.len() {
            true => &list[e + GROUP..],
            false => ahead,
        };
        let next = &next[..next.len().min(GROUP)];
        for from in (0..rows.width).step_by(SEGMENT) {
            next.iter().for_each(|&i| rows.prefetch(i, from));
            let part = from..rows.width.min(from + SEGMENT);
            let four = four.map(|row| &row[part.clone()]);
            let center = center.map(|c| &c[part.clone()]);
            add_four::<FMA>(&mut sum[part], four, v, center);
        }
    }
    for (&i, &v) in list[full..].iter().zip(&values[full..]) {
        let row = rows.row(i);
        match center {
            None => {
                for (sum, r) in sum.iter_mut().zip(row) {
                    *sum = fma::<FMA>(v, *r, *sum);
                }
            }
            Some(center) => {
                for ((sum, r), m) in sum.iter_mut().zip(row).zip(center) {
                    *sum = fma::<FMA>(v, r - m, *sum);
                }
            }
        }
    }
    if full < list.len() {
        for &i in ahead.iter().take(GROUP) {
            (0..rows.width)
                .step_by(SEGMENT)
                .for_each(|from| rows.prefetch(i, from));
        }
    }
}

#[inline(always)]
fn add_four<const FMA: bool>(
    sum: &mut [f32],
    rows: [&[f32]; GROUP],
    v: [f32; GROUP],
    center: Option<&[f32]>,
) {
    let n = sum.len();
    let rows = rows.map(|row| &row[..n]);
    match center {
        None => {
            for (c, sum) in sum.iter_mut().enumerate() {
                for (row, v) in rows.iter().zip(v) {
                    *sum = fma::<FMA>(v, row[c], *sum);
                }
            }
        }
        Some(center) => {
            let center = &center[..n];
            for (c, sum) in sum.iter_mut().enumerate() {
                for (row, v) in rows.iter().zip(v) {
                    *sum = fma::<FMA>(v, row[c] - center[c], *sum);
                }
            }
        }
    }
}

/// out[e] = g·rows[list[e]], or `out[e] += …` where `add`.
#[inline(always)]
pub fn dots<const FMA: bool>(
    g: &[f32],
    rows: RowsOf<'_>,
    list: &[u32],
    add: bool,
    out: &mut [f32],
) {
    let mut put = |e: usize, dot: f32| out[e] = if add { out[e] + dot } else { dot };
    let full = list.len() / GROUP * GROUP;
    for e in (0..full).step_by(GROUP) {
        let four = std::array::from_fn(|i| rows.row(list[e + i]));
        let sums = dot_rows::<FMA, GROUP>(g, four);
        for (i, sum) in sums.into_iter().enumerate() {
            put(e + i, sum);
        }
    }
    for (e, &i) in list.iter().enumerate().skip(full) {
        let [sum] = dot_rows::<FMA, 1>(g, [rows.row(i)]);
        put(e, sum);
    }
}

#[inline(always)]
fn dot_rows<const FMA: bool, const N: usize>(g: &[f32], rows: [&[f32]; N]) -> [f32; N] {
    let mut lanes = [[0.0f32; LANES]; N];
    let whole = g.len() / LANES * LANES;
    for c in (0..whole).step_by(LANES) {
        let g: &[f32; LANES] = g[c..c + LANES].try_into().expect("LANES values");
        for (lanes, row) in lanes.iter_mut().zip(rows) {
            let row: &[f32; LANES] = row[c..c + LANES].try_into().expect("LANES values");
            for ((lane, g), r) in lanes.iter_mut().zip(g).zip(row) {
                *lane = fma::<FMA>(*g, *r, *lane);
            }
        }
    }
    for (lanes, row) in lanes.iter_mut().zip(rows) {
        for ((lane, g), r) in lanes.iter_mut().zip(&g[whole..]).zip(&row[whole..]) {
            *lane = fma::<FMA>(*g, *r, *lane);
        }
    }
    lanes.map(add_lanes)
}

//! Sums over gathered rows, and dot products with them.
//!
//! Orders: a sum takes its terms in the order of the list; a dot product has sixteen lanes,
//! element c in lane c mod 16.

use super::isa::Isa;
use super::simd::{self, LANES, Lanes, for_each_isa};

/// Rows of a matrix, four at a time while the next four are fetched: for rows that come
/// from memory.
#[derive(Clone, Copy)]
pub struct Whole<'a> {
    /// [rows, width].
    pub data: &'a [f32],
    /// Elements of a row.
    pub width: usize,
}

/// Rows of a strip of `16·N` columns: for rows that are in L2.
#[derive(Clone, Copy)]
pub struct Strip<'a, const N: usize> {
    /// [rows, 16·N].
    pub data: &'a [[[f32; LANES]; N]],
}

/// Columns between two rounds of prefetches.
const SEGMENT: usize = 128;
/// Rows taken at a time.
const GROUP: usize = 4;

/// Where rows are gathered from.
pub trait Gather: Copy {
    /// Elements of a row, padding included.
    fn width(&self) -> usize;
    /// sum += Σ_e values[e]·(rows[list[e]] − center); `ahead` are the rows that come next.
    fn add(
        &self,
        isa: Isa,
        sum: &mut [f32],
        list: &[u32],
        values: &[f32],
        center: Option<&[f32]>,
        ahead: &[u32],
    );
    /// out[e] += g·rows[list[e]].
    fn add_dots(&self, isa: Isa, g: &[f32], list: &[u32], out: &mut [f32]);
}

impl Gather for Whole<'_> {
    fn width(&self) -> usize {
        self.width
    }

    fn add(
        &self,
        isa: Isa,
        sum: &mut [f32],
        list: &[u32],
        values: &[f32],
        center: Option<&[f32]>,
        ahead: &[u32],
    ) {
        add_rows(isa, sum, *self, list, values, center, ahead);
    }

    fn add_dots(&self, isa: Isa, g: &[f32], list: &[u32], out: &mut [f32]) {
        add_dots(isa, g, *self, list, out);
    }
}

impl<const N: usize> Gather for Strip<'_, N> {
    fn width(&self) -> usize {
        N * LANES
    }

    fn add(
        &self,
        isa: Isa,
        sum: &mut [f32],
        list: &[u32],
        values: &[f32],
        center: Option<&[f32]>,
        _ahead: &[u32],
    ) {
        assert!(center.is_none(), "strips are centred when they are cut");
        let sum = sum.as_chunks_mut().0;
        let sum: &mut [[f32; LANES]; N] = sum.try_into().expect("a padded row");
        add_strip_rows(isa, sum, *self, list, values);
    }

    fn add_dots(&self, isa: Isa, g: &[f32], list: &[u32], out: &mut [f32]) {
        let g: &[[f32; LANES]; N] = g.as_chunks().0.try_into().expect("a padded row");
        add_strip_dots(isa, g, *self, list, out);
    }
}

impl<'a> Whole<'a> {
    #[inline(always)]
    fn row(&self, i: u32) -> &'a [f32] {
        &self.data[i as usize * self.width..][..self.width]
    }

    /// Fetches columns `from .. from + SEGMENT` of the first few rows of `list`.
    #[inline(always)]
    fn prefetch(&self, list: &[u32], from: usize) {
        for &i in list.iter().take(GROUP) {
            simd::prefetch(&self.row(i)[from..self.width.min(from + SEGMENT)]);
        }
    }
}

for_each_isa! {
    /// sum[c] += Σ_e values[e]·(rows[list[e]][c] − center[c]), where `ahead` are the rows
    /// that will be asked for next.
    pub fn add_rows<L>(
        sum: &mut [f32],
        rows: Whole<'_>,
        list: &[u32],
        values: &[f32],
        center: Option<&[f32]>,
        ahead: &[u32],
    ) {
        let full = list.len() / GROUP * GROUP;
        for e in (0..full).step_by(GROUP) {
            let four = [0, 1, 2, 3].map(|i| rows.row(list[e + i]));
            let v = [0, 1, 2, 3].map(|i| values[e + i]);
            let next = if e + GROUP < list.len() { &list[e + GROUP..] } else { ahead };
            add_group::<L, GROUP>(sum, rows, four, v, center, next);
        }
        for (e, (&i, &v)) in list.iter().zip(values).enumerate().skip(full) {
            let next = if e + 1 < list.len() { &[] } else { ahead };
            add_group::<L, 1>(sum, rows, [rows.row(i)], [v], center, next);
        }
    }
}

#[inline(always)]
fn add_group<L: Lanes, const G: usize>(
    sum: &mut [f32],
    rows: Whole<'_>,
    group: [&[f32]; G],
    v: [f32; G],
    center: Option<&[f32]>,
    next: &[u32],
) {
    let width = rows.width;
    let (sum, group) = (&mut sum[..width], group.map(|row| &row[..width]));
    let lanes = v.map(L::splat);
    let whole = width / LANES * LANES;
    for from in (0..whole).step_by(SEGMENT) {
        rows.prefetch(next, from);
        for c in (from..whole.min(from + SEGMENT)).step_by(LANES) {
            let mut part = L::load(&sum[c..]);
            for (row, v) in group.iter().zip(lanes) {
                let mut row = L::load(&row[c..]);
                if let Some(center) = center {
                    row = row.minus(L::load(&center[c..]));
                }
                part = part.plus_product(v, row);
            }
            part.store(&mut sum[c..]);
        }
    }
    for c in whole..width {
        for (row, v) in group.iter().zip(v) {
            sum[c] = L::fma(v, row[c] - center.map_or(0.0, |m| m[c]), sum[c]);
        }
    }
}

for_each_isa! {
    /// out[e] += g·rows[list[e]].
    fn add_dots<L>(g: &[f32], rows: Whole<'_>, list: &[u32], out: &mut [f32]) {
        let full = list.len() / GROUP * GROUP;
        for e in (0..full).step_by(GROUP) {
            let four = [0, 1, 2, 3].map(|i| rows.row(list[e + i]));
            let sums = dot_group::<L, GROUP>(g, four);
            out[e..].iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
        }
        for (out, &i) in out.iter_mut().zip(list).skip(full) {
            *out += dot_group::<L, 1>(g, [rows.row(i)])[0];
        }
    }
}

#[inline(always)]
fn dot_group<L: Lanes, const G: usize>(g: &[f32], group: [&[f32]; G]) -> [f32; G] {
    let group = group.map(|row| &row[..g.len()]);
    let whole = g.len() / LANES * LANES;
    let mut sums = [L::splat(0.0); G];
    for c in (0..whole).step_by(LANES) {
        let g = L::load(&g[c..]);
        for (sum, row) in sums.iter_mut().zip(group) {
            *sum = sum.plus_product(g, L::load(&row[c..]));
        }
    }
    if whole < g.len() {
        let g = L::load_part(&g[whole..]);
        for (sum, row) in sums.iter_mut().zip(group) {
            *sum = sum.plus_product(g, L::load_part(&row[whole..]));
        }
    }
    sums.map(L::sum)
}

for_each_isa! {
    /// sum += Σ_e values[e]·rows[list[e]].
    fn add_strip_rows<L, const N>(
        sum: &mut [[f32; LANES]; N],
        rows: Strip<'_, N>,
        list: &[u32],
        values: &[f32],
    ) {
        let mut parts = [L::splat(0.0); N];
        for (part, sum) in parts.iter_mut().zip(&*sum) {
            *part = L::load(sum);
        }
        for (&i, &v) in list.iter().zip(values) {
            let v = L::splat(v);
            for (part, row) in parts.iter_mut().zip(&rows.data[i as usize]) {
                *part = part.plus_product(v, L::load(row));
            }
        }
        for (part, sum) in parts.into_iter().zip(sum) {
            part.store(sum);
        }
    }
}

for_each_isa! {
    /// out[e] += g·rows[list[e]].
    fn add_strip_dots<L, const N>(
        g: &[[f32; LANES]; N],
        rows: Strip<'_, N>,
        list: &[u32],
        out: &mut [f32],
    ) {
        let mut lanes = [L::splat(0.0); N];
        for (lanes, g) in lanes.iter_mut().zip(g) {
            *lanes = L::load(g);
        }
        for (&i, out) in list.iter().zip(out) {
            let mut sum = L::splat(0.0);
            for (g, row) in lanes.iter().zip(&rows.data[i as usize]) {
                sum = sum.plus_product(*g, L::load(row));
            }
            *out += sum.sum();
        }
    }
}

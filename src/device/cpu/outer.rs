//! Gradients of weight rows: sums over the edges of each latent.
//!
//! The edges are sorted by latent, so every row of the result is written once, by one
//! thread, and its terms come in the order of the tokens. With many edges a token the
//! gathered matrix is cut into strips of columns first.

use super::Cpu;
use super::gather::{self, RowsOf};
use super::memory::Parts;
use super::pool::Pool;
use super::simd::for_each_isa;
use super::strips::Strips;
use super::try_zeros;
use crate::device::sae::{OuterGrad, group_of};
use crate::domain::Result;

/// From this number of edges a token on, gathering from strips pays for their copy.
const MANY_EDGES: usize = 64;
/// Latents a task.
const LATENTS: usize = 64;

/// See [`crate::device::sae::SaeOps::outer_grad`].
pub fn outer_grad(pool: &Pool, work: &OuterGrad<'_, Cpu>, out: &mut [f32]) -> Result<()> {
    let (d, codes) = (work.d, work.codes);
    let sorted = codes.by_latent(pool)?;
    let mut values: Vec<f32> = try_zeros(codes.edges())?;
    {
        const CHUNK: usize = 1 << 14;
        let parts = Parts::new(&mut values);
        pool.run(codes.edges().div_ceil(CHUNK), |task| {
            let edges = &sorted.edge[task * CHUNK..];
            let edges = &edges[..edges.len().min(CHUNK)];
            // SAFETY: each chunk belongs to one task.
            let values = unsafe { parts.part(task * CHUNK, edges.len()) };
            for (value, &e) in values.iter_mut().zip(edges) {
                *value = work.values[e as usize];
            }
        });
    }
    let block = work.rows.count * d;
    let center = work.center.map(|c| &c[..d]);
    let groups = work.prefixes.len().max(1);
    for m in 0..groups {
        // Latents of group m take block m of the rows.
        let first = if m == 0 {
            0
        } else {
            work.prefixes[m - 1].width
        };
        let end = work.prefixes.get(m).map_or(codes.d_sae, |p| p.width);
        debug_assert!((first..end).all(|j| group_of(work.prefixes, j) == m));
        let rows = &work.rows.buf[work.rows.first * d + m * block..][..block];
        let many = sorted.ptr[end] - sorted.ptr[first];
        let strips = match many as usize >= MANY_EDGES * codes.tokens().max(1) {
            true => Strips::cut(pool, work.rows.count, d, |b| &rows[b * d..][..d], center),
            false => Strips::Whole(RowsOf {
                data: rows,
                stride: d,
                width: d,
            }),
        };
        // Strips hold rows that are centred already.
        let center = center.filter(|_| matches!(strips, Strips::Whole(_)));
        let chunks = (end - first).div_ceil(LATENTS);
        let parts = Parts::new(out);
        pool.run(chunks * strips.count(), |task| {
            let (rows, columns) = strips.strip(task / chunks);
            let start = first + task % chunks * LATENTS;
            for j in start..end.min(start + LATENTS) {
                // SAFETY: each strip of a latent belongs to one task.
                let out = unsafe { parts.part(j * d + columns.start, columns.len()) };
                if !work.accumulate {
                    out.fill(0.0);
                }
                let places = sorted.of(j);
                let ahead = &sorted.token[places.end..];
                let (tokens, values) = (&sorted.token[places.clone()], &values[places]);
                sum(pool.isa(), out, rows, tokens, values, center, ahead);
            }
        });
    }
    Ok(())
}

for_each_isa! {
    fn sum<FMA>(
        out: &mut [f32],
        rows: RowsOf<'_>,
        list: &[u32],
        values: &[f32],
        center: Option<&[f32]>,
        ahead: &[u32],
    ) {
        gather::add_rows::<FMA>(out, rows, list, values, center, ahead);
    }
}

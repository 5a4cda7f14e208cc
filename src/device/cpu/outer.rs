//! Gradients of weight rows: sums over the edges of each latent.
//!
//! The edges are sorted by latent, so every row of the result is written once, by one
//! thread, and its terms come in the order of the tokens. With many edges a token the
//! gathered matrix is cut into strips of columns first.

use super::Cpu;
use super::codes::ByLatent;
use super::gather::{Gather, Whole};
use super::memory::{Parts, Scratch};
use super::pool::Pool;
use super::strips::{Strips, with_lanes};
use crate::device::sae::{OuterGrad, group_of};
use crate::domain::Result;
use std::ops::Range;

/// From this number of edges a token on, gathering from strips pays for their copy.
const MANY_EDGES: usize = 64;
/// Latents a task.
const LATENTS: usize = 64;

/// See [`crate::device::sae::SaeOps::outer_grad`].
pub fn outer_grad(pool: &Pool, work: &OuterGrad<'_, Cpu>, out: &mut [f32]) -> Result<()> {
    let (d, codes) = (work.d, work.codes);
    let sorted = codes.by_latent(pool)?;
    let mut values = Scratch::try_take(codes.edges())?;
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
        let task = Rows {
            pool,
            work,
            sorted,
            values: &values,
            latents: first..end,
            out: Parts::new(out),
        };
        if (many as usize) < MANY_EDGES * codes.tokens().max(1) {
            let rows = Whole {
                data: rows,
                width: d,
            };
            task.run(1, |_| (rows, 0..d), center);
        } else {
            // Centred as they are cut.
            let strips = Strips::cut(pool, work.rows.count, d, |b| &rows[b * d..][..d], center)?;
            with_lanes!(strips.lanes(), N => {
                task.run(strips.count(), |i| strips.strip::<N>(i), None);
            });
        }
    }
    Ok(())
}

/// Rows of the gradient to be written.
struct Rows<'a> {
    pool: &'a Pool,
    work: &'a OuterGrad<'a, Cpu>,
    sorted: &'a ByLatent,
    /// v of each edge, sorted by latent.
    values: &'a [f32],
    latents: Range<usize>,
    out: Parts<'a, f32>,
}

impl Rows<'_> {
    fn run<G: Gather + Sync>(
        &self,
        strips: usize,
        strip: impl Fn(usize) -> (G, Range<usize>) + Sync,
        center: Option<&[f32]>,
    ) {
        let (d, isa) = (self.work.d, self.pool.isa());
        let chunks = self.latents.len().div_ceil(LATENTS);
        self.pool.run(chunks * strips, |task| {
            let (rows, columns) = strip(task / chunks);
            let mut sum = vec![0.0; rows.width()];
            let first = self.latents.start + task % chunks * LATENTS;
            for j in first..self.latents.end.min(first + LATENTS) {
                let places = self.sorted.of(j);
                if places.is_empty() && self.work.accumulate {
                    continue;
                }
                // SAFETY: each strip of a latent belongs to one task.
                let out = unsafe { self.out.part(j * d + columns.start, columns.len()) };
                let sum_row = &mut sum[..columns.len()];
                match self.work.accumulate {
                    true => sum_row.copy_from_slice(out),
                    false => sum_row.fill(0.0),
                }
                let ahead = &self.sorted.token[places.end..];
                let (list, values) = (&self.sorted.token[places.clone()], &self.values[places]);
                rows.add(isa, &mut sum, list, values, center, ahead);
                out.copy_from_slice(&sum[..columns.len()]);
            }
        });
    }
}

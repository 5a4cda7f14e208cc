//! Causal attention on the micro-kernels of the matrix product.
//!
//! A task is one key-value head of one context and a chunk of its queries. It packs its
//! keys and values once for all query heads that share them. Scores of 32 queries are
//! computed transposed, `[key][query]`: that makes the softmax a vertical operation, and is
//! the layout that the product with the values wants.

use super::norm;
use super::simd::{self, fma, kernel};
use crate::device::cpu::Cpu;
use crate::device::cpu::isa::Isa;
use crate::device::cpu::memory::{Parts, Scratch};
use crate::device::cpu::pack::{self, View};
use crate::device::cpu::pool::Pool;
use crate::device::cpu::tile::{MR, NR, Tile};
use crate::device::lm::{Attention, Norm, QkNorm, RopeTable, Span};
use std::ops::Range;

/// Queries of a task. Longer contexts pack their keys again for every chunk.
const CHUNK: usize = 8 * NR;

/// `out` [rows, heads · head_dim] from `qkv` [rows, queries | keys | values].
pub(super) fn attention(pool: &Pool, work: &Attention<'_, Cpu>, qkv: &mut [f32], out: &mut [f32]) {
    let width = work.heads * work.head_dim;
    clear_padding(work, &mut out[..work.rows * width], width);
    if let QkNorm::FullWidth(q, k) = work.qk_norm {
        full_width_norms(pool, work, q, k, qkv);
    }
    let mut tasks = Vec::new();
    for &span in work.spans {
        for first in (0..span.len).step_by(CHUNK) {
            let queries = first..span.len.min(first + CHUNK);
            tasks.extend((0..work.kv_heads).map(|head| (span, head, queries.clone())));
        }
    }
    // Late chunks see the most keys: they go first.
    tasks.sort_by_key(|(_, _, queries)| std::cmp::Reverse(queries.end));
    let (parts, qkv) = (Parts::new(out), &*qkv);
    pool.run(tasks.len(), |index| {
        let (span, kv_head, ref queries) = tasks[index];
        let task = Task {
            isa: pool.isa(),
            work,
            span,
            kv_head,
            qkv,
            out: &parts,
        };
        task.run(queries.clone());
    });
}

fn clear_padding(work: &Attention<'_, Cpu>, out: &mut [f32], width: usize) {
    let mut at = 0;
    for span in work.spans {
        out[at * width..span.start * width].fill(0.0);
        at = span.start + span.len;
    }
    out[at * width..].fill(0.0);
}

fn full_width_norms(
    pool: &Pool,
    work: &Attention<'_, Cpu>,
    q: &Norm<Cpu>,
    k: &Norm<Cpu>,
    qkv: &mut [f32],
) {
    let (width, queries) = (work.qkv_width(), q.weight.len());
    super::for_rows(pool, work.rows, width, qkv, |_, rows| {
        let mut spare = Scratch::take(width);
        for row in rows.chunks_exact_mut(width) {
            let (row, rest) = row.split_at_mut(queries);
            norm::in_place(pool.isa(), row, q, &mut spare);
            let keys = &mut rest[..k.weight.len()];
            norm::in_place(pool.isa(), keys, k, &mut spare);
        }
    });
}

/// What the queries of one task share.
struct Task<'a> {
    isa: Isa,
    work: &'a Attention<'a, Cpu>,
    span: Span,
    kv_head: usize,
    qkv: &'a [f32],
    out: &'a Parts<'a, f32>,
}

/// Keys and values from key `first` on, packed.
struct KeysAndValues {
    first: usize,
    /// Panels `[head_dim][MR]`, one for [`MR`] keys.
    keys: Scratch,
    /// Panels `[key][MR]`, one for [`MR`] elements of a value.
    values: Scratch,
    /// Keys in a panel of values: a multiple of [`MR`].
    rows: usize,
}

impl Task<'_> {
    fn run(&self, queries: Range<usize>) {
        let group = self.work.heads / self.work.kv_heads;
        let packed = self.pack(queries.clone());
        let mut scores = Scratch::take(packed.rows * NR);
        for head in self.kv_head * group..(self.kv_head + 1) * group {
            for first in queries.clone().step_by(NR) {
                let block = first..queries.end.min(first + NR);
                self.block(head, block, &packed, &mut scores);
            }
        }
    }

    /// The `part`-th head of the row of token `at`.
    fn head(&self, at: usize, part: usize) -> &[f32] {
        let d = self.work.head_dim;
        &self.qkv[(self.span.start + at) * self.work.qkv_width() + part * d..][..d]
    }

    /// First key that query `at` sees.
    fn first_key(&self, at: usize) -> usize {
        self.work.window.map_or(0, |w| (at + 1).saturating_sub(w))
    }

    fn pack(&self, queries: Range<usize>) -> KeysAndValues {
        let (d, heads) = (self.work.head_dim, self.work.heads);
        let first = self.first_key(queries.start) / MR * MR;
        let rows = (queries.end - first).next_multiple_of(MR);
        let mut keys = Scratch::take(rows * d);
        let mut turned = Scratch::take(NR * d);
        let norm = match self.work.qk_norm {
            QkNorm::PerHead(_, k) => Some(k),
            _ => None,
        };
        for (index, panel) in keys.chunks_exact_mut(MR * d).enumerate() {
            let from = first + index * MR;
            let block = from..queries.end.min(from + MR);
            let count = block.len();
            self.prepare(block, heads + self.kv_head, norm, 1.0, &mut turned);
            pack::panel::<MR>(View::rows(&turned, d), 0, count, None, panel);
        }
        let panels = d.div_ceil(MR);
        let mut values = Scratch::take(panels * rows * MR);
        let part = heads + self.work.kv_heads + self.kv_head;
        for (index, panel) in values.chunks_exact_mut(rows * MR).enumerate() {
            let column = index * MR;
            let count = MR.min(d - column);
            let (real, missing) = panel.split_at_mut((queries.end - first) * MR);
            for (at, to) in (first..).zip(real.as_chunks_mut::<MR>().0) {
                // A whole chunk has a length that the compiler knows.
                match self.head(at, part)[column..].first_chunk::<MR>() {
                    Some(whole) => *to = *whole,
                    None => {
                        to[..count].copy_from_slice(&self.head(at, part)[column..]);
                        to[count..].fill(0.0);
                    }
                }
            }
            missing.fill(0.0);
        }
        KeysAndValues {
            first,
            keys,
            values,
            rows,
        }
    }

    /// Norms, turns and scales the `part`-th head of the tokens `block` into the rows of
    /// `to`.
    fn prepare(
        &self,
        block: Range<usize>,
        part: usize,
        norm: Option<&Norm<Cpu>>,
        scale: f32,
        to: &mut [f32],
    ) {
        let d = self.work.head_dim;
        for (at, to) in block.zip(to.chunks_exact_mut(d)) {
            match norm {
                Some(norm) => norm::row(self.isa, self.head(at, part), norm, to),
                None => to.copy_from_slice(self.head(at, part)),
            }
            if let Some(rope) = self.work.rope {
                rotate(self.isa, to, at, rope);
            }
            if scale != 1.0 {
                to.iter_mut().for_each(|v| *v *= scale);
            }
        }
    }

    /// Attention of the queries `block` (at most [`NR`]) of one head.
    fn block(&self, head: usize, block: Range<usize>, packed: &KeysAndValues, scores: &mut [f32]) {
        let d = self.work.head_dim;
        let mut rows = Scratch::take(NR * d);
        let mut queries = Scratch::take(NR * d);
        let norm = match self.work.qk_norm {
            QkNorm::PerHead(q, _) => Some(q),
            _ => None,
        };
        let scale = self.work.scale as f32;
        self.prepare(block.clone(), head, norm, scale, &mut rows);
        pack::panel::<NR>(View::rows(&rows, d), 0, block.len(), None, &mut queries);

        // Rows of the packed keys that any of the queries sees, in whole panels.
        let start = (self.first_key(block.start) - packed.first) / MR * MR;
        let end = (block.end - packed.first).next_multiple_of(MR);
        let scores = &mut scores[start * NR..end * NR];
        let panels = packed.keys[start * d..end * d].chunks_exact(MR * d);
        for (keys, scores) in panels.zip(scores.as_chunks_mut::<{ MR * NR }>().0) {
            Tile::of(scores).product(self.isa, keys, &queries);
        }
        if let Some(c) = self.work.softcap {
            super::loss::softcapped(self.isa, c as f32, scores);
        }
        let window = self.work.window.unwrap_or(usize::MAX);
        let sums = softmax(self.isa, scores, packed.first + start, block.start, window);

        let mut tile = Tile::new();
        let mut turned = [0.0; NR * MR];
        let width = self.work.heads * d;
        for column in (0..d).step_by(MR) {
            let values = &packed.values[column / MR * packed.rows * MR..];
            tile.product(self.isa, &values[start * MR..end * MR], scores);
            pack::panel_of::<MR>(|row| tile.row(row), MR, None, &mut turned);
            let count = MR.min(d - column);
            for (lane, at) in block.clone().enumerate() {
                let place = (self.span.start + at) * width + head * d + column;
                // SAFETY: every (token, head) belongs to one task.
                let out = unsafe { self.out.part(place, count) };
                let mixed = &turned[lane * MR..][..MR];
                let scale = 1.0 / sums[lane];
                // A whole chunk has a length that the compiler knows.
                match out.first_chunk_mut::<MR>() {
                    Some(out) => out.iter_mut().zip(mixed).for_each(|(o, v)| *o = v * scale),
                    None => out.iter_mut().zip(mixed).for_each(|(o, v)| *o = v * scale),
                }
            }
        }
    }
}

fn rotate(isa: Isa, head: &mut [f32], position: usize, rope: &RopeTable<Cpu>) {
    let half = rope.dim / 2;
    let (low, high) = head[..rope.dim].split_at_mut(half);
    let cos = &rope.cos[position * half..][..half];
    let sin = &rope.sin[position * half..][..half];
    turn(isa, low, high, cos, sin);
}

kernel! {
    fn turn(low: &mut [f32], high: &mut [f32], cos: &[f32], sin: &[f32]) {
        for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
            let (x, y) = (*a, *b);
            *a = fma::<F>(x, *cos, -(y * sin));
            *b = fma::<F>(y, *cos, x * sin);
        }
    }
}

kernel! {
    /// Turns `scores` `[key][query]` into e^(score − the query's largest), with zeros where
    /// a query does not see a key, and returns the queries' sums. Keys count from
    /// `first_key`, queries from `first_query`.
    fn softmax(scores: &mut [f32], first_key: usize, first_query: usize, window: usize) -> [f32; NR] {
        // Queries that see a key, as lanes.
        let lanes = |key: usize| {
            let from = key.saturating_sub(first_query).min(NR);
            let to = key.saturating_add(window).saturating_sub(first_query).min(NR);
            from..to
        };
        let (rows, _) = scores.as_chunks_mut::<NR>();
        let mut max = [f32::NEG_INFINITY; NR];
        for (key, row) in (first_key..).zip(rows.iter()) {
            let seen = lanes(key);
            if seen == (0..NR) {
                for (max, score) in max.iter_mut().zip(row) {
                    *max = simd::max(*max, *score);
                }
            } else {
                for lane in seen {
                    max[lane] = simd::max(max[lane], row[lane]);
                }
            }
        }
        let mut sums = [0.0; NR];
        for (key, row) in (first_key..).zip(rows.iter_mut()) {
            for (score, max) in row.iter_mut().zip(&max) {
                *score = simd::exp::<F>(*score - max);
            }
            let seen = lanes(key);
            if seen != (0..NR) {
                row[..seen.start].fill(0.0);
                row[seen.end.max(seen.start)..].fill(0.0);
            }
            for (sum, score) in sums.iter_mut().zip(row.iter()) {
                *sum += score;
            }
        }
        sums
    }
}

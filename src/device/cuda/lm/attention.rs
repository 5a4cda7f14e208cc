//! Attention: norms and angles of queries and keys, and then tiles of queries.

use super::{Buf, Stretches, cap};
use crate::device::cuda::Cuda;
use crate::device::cuda::halves::Half;
use crate::device::cuda::kernels::Kernels;
use crate::device::cuda::launch::{Shape, count};
use crate::device::cuda::memory::Memory;
use crate::device::lm::{Attention, Norm, QkNorm, RopeTable, Span};
use crate::domain::{Code, Error, Result};
use std::sync::{Arc, PoisonError};

/// A padding row, in what says of each row or tile where its context begins; no window.
pub const NOT_THERE: u32 = u32::MAX;
/// The widest head that attention takes, and the widest that it takes in tiles.
const MOST_HEAD: usize = 512;
const MOST_TILED: usize = 256;
/// Shared memory of a tile in f32: scores, and what is multiplied.
const SHARED: usize = (64 * 68 + 2 * 64 * 36) * 4;

/// How the contexts of a batch lie, on the GPU: the same for all blocks of a model.
pub struct Plan {
    spans: Vec<Span>,
    rows: usize,
    side: usize,
    /// For each row the first of its context.
    starts: Memory<u32>,
    /// First row, rows and the context's first row, the longest work first.
    tiles: Memory<u32>,
}

impl Plan {
    fn new(cuda: &Cuda, spans: &[Span], rows: usize, side: usize) -> Result<Self> {
        let mut starts = vec![NOT_THERE; rows];
        for span in spans {
            starts[span.start..span.start + span.len].fill(count(span.start));
        }
        let mut tiles: Vec<[u32; 3]> = Vec::new();
        for run in starts.chunk_by(|a, b| a == b) {
            let from = tiles.last().map_or(0, |[row, rows, _]| row + rows);
            for at in (0..run.len()).step_by(side) {
                let n = side.min(run.len() - at);
                tiles.push([from + count(at), count(n), run[0]]);
            }
        }
        tiles.sort_by_key(|[row, rows, start]| {
            std::cmp::Reverse((row + rows).saturating_sub(*start))
        });
        Ok(Self {
            spans: spans.to_vec(),
            rows,
            side,
            starts: Memory::of(&cuda.gpu, &starts)?,
            tiles: Memory::of(&cuda.gpu, tiles.as_flattened())?,
        })
    }

    /// The plan of the last attention, where it is for the same contexts.
    fn of(cuda: &Cuda, work: &Attention<'_, Cuda>, side: usize) -> Result<Arc<Self>> {
        let mut last = cuda.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |plan: &&Arc<Self>| {
            plan.side == side && plan.rows == work.rows && plan.spans == work.spans
        };
        if let Some(plan) = last.as_ref().filter(same) {
            return Ok(plan.clone());
        }
        let plan = Arc::new(Self::new(cuda, work.spans, work.rows, side)?);
        *last = Some(plan.clone());
        Ok(plan)
    }
}

/// What [`LmOps::attention`](crate::device::lm::LmOps::attention) does.
pub fn attend(cuda: &Cuda, work: &Attention<'_, Cuda>, qkv: &mut Buf, out: &mut Buf) -> Result<()> {
    let (rows, d) = (work.rows, work.head_dim);
    if d > MOST_HEAD {
        return Err(Error::new(
            Code::ModelUnsupported,
            "head_dim",
            format_args!("heads of {d} are wider than {MOST_HEAD}"),
        )
        .hint("use --device cpu"));
    }
    // Copies of 16 bytes take eight values of bf16.
    let rounded = work.rounded && d.is_multiple_of(8) && d <= MOST_TILED;
    let plan = Plan::of(cuda, work, if rounded && d <= 128 { 128 } else { 64 })?;
    normalise(cuda, work, qkv)?;
    if let Some(rope) = work.rope {
        turn(cuda, work, rope, &plan, qkv)?;
    }
    let (width, tiles) = (work.qkv_width(), plan.tiles.len() / 3);
    let len = rows * width;
    let (gpu, kernels, qkv) = (&cuda.gpu, &cuda.kernels, qkv.input(0, len));
    let out = out.output(rows * work.heads * d);
    let (scale, cap) = (work.scale as f32, cap(work.softcap));
    let window = work.window.map_or(NOT_THERE, count);
    let [heads, kv_heads, head_dim] = [work.heads, work.kv_heads, d].map(count);
    let of = plan.tiles.input(0, plan.tiles.len());
    let shape = |threads, shared| Shape {
        blocks: [tiles * work.heads, 1],
        threads,
        shared,
    };
    if rounded {
        let halves = Half::Bf16.rows(cuda, qkv, None, 1.0, [rows, width, width])?;
        let (threads, keys, padded) = match d {
            0..=64 => (256, 64, 72),
            65..=128 => (256, 32, 136),
            _ => (128, 32, 264),
        };
        let shape = shape(threads, (plan.side + 4 * keys) * padded * 2);
        let run = match d {
            0..=64 => Kernels::attention_bf16_64,
            65..=128 => Kernels::attention_bf16_128,
            _ => Kernels::attention_bf16_256,
        };
        let qkv = halves.input(0, len);
        return run(
            kernels, gpu, shape, qkv, of, out, scale, cap, heads, kv_heads, head_dim, window,
        );
    }
    if d > MOST_TILED {
        let shape = Shape {
            blocks: [rows, work.heads],
            threads: 128,
            shared: (128 + 4) * 4,
        };
        let starts = plan.starts.input(0, rows);
        return kernels.attention(
            gpu, shape, qkv, starts, out, scale, cap, heads, kv_heads, head_dim, window,
        );
    }
    let run = match d {
        0..=64 => Kernels::attention_64,
        65..=128 => Kernels::attention_128,
        _ => Kernels::attention_256,
    };
    let shape = shape(256, SHARED);
    run(
        kernels, gpu, shape, qkv, of, out, scale, cap, heads, kv_heads, head_dim, window,
    )
}

/// Norms of queries and keys, in place.
fn normalise(cuda: &Cuda, work: &Attention<'_, Cuda>, qkv: &mut Buf) -> Result<()> {
    let mut normalise = |norm: &Norm<Cuda>, each, offset| {
        let of = Stretches {
            rows: work.rows,
            each,
            stride: work.qkv_width(),
            offset,
        };
        cuda.norm_in_place(qkv, norm, &of)
    };
    let queries = work.heads * work.head_dim;
    match work.qk_norm {
        QkNorm::Off => Ok(()),
        QkNorm::FullWidth(q, k) => {
            normalise(q, 1, 0)?;
            normalise(k, 1, queries)
        }
        QkNorm::PerHead(q, k) => {
            normalise(q, work.heads, 0)?;
            normalise(k, work.kv_heads, queries)
        }
    }
}

/// Rotary positions of queries and keys, in place.
fn turn(
    cuda: &Cuda,
    work: &Attention<'_, Cuda>,
    rope: &RopeTable<Cuda>,
    plan: &Plan,
    qkv: &mut Buf,
) -> Result<()> {
    let (half, heads, width) = (rope.dim / 2, work.heads + work.kv_heads, work.qkv_width());
    let n = work.rows * heads * half;
    let [heads, d, wide, half] = [heads, work.head_dim, width, half].map(count);
    cuda.kernels.rotate(
        &cuda.gpu,
        Shape::threads(n),
        qkv.output(work.rows * width),
        rope.cos.input(0, rope.cos.len()),
        rope.sin.input(0, rope.sin.len()),
        plan.starts.input(0, work.rows),
        n as u64,
        heads,
        d,
        wide,
        half,
    )
}

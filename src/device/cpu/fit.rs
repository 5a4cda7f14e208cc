//! Decode, compare with the target, differentiate: one pass over the tokens.
//!
//! A token's rows of the decoder are gathered once for x̂ and are still in cache for the
//! dot products of da. With many edges a token, the rows that are used are copied into
//! strips of columns first, and a block of tokens passes strip by strip.

use super::Cpu;
use super::codes::Codes;
use super::gather::{Gather, Whole};
use super::isa::Isa;
use super::memory::{Parts, Scratch};
use super::pool::Pool;
use super::simd::for_each_isa;
use super::strips::{Strips, with_lanes};
use super::try_zeros;
use crate::device::sae::{Base, Decode, Prefix, Reconstruct, Reconstruction, Target};
use crate::domain::Result;
use std::ops::Range;

/// From this number of edges a token on, gathering from strips pays for their copy.
const MANY_EDGES: usize = 64;
/// Tokens a task, of whole rows and of strips.
const TOKENS: [usize; 2] = [32, 512];

/// A strip of the decoder, and who gathers from it.
struct Piece<'a, G> {
    rows: G,
    /// Row of each edge of the batch.
    list: &'a [u32],
    /// Number of the strip.
    index: usize,
    /// Columns of the decoder that it holds.
    columns: Range<usize>,
    tokens: Range<usize>,
}

/// What is done with the tokens of a piece; pieces of a token come in order.
trait Work: Sync {
    /// # Safety
    /// No other thread works on these tokens.
    unsafe fn run<G: Gather>(&self, isa: Isa, piece: &Piece<'_, G>);
}

/// Cuts the work into pieces.
fn for_tokens(pool: &Pool, decode: &Decode<'_, Cpu>, work: &impl Work) -> Result<()> {
    let (codes, d) = (decode.codes, decode.d_out);
    let (latents, w) = (&codes.latent[..], &decode.w_dec[..]);
    if codes.edges() < MANY_EDGES * codes.tokens() || codes.tokens() < TOKENS[0] {
        let rows = Whole { data: w, width: d };
        pieces(
            pool,
            codes.tokens(),
            TOKENS[0],
            latents,
            1,
            |_| (rows, 0..d),
            work,
        );
        return Ok(());
    }
    let sorted = codes.by_latent(pool)?;
    let used = |j: &usize| !sorted.of(*j).is_empty();
    let used: Vec<usize> = (0..codes.d_sae).filter(used).collect();
    let mut place: Vec<u32> = try_zeros(codes.d_sae)?;
    for (i, &j) in (0..).zip(&used) {
        place[j] = i;
    }
    let mut list = Scratch::try_take(codes.edges())?;
    let list: &mut [u32] = bytemuck::cast_slice_mut(&mut list);
    list.iter_mut()
        .zip(latents)
        .for_each(|(row, &j)| *row = place[j as usize]);
    let strips = Strips::cut(pool, used.len(), d, |i| &w[used[i] * d..][..d], None)?;
    let (tokens, count) = (codes.tokens(), strips.count());
    with_lanes!(strips.lanes(), N => {
        pieces(pool, tokens, TOKENS[1], list, count, |i| strips.strip::<N>(i), work);
    });
    Ok(())
}

fn pieces<G: Gather>(
    pool: &Pool,
    tokens: usize,
    chunk: usize,
    list: &[u32],
    strips: usize,
    strip: impl Fn(usize) -> (G, Range<usize>) + Sync,
    work: &impl Work,
) {
    pool.run(tokens.div_ceil(chunk), |task| {
        for index in 0..strips {
            let (rows, columns) = strip(index);
            let tokens = task * chunk..tokens.min((task + 1) * chunk);
            // SAFETY: each token belongs to one task.
            unsafe {
                work.run(
                    pool.isa(),
                    &Piece {
                        rows,
                        list,
                        index,
                        columns,
                        tokens,
                    },
                )
            };
        }
    });
}

/// Columns of the row that token `b` starts from.
fn start(base: &Base<'_, Vec<f32>>, b: usize, d: usize, columns: Range<usize>, to: &mut [f32]) {
    match base {
        Base::Zero => to.fill(0.0),
        Base::Row(row) => to.copy_from_slice(&row[columns]),
        Base::Rows(rows) => to.copy_from_slice(&rows[b * d..][columns]),
    }
}

/// See [`crate::device::sae::SaeOps::decode`].
pub fn decode(pool: &Pool, work: &Decode<'_, Cpu>, out: &mut [f32]) -> Result<()> {
    let out = Parts::new(out);
    for_tokens(pool, work, &Decoding { work, out })
}

struct Decoding<'a> {
    work: &'a Decode<'a, Cpu>,
    out: Parts<'a, f32>,
}

impl Work for Decoding<'_> {
    unsafe fn run<G: Gather>(&self, isa: Isa, piece: &Piece<'_, G>) {
        let (d, columns) = (self.work.d_out, &piece.columns);
        let mut row = vec![0.0; piece.rows.width()];
        for b in piece.tokens.clone() {
            start(
                &self.work.base,
                b,
                d,
                columns.clone(),
                &mut row[..columns.len()],
            );
            let edges = self.work.codes.row(b);
            let (list, values) = (&piece.list[edges.clone()], &self.work.values[edges.clone()]);
            piece
                .rows
                .add(isa, &mut row, list, values, None, &piece.list[edges.end..]);
            // SAFETY: no other thread works on this token.
            let out = unsafe { self.out.part(b * d + columns.start, columns.len()) };
            out.copy_from_slice(&row[..columns.len()]);
        }
    }
}

/// See [`crate::device::sae::SaeOps::reconstruct`].
pub fn reconstruct(
    pool: &Pool,
    work: &Reconstruct<'_, Cpu>,
    out: Reconstruction<'_, Vec<f32>>,
) -> Result<Vec<f64>> {
    let groups = work.prefixes.len();
    let mut errors: Vec<f64> = try_zeros(work.decode.codes.tokens() * groups)?;
    let fitting = Fitting {
        work,
        out: out.out.map(|out| Parts::new(out)),
        grad: Parts::new(out.grad),
        dots: Parts::new(out.dots),
        errors: Parts::new(&mut errors),
    };
    for_tokens(pool, &work.decode, &fitting)?;
    let mut sums = vec![0.0; groups];
    for token in errors.chunks_exact(groups) {
        sums.iter_mut().zip(token).for_each(|(sum, e)| *sum += e);
    }
    Ok(sums)
}

/// The end of each group of token `b`'s edges; they ascend by latent, so groups are runs.
fn group_ends(codes: &Codes, b: usize, prefixes: &[Prefix], ends: &mut Vec<usize>) {
    let edges = codes.row(b);
    if let [_] = prefixes {
        // The only group has all of them.
        ends.clear();
        return ends.push(edges.end);
    }
    let latents = &codes.latent[edges.clone()];
    let below = |p: &Prefix| latents.partition_point(|&j| (j as usize) < p.width);
    ends.clear();
    ends.extend(prefixes.iter().map(|p| edges.start + below(p)));
}

struct Fitting<'a> {
    work: &'a Reconstruct<'a, Cpu>,
    out: Option<Parts<'a, f32>>,
    grad: Parts<'a, f32>,
    dots: Parts<'a, f32>,
    errors: Parts<'a, f64>,
}

impl Work for Fitting<'_> {
    unsafe fn run<G: Gather>(&self, isa: Isa, piece: &Piece<'_, G>) {
        let mut row = vec![0.0; piece.rows.width()];
        let mut ends = Vec::with_capacity(self.work.prefixes.len());
        for b in piece.tokens.clone() {
            group_ends(self.work.decode.codes, b, self.work.prefixes, &mut ends);
            // SAFETY: no other thread works on this token.
            unsafe {
                self.forward(isa, piece, b, &ends, &mut row);
                self.backward(isa, piece, b, &ends, &mut row);
            }
        }
    }
}

impl Fitting<'_> {
    /// Columns of row (m, b) of the gradient.
    ///
    /// # Safety
    /// No other thread works on this token, and no other part of it is held.
    #[allow(clippy::mut_from_ref)]
    unsafe fn grad(&self, m: usize, b: usize, columns: &Range<usize>) -> &mut [f32] {
        let decode = &self.work.decode;
        let row = m * decode.codes.tokens() + b;
        // SAFETY: the caller's promise.
        unsafe {
            self.grad
                .part(row * decode.d_out + columns.start, columns.len())
        }
    }

    /// x̂ and g of every group; leaves x̂ in `row`.
    ///
    /// # Safety
    /// No other thread works on this token.
    unsafe fn forward<G: Gather>(
        &self,
        isa: Isa,
        piece: &Piece<'_, G>,
        b: usize,
        ends: &[usize],
        row: &mut [f32],
    ) {
        let (decode, columns) = (&self.work.decode, &piece.columns);
        let (d, width) = (decode.d_out, columns.len());
        start(&decode.base, b, d, columns.clone(), &mut row[..width]);
        let (y, minus) = match &self.work.target {
            Target::Rows(y) => (&y.buf[(y.first + b) * d..], None),
            Target::Residual { of, out } => (
                &of.buf[(of.first + b) * d..],
                Some(&out[b * d..][columns.clone()]),
            ),
        };
        let mut from = decode.codes.row(b).start;
        for (m, (prefix, &end)) in self.work.prefixes.iter().zip(ends).enumerate() {
            let (list, values) = (&piece.list[from..end], &decode.values[from..end]);
            piece
                .rows
                .add(isa, row, list, values, None, &piece.list[end..]);
            from = end;
            // SAFETY: the caller's promise.
            let (grad, error) = unsafe {
                (
                    self.grad(m, b, columns),
                    self.errors.part(b * ends.len() + m, 1),
                )
            };
            let (y, scale) = (&y[columns.clone()], prefix.scale as f32);
            error[0] += residual(isa, &row[..width], y, minus, scale, grad);
        }
        if let Some(out) = &self.out {
            // SAFETY: the caller's promise.
            let out = unsafe { out.part(b * d + columns.start, width) };
            out.copy_from_slice(&row[..width]);
        }
    }

    /// From g to G, the last group first; then each group's dot products.
    ///
    /// # Safety
    /// No other thread works on this token.
    unsafe fn backward<G: Gather>(
        &self,
        isa: Isa,
        piece: &Piece<'_, G>,
        b: usize,
        ends: &[usize],
        row: &mut [f32],
    ) {
        let edges = self.work.decode.codes.row(b);
        row.fill(0.0);
        let mut end = edges.end;
        for m in (0..ends.len()).rev() {
            let from = if m == 0 { edges.start } else { ends[m - 1] };
            // SAFETY: the caller's promise.
            let (grad, dots) = unsafe {
                (
                    self.grad(m, b, &piece.columns),
                    self.dots.part(from, end - from),
                )
            };
            for (sum, g) in row.iter_mut().zip(&mut *grad) {
                *sum += *g;
                *g = *sum;
            }
            if piece.index == 0 {
                dots.fill(0.0);
            }
            piece.rows.add_dots(isa, row, &piece.list[from..end], dots);
            end = from;
        }
    }
}

for_each_isa! {
    /// grad = scale·(x̂ − (y − minus)); returns ‖x̂ − (y − minus)‖².
    fn residual<L>(
        out: &[f32],
        y: &[f32],
        minus: Option<&[f32]>,
        scale: f32,
        grad: &mut [f32],
    ) -> f64 {
        const LANES: usize = 8;
        let n = out.len();
        let (y, grad) = (&y[..n], &mut grad[..n]);
        for c in 0..n {
            grad[c] = out[c] - y[c];
        }
        if let Some(minus) = minus {
            for (c, minus) in minus[..n].iter().enumerate() {
                grad[c] = out[c] - (y[c] - minus);
            }
        }
        let mut lanes = [0.0f64; LANES];
        let (whole, rest) = grad.as_chunks_mut::<LANES>();
        for r in whole {
            for (lane, r) in lanes.iter_mut().zip(r) {
                *lane += f64::from(*r) * f64::from(*r);
                *r *= scale;
            }
        }
        for (lane, r) in lanes.iter_mut().zip(rest) {
            *lane += f64::from(*r) * f64::from(*r);
            *r *= scale;
        }
        lanes.iter().sum()
    }
}

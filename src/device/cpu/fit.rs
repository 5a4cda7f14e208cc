//! Decode, compare with the target, differentiate: one pass over the tokens.
//!
//! A token's rows of the decoder are gathered once for x̂ and are still in cache for the
//! dot products of da. With many edges a token, the rows that are used are copied into
//! strips of columns first, and a block of tokens passes strip by strip.

use super::Cpu;
use super::codes::Codes;
use super::gather::{self, RowsOf};
use super::memory::Parts;
use super::pool::Pool;
use super::simd::{LANES, for_each_isa};
use super::strips::Strips;
use super::try_zeros;
use crate::device::sae::{Base, Decode, Prefix, Reconstruct, Reconstruction, Target};
use crate::domain::Result;

/// From this number of edges a token on, gathering from strips pays for their copy.
const MANY_EDGES: usize = 64;
/// Tokens a task, without and with strips.
const TOKENS: [usize; 2] = [32, 512];

/// The decoder as the tokens gather from it.
struct Decoder<'a> {
    strips: Strips<'a>,
    /// Row of each edge in the strips.
    row: std::borrow::Cow<'a, [u32]>,
}

impl<'a> Decoder<'a> {
    fn new(pool: &Pool, work: &'a Decode<'a, Cpu>) -> Result<Self> {
        let (codes, d) = (work.codes, work.d_out);
        let whole = RowsOf {
            data: work.w_dec,
            stride: d,
            width: d,
        };
        if codes.edges() < MANY_EDGES * codes.tokens() || codes.tokens() < TOKENS[0] {
            return Ok(Self {
                strips: Strips::Whole(whole),
                row: codes.latent[..].into(),
            });
        }
        let sorted = codes.by_latent(pool)?;
        let used: Vec<usize> = (0..codes.d_sae)
            .filter(|&j| !sorted.of(j).is_empty())
            .collect();
        let mut place = vec![0; codes.d_sae];
        for (i, &j) in used.iter().enumerate() {
            place[j] = i as u32;
        }
        let mut row: Vec<u32> = try_zeros(codes.edges())?;
        for (row, &latent) in row.iter_mut().zip(&codes.latent) {
            *row = place[latent as usize];
        }
        let strips = Strips::cut(
            pool,
            used.len(),
            d,
            |i| &work.w_dec[used[i] * d..][..d],
            None,
        );
        Ok(Self {
            strips,
            row: row.into(),
        })
    }

    /// Tokens a task.
    fn tokens(&self) -> usize {
        TOKENS[usize::from(matches!(self.strips, Strips::Cut { .. }))]
    }
}

/// See [`crate::device::sae::SaeOps::decode`].
pub fn decode(pool: &Pool, work: &Decode<'_, Cpu>, out: &mut [f32]) -> Result<()> {
    let decoder = Decoder::new(pool, work)?;
    let (tokens, d) = (work.codes.tokens(), work.d_out);
    let out = Parts::new(out);
    pool.run(tokens.div_ceil(decoder.tokens()), |task| {
        for index in 0..decoder.strips.count() {
            let (w, columns) = decoder.strips.strip(index);
            for b in (task * decoder.tokens()..tokens).take(decoder.tokens()) {
                // SAFETY: each token belongs to one task.
                let out = unsafe { out.part(b * d + columns.start, columns.len()) };
                start(&work.base, b, d, &columns, out);
                let edges = work.codes.row(b);
                let ahead = &decoder.row[edges.end..];
                sum(
                    pool.isa(),
                    out,
                    w,
                    &decoder.row[edges.clone()],
                    &work.values[edges],
                    ahead,
                );
            }
        }
    });
    Ok(())
}

/// Columns of the row that token `b` starts from.
fn start(
    base: &Base<'_, Vec<f32>>,
    b: usize,
    d: usize,
    columns: &std::ops::Range<usize>,
    out: &mut [f32],
) {
    match base {
        Base::Zero => out.fill(0.0),
        Base::Row(row) => out.copy_from_slice(&row[columns.clone()]),
        Base::Rows(rows) => out.copy_from_slice(&rows[b * d..][columns.clone()]),
    }
}

/// See [`crate::device::sae::SaeOps::reconstruct`].
pub fn reconstruct(
    pool: &Pool,
    work: &Reconstruct<'_, Cpu>,
    out: Reconstruction<'_, Vec<f32>>,
) -> Result<Vec<f64>> {
    let decoder = Decoder::new(pool, &work.decode)?;
    let codes = work.decode.codes;
    let (tokens, d, groups) = (codes.tokens(), work.decode.d_out, work.prefixes.len());
    let mut errors: Vec<f64> = try_zeros(tokens * groups)?;
    let fit = Fit {
        work,
        decoder: &decoder,
        out: out.out.map(|out| Parts::new(out)),
        grad: Parts::new(out.grad),
        dots: Parts::new(out.dots),
        errors: Parts::new(&mut errors),
    };
    pool.run(tokens.div_ceil(decoder.tokens()), |task| {
        let mut row = vec![0.0; d];
        let mut ends = Vec::with_capacity(groups);
        for index in 0..decoder.strips.count() {
            let strip = decoder.strips.strip(index);
            for b in (task * decoder.tokens()..tokens).take(decoder.tokens()) {
                group_ends(codes, b, work.prefixes, &mut ends);
                // SAFETY: each token belongs to one task.
                unsafe { fit.token(pool, b, index, &strip, &ends, &mut row) };
            }
        }
    });
    let mut sums = vec![0.0; groups];
    for token in errors.chunks_exact(groups) {
        sums.iter_mut().zip(token).for_each(|(sum, e)| *sum += e);
    }
    Ok(sums)
}

/// The end of each group of token `b`'s edges; they ascend by latent, so groups are runs.
fn group_ends(codes: &Codes, b: usize, prefixes: &[Prefix], ends: &mut Vec<usize>) {
    let edges = codes.row(b);
    let latents = &codes.latent[edges.clone()];
    ends.clear();
    ends.extend(
        prefixes
            .iter()
            .map(|p| edges.start + latents.partition_point(|&j| (j as usize) < p.width)),
    );
}

/// A reconstruction under way.
struct Fit<'a> {
    work: &'a Reconstruct<'a, Cpu>,
    decoder: &'a Decoder<'a>,
    out: Option<Parts<'a, f32>>,
    grad: Parts<'a, f32>,
    dots: Parts<'a, f32>,
    errors: Parts<'a, f64>,
}

impl Fit<'_> {
    /// One strip of token `b`; `row` is scratch memory for x̂.
    ///
    /// # Safety
    /// No other thread works on this token.
    unsafe fn token(
        &self,
        pool: &Pool,
        b: usize,
        strip: usize,
        (w, columns): &(RowsOf<'_>, std::ops::Range<usize>),
        ends: &[usize],
        row: &mut [f32],
    ) {
        let (isa, decode) = (pool.isa(), &self.work.decode);
        let (d, tokens) = (decode.d_out, decode.codes.tokens());
        let edges = decode.codes.row(b);
        let list = &self.decoder.row[..];
        let sum_row = &mut row[..w.width];
        start(&decode.base, b, d, columns, sum_row);
        // SAFETY: everything below belongs to this token.
        let grad = |m: usize| unsafe {
            self.grad
                .part((m * tokens + b) * d + columns.start, w.width)
        };
        let mut from = edges.start;
        for (m, (prefix, &end)) in self.work.prefixes.iter().zip(ends).enumerate() {
            let ahead = &list[end..];
            sum(
                isa,
                sum_row,
                *w,
                &list[from..end],
                &decode.values[from..end],
                ahead,
            );
            from = end;
            let (y, minus) = self.target(b, columns);
            let error = residual(isa, sum_row, y, minus, prefix.scale as f32, grad(m));
            // SAFETY: as above.
            unsafe { self.errors.part(b * ends.len() + m, 1)[0] += error };
        }
        if let Some(out) = &self.out {
            // SAFETY: as above.
            unsafe { out.part(b * d + columns.start, w.width) }.copy_from_slice(sum_row);
        }
        // From g to G, the last group first; then each group's dot products.
        let mut end = edges.end;
        for m in (0..ends.len()).rev() {
            if m + 1 < ends.len() {
                for (g, later) in grad(m).iter_mut().zip(&*grad(m + 1)) {
                    *g += later;
                }
            }
            let from = if m == 0 { edges.start } else { ends[m - 1] };
            // SAFETY: as above.
            let out = unsafe { self.dots.part(from, end - from) };
            dots(isa, grad(m), *w, &list[from..end], strip > 0, out);
            end = from;
        }
    }

    /// Columns of the target of token `b`, and what is subtracted from it.
    fn target(&self, b: usize, columns: &std::ops::Range<usize>) -> (&[f32], Option<&[f32]>) {
        let d = self.work.decode.d_out;
        match &self.work.target {
            Target::Rows(y) => (&y.buf[(y.first + b) * d..][columns.clone()], None),
            Target::Residual { of, out } => (
                &of.buf[(of.first + b) * d..][columns.clone()],
                Some(&out[b * d..][columns.clone()]),
            ),
        }
    }
}

for_each_isa! {
    fn sum<FMA>(
        out: &mut [f32],
        rows: RowsOf<'_>,
        list: &[u32],
        values: &[f32],
        ahead: &[u32],
    ) {
        gather::add_rows::<FMA>(out, rows, list, values, None, ahead);
    }
}

for_each_isa! {
    fn dots<FMA>(g: &[f32], rows: RowsOf<'_>, list: &[u32], add: bool, out: &mut [f32]) {
        gather::dots::<FMA>(g, rows, list, add, out);
    }
}

for_each_isa! {
    /// grad = scale·(x̂ − (y − minus)); returns ‖x̂ − (y − minus)‖².
    fn residual<FMA>(
        out: &[f32],
        y: &[f32],
        minus: Option<&[f32]>,
        scale: f32,
        grad: &mut [f32],
    ) -> f64 {
        let n = out.len();
        let (y, grad) = (&y[..n], &mut grad[..n]);
        match minus {
            None => {
                for c in 0..n {
                    grad[c] = out[c] - y[c];
                }
            }
            Some(minus) => {
                let minus = &minus[..n];
                for c in 0..n {
                    grad[c] = out[c] - (y[c] - minus[c]);
                }
            }
        }
        let mut lanes = [0.0f64; LANES];
        for chunk in grad.chunks_mut(LANES) {
            for (lane, r) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(*r) * f64::from(*r);
                *r *= scale;
            }
        }
        lanes.iter().sum()
    }
}

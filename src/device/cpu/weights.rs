//! Row-wise and element-wise operations on dense matrices: norms, projections, sums, Adam.
//!
//! Sums run over fixed chunks, in f64, then over the chunks.

use super::memory::Parts;
use super::pool::Pool;
use super::simd::for_each_isa;
use super::try_zeros;
use crate::device::sae::AdamStep;
use crate::domain::Result;

/// Elements a task.
const CHUNK: usize = 1 << 16;
/// Lanes of a sum in f64.
const LANES: usize = 32;

for_each_isa! {
    /// Σ a·b.
    fn dot<L>(a: &[f32], b: &[f32]) -> f64 {
        let mut lanes = [0.0f64; LANES];
        let (a, a_rest) = a.as_chunks::<LANES>();
        let (b, b_rest) = b.as_chunks::<LANES>();
        for (a, b) in a.iter().zip(b) {
            for i in 0..LANES {
                lanes[i] += f64::from(a[i]) * f64::from(b[i]);
            }
        }
        for (i, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
            lanes[i] += f64::from(*a) * f64::from(*b);
        }
        lanes.iter().sum()
    }
}

for_each_isa! {
    /// sum += v·row.
    fn add_to<L>(sum: &mut [f64], v: f64, row: &[f32]) {
        for (sum, r) in sum.iter_mut().zip(row) {
            *sum += v * f64::from(*r);
        }
    }
}

for_each_isa! {
    /// Σ (row − mean)².
    fn distance<L>(row: &[f32], mean: &[f64]) -> f64 {
        let mut lanes = [0.0f64; LANES];
        let (rows, row_rest) = row.as_chunks::<LANES>();
        let (means, mean_rest) = mean.as_chunks::<LANES>();
        for (row, mean) in rows.iter().zip(means) {
            for i in 0..LANES {
                lanes[i] += (f64::from(row[i]) - mean[i]).powi(2);
            }
        }
        for (i, (row, mean)) in row_rest.iter().zip(mean_rest).enumerate() {
            lanes[i] += (f64::from(*row) - mean).powi(2);
        }
        lanes.iter().sum()
    }
}

/// Calls `of` with runs of rows of `data` [rows, d] and the number of their first row.
fn for_rows(pool: &Pool, rows: usize, d: usize, of: impl Fn(std::ops::Range<usize>) + Sync) {
    let chunk = (CHUNK / d.max(1)).max(1);
    pool.run(rows.div_ceil(chunk), |task| {
        of(task * chunk..rows.min((task + 1) * chunk))
    });
}

/// Σ_j v(j)·w[j] of w [rows, d].
fn weighted_sum(
    pool: &Pool,
    w: &[f32],
    rows: usize,
    d: usize,
    v: impl Fn(usize) -> f64 + Sync,
) -> Result<Vec<f64>> {
    let chunk = (CHUNK / d.max(1)).max(1);
    let mut sums: Vec<f64> = try_zeros(rows.div_ceil(chunk) * d)?;
    {
        let sums = Parts::new(&mut sums);
        for_rows(pool, rows, d, |run| {
            // SAFETY: each run of rows has a sum of its own.
            let sum = unsafe { sums.part(run.start / chunk * d, d) };
            for j in run {
                add_to(pool.isa(), sum, v(j), &w[j * d..][..d]);
            }
        });
    }
    let mut total: Vec<f64> = try_zeros(d)?;
    for part in sums.chunks_exact(d.max(1)) {
        total.iter_mut().zip(part).for_each(|(sum, v)| *sum += v);
    }
    Ok(total)
}

/// out[c] = Σ_b rows[b, c], or `out[c] += …`.
pub fn column_sums(
    pool: &Pool,
    rows: &[f32],
    d: usize,
    out: &mut [f32],
    accumulate: bool,
) -> Result<()> {
    let sums = weighted_sum(pool, rows, rows.len() / d.max(1), d, |_| 1.0)?;
    for (out, sum) in out.iter_mut().zip(sums) {
        let old = if accumulate { f64::from(*out) } else { 0.0 };
        *out = (old + sum) as f32;
    }
    Ok(())
}

/// Σ_b ‖rows[b] − mean row‖².
pub fn spread(pool: &Pool, rows: &[f32], d: usize) -> Result<f64> {
    let count = rows.len() / d.max(1);
    let mut mean = weighted_sum(pool, rows, count, d, |_| 1.0)?;
    mean.iter_mut().for_each(|sum| *sum /= count as f64);
    let mut off: Vec<f64> = try_zeros(count)?;
    {
        let off = Parts::new(&mut off);
        for_rows(pool, count, d, |run| {
            for b in run {
                // SAFETY: each row has a place of its own.
                let off = unsafe { &mut off.part(b, 1)[0] };
                *off = distance(pool.isa(), &rows[b * d..][..d], &mean);
            }
        });
    }
    Ok(off.iter().sum())
}

/// out[c] += factor·Σ_j v_j·w[j, c].
pub fn add_matvec_t(
    pool: &Pool,
    w: &[f32],
    d: usize,
    v: &[f32],
    factor: f64,
    out: &mut [f32],
) -> Result<()> {
    let sums = weighted_sum(pool, w, w.len() / d.max(1), d, |j| f64::from(v[j]))?;
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = (f64::from(*out) + factor * sum) as f32;
    }
    Ok(())
}

/// out[j] = ‖w[j]‖.
pub fn row_norms(pool: &Pool, w: &[f32], d: usize, out: &mut [f32]) {
    let out = Parts::new(out);
    for_rows(pool, w.len() / d.max(1), d, |run| {
        for j in run {
            let row = &w[j * d..][..d];
            // SAFETY: each row has a place of its own.
            unsafe { out.part(j, 1)[0] = dot(pool.isa(), row, row).sqrt() as f32 };
        }
    });
}

/// to[j] += factor(j)·w[j], for every row where the factor is a number.
fn add_scaled_rows(
    pool: &Pool,
    w: &[f32],
    d: usize,
    to: &mut [f32],
    factor: impl Fn(usize, &[f32], &[f32]) -> Option<f64> + Sync,
) {
    let parts = Parts::new(to);
    for_rows(pool, w.len() / d.max(1), d, |run| {
        for j in run {
            let row = &w[j * d..][..d];
            // SAFETY: each row belongs to one task.
            let to = unsafe { parts.part(j * d, d) };
            if let Some(factor) = factor(j, row, to) {
                for (to, w) in to.iter_mut().zip(row) {
                    *to = (f64::from(*to) + factor * f64::from(*w)) as f32;
                }
            }
        }
    });
}

/// grad[j] += v_j·w[j]/max(‖w[j]‖, 1e-12).
pub fn add_norm_grad(pool: &Pool, w: &[f32], d: usize, v: &[f32], grad: &mut [f32]) {
    add_scaled_rows(pool, w, d, grad, |j, row, _| {
        Some(f64::from(v[j]) / dot(pool.isa(), row, row).sqrt().max(1e-12))
    });
}

/// grad[j] ← its part orthogonal to w[j]; unchanged where w[j] is zero.
pub fn project_rows(pool: &Pool, w: &[f32], d: usize, grad: &mut [f32]) {
    add_scaled_rows(pool, w, d, grad, |_, row, grad| {
        let square = dot(pool.isa(), row, row);
        (square > 0.0).then(|| -dot(pool.isa(), row, grad) / square)
    });
}

/// w[j] ← w[j]/‖w[j]‖; a row of zeros stays.
pub fn normalize_rows(pool: &Pool, w: &mut [f32], d: usize) {
    let rows = w.len() / d.max(1);
    let parts = Parts::new(w);
    for_rows(pool, rows, d, |run| {
        for j in run {
            // SAFETY: each row belongs to one task.
            let row = unsafe { parts.part(j * d, d) };
            let norm = dot(pool.isa(), row, row).sqrt();
            if norm > 0.0 {
                row.iter_mut()
                    .for_each(|v| *v = (f64::from(*v) / norm) as f32);
            }
        }
    });
}

/// Σ v².
pub fn sum_squares(pool: &Pool, buf: &[f32]) -> Result<f64> {
    let tasks = buf.len().div_ceil(CHUNK);
    let mut sums: Vec<f64> = try_zeros(tasks)?;
    {
        let sums = Parts::new(&mut sums);
        pool.run(tasks, |task| {
            let part = &buf[task * CHUNK..buf.len().min((task + 1) * CHUNK)];
            // SAFETY: each chunk has a place of its own.
            unsafe { sums.part(task, 1)[0] = dot(pool.isa(), part, part) };
        });
    }
    Ok(sums.iter().sum())
}

/// Calls `of` with each chunk of `buf` and its place.
pub fn for_chunks(pool: &Pool, buf: &mut [f32], of: impl Fn(usize, &mut [f32]) + Sync) {
    let len = buf.len();
    let parts = Parts::new(buf);
    pool.run(len.div_ceil(CHUNK), |task| {
        let start = task * CHUNK;
        // SAFETY: each chunk belongs to one task.
        of(start, unsafe { parts.part(start, CHUNK.min(len - start)) });
    });
}

/// See [`AdamStep`].
pub fn adam(
    pool: &Pool,
    step: &AdamStep,
    param: &mut [f32],
    grad: &[f32],
    m: &mut [f32],
    v: &mut [f32],
) {
    let factors = Factors {
        grad: step.grad_scale as f32,
        beta1: [step.beta1 as f32, (1.0 - step.beta1) as f32],
        beta2: [step.beta2 as f32, (1.0 - step.beta2) as f32],
        keep: (1.0 - step.lr * step.decay) as f32,
        rate: (step.lr / step.correction1) as f32,
        root: (1.0 / step.correction2).sqrt() as f32,
        eps: step.eps as f32,
    };
    let (m, v) = (Parts::new(m), Parts::new(v));
    for_chunks(pool, param, |start, param| {
        let len = param.len();
        // SAFETY: each chunk belongs to one task.
        let (m, v) = unsafe { (m.part(start, len), v.part(start, len)) };
        adam_chunk(pool.isa(), &factors, param, &grad[start..start + len], m, v);
    });
}

/// The factors of a step.
struct Factors {
    grad: f32,
    beta1: [f32; 2],
    beta2: [f32; 2],
    keep: f32,
    rate: f32,
    root: f32,
    eps: f32,
}

for_each_isa! {
    fn adam_chunk<L>(f: &Factors, param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) {
        let n = param.len();
        let (grad, m, v) = (&grad[..n], &mut m[..n], &mut v[..n]);
        for i in 0..n {
            let g = f.grad * grad[i];
            m[i] = f.beta1[0] * m[i] + f.beta1[1] * g;
            v[i] = f.beta2[0] * v[i] + f.beta2[1] * (g * g);
            let root = v[i].sqrt() * f.root + f.eps;
            param[i] = f.keep * param[i] - f.rate * m[i] / root;
        }
    }
}

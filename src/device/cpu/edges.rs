//! Operations on the edges of codes, one number each.
//!
//! Sums over edges are taken over fixed runs of tokens, then over the runs.

use super::codes::Codes;
use super::memory::Parts;
use super::pool::Pool;
use super::try_zeros;
#[cfg(doc)]
use crate::device::sae::SaeOps;
use crate::device::sae::{EdgeGrads, Penalty, PreAct, Rule};
use crate::domain::Result;

/// Tokens a task.
const TOKENS: usize = 32;
/// Latents a task.
const LATENTS: usize = 256;

/// The numbers of a task's tokens or latents.
fn run_of(task: usize, len: usize, count: usize) -> std::ops::Range<usize> {
    task * len..count.min((task + 1) * len)
}

/// See [`SaeOps::slice_codes`].
pub fn slice(codes: &Codes, first: usize, count: usize, out: &mut Codes) -> Result<()> {
    out.reset(
        codes.d_sae,
        (first..first + count).map(|b| codes.row(b).len()),
    )?;
    let edges = codes.row_ptr[first] as usize..codes.row_ptr[first + count] as usize;
    out.latent.copy_from_slice(&codes.latent[edges.clone()]);
    out.pre.copy_from_slice(&codes.pre[edges]);
    Ok(())
}

/// See [`SaeOps::least_positive`].
pub fn least_positive(codes: &Codes, scale: Option<&Vec<f32>>) -> Option<f64> {
    let edges = codes.latent.iter().zip(&codes.pre);
    edges
        .map(|(&j, &p)| f64::from(p) * scale.map_or(1.0, |s| f64::from(s[j as usize])))
        .filter(|key| *key > 0.0)
        .min_by(f64::total_cmp)
}

/// See [`SaeOps::activate`].
pub fn activate(
    pool: &Pool,
    codes: &Codes,
    rule: &Rule<'_, Vec<f32>>,
    values: &mut [f32],
) -> Result<u64> {
    let tokens = codes.tokens();
    let tasks = tokens.div_ceil(TOKENS);
    let mut active: Vec<u64> = try_zeros(tasks)?;
    {
        let (active, values) = (Parts::new(&mut active), Parts::new(values));
        pool.run(tasks, |task| {
            let tokens = run_of(task, TOKENS, tokens);
            let edges = codes.row(tokens.start).start..codes.row(tokens.end - 1).end;
            // SAFETY: each run of edges belongs to one task.
            let values = unsafe { values.part(edges.start, edges.len()) };
            let mut count = 0;
            for (value, e) in values.iter_mut().zip(edges) {
                let a = rule.value(codes.latent[e] as usize, f64::from(codes.pre[e]));
                count += u64::from(a != 0.0);
                *value = a as f32;
            }
            // SAFETY: as above.
            unsafe { active.part(task, 1)[0] = count };
        });
    }
    Ok(active.iter().sum())
}

/// See [`SaeOps::activate_backward`].
pub fn activate_backward(
    pool: &Pool,
    codes: &Codes,
    rule: &Rule<'_, Vec<f32>>,
    penalty: &Penalty<'_, Vec<f32>>,
    pre_act: Option<&PreAct<'_, Vec<f32>, Vec<u32>>>,
    da: &[f32],
    grads: &mut EdgeGrads<'_, Vec<f32>>,
) -> Result<[f64; 2]> {
    let tokens = codes.tokens();
    let tasks = tokens.div_ceil(TOKENS);
    let mut losses: Vec<[f64; 2]> = try_zeros(tasks)?;
    let add = grads.add_to_pre;
    let outputs = [
        Some(&mut *grads.pre),
        grads.norm.as_deref_mut(),
        grads.threshold.as_deref_mut(),
        grads.r_mag.as_deref_mut(),
        grads.b_mag.as_deref_mut(),
    ]
    .map(|out| out.map(|out| Parts::new(out)));
    {
        let losses = Parts::new(&mut losses);
        pool.run(tasks, |task| {
            let mut sums = [0.0; 2];
            for b in run_of(task, TOKENS, tokens) {
                let edges = codes.row(b);
                let (start, len) = (edges.start, edges.len());
                // SAFETY: each token's edges belong to one task.
                let mut out = outputs
                    .each_ref()
                    .map(|out| out.as_ref().map(|out| unsafe { out.part(start, len) }));
                let edge = |e: usize| (codes.latent[e] as usize, f64::from(codes.pre[e]));
                let l0 = match penalty {
                    Penalty::Quadratic { .. } => {
                        let active = |&(j, p): &(usize, f64)| rule.value(j, p) != 0.0;
                        edges.clone().map(edge).filter(active).count()
                    }
                    _ => 0,
                };
                sums[0] += penalty.of_token(l0);
                for (i, e) in edges.enumerate() {
                    let (j, p) = edge(e);
                    let grad = rule.backward(penalty, pre_act, j, p, f64::from(da[e]), l0);
                    sums[0] += grad.penalty;
                    sums[1] += grad.pre_act;
                    let values = [grad.pre, grad.norm, grad.threshold, grad.r_mag, grad.b_mag];
                    for (n, (out, value)) in out.iter_mut().zip(values).enumerate() {
                        if let Some(out) = out {
                            let old = if n == 0 && add {
                                f64::from(out[i])
                            } else {
                                0.0
                            };
                            out[i] = (old + value) as f32;
                        }
                    }
                }
            }
            // SAFETY: each task has a place of its own.
            unsafe { losses.part(task, 1)[0] = sums };
        });
    }
    Ok(losses
        .iter()
        .fold([0.0; 2], |sum, part| [sum[0] + part[0], sum[1] + part[1]]))
}

/// Calls `of` with each latent, the values of its edges in the order of the tokens, and
/// its element of `out`.
fn by_latent<T: Send>(
    pool: &Pool,
    codes: &Codes,
    values: &[f32],
    out: &mut [T],
    of: impl Fn(&mut dyn Iterator<Item = f32>, &mut T) + Sync,
) -> Result<()> {
    let sorted = codes.by_latent(pool)?;
    let out = Parts::new(out);
    pool.run(codes.d_sae.div_ceil(LATENTS), |task| {
        for j in run_of(task, LATENTS, codes.d_sae) {
            let edges = &sorted.edge[sorted.of(j)];
            // SAFETY: each latent belongs to one task.
            let out = unsafe { &mut out.part(j, 1)[0] };
            of(&mut edges.iter().map(|&e| values[e as usize]), out);
        }
    });
    Ok(())
}

/// See [`SaeOps::latent_sums`].
pub fn latent_sums(
    pool: &Pool,
    codes: &Codes,
    values: &[f32],
    out: &mut [f32],
    accumulate: bool,
) -> Result<()> {
    by_latent(pool, codes, values, out, |values, out| {
        let old = if accumulate { f64::from(*out) } else { 0.0 };
        *out = (old + values.map(f64::from).sum::<f64>()) as f32;
    })
}

/// See [`SaeOps::count_fired`].
pub fn count_fired(pool: &Pool, codes: &Codes, values: &[f32], counts: &mut [u32]) -> Result<()> {
    by_latent(pool, codes, values, counts, |values, count| {
        let fired = values.filter(|v| *v > 0.0).count();
        *count = count.saturating_add(u32::try_from(fired).unwrap_or(u32::MAX));
    })
}

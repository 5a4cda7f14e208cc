//! Measures on held-out text: what the language model loses when it goes on with a
//! reconstruction, and how good the reconstruction is.
//!
//! Only positions that are trained on are replaced and compared (pads, BOS and excluded
//! tokens are not); the cross-entropy counts every next token of a context.

mod density;
mod fidelity;
#[cfg(test)]
mod tests;

use crate::data::Context;
use crate::device::lm::LmOps;
use crate::device::{Device, Real};
use crate::domain::Result;
use crate::lm::{AtHook, End, HookPoint, Lm, Tokens};
use crate::protocol::{SiteValidation, Validation};
use fidelity::Fidelity;

/// An autoencoder as it is measured, in the language model's own scale.
pub trait Autoencoder<D: Device> {
    /// Number of latents.
    fn d_sae(&self) -> usize;
    /// x̂ [rows, d_out] of `x` [rows, d_in]; adds to `fired` how often each latent fired
    /// and returns the number of active (token, latent) pairs.
    ///
    /// # Errors
    /// `out-of-memory`.
    fn reconstruct(
        &mut self,
        device: &D,
        x: &[D::Real],
        rows: usize,
        fired: &mut [u64],
    ) -> Result<(Vec<D::Real>, u64)>;
}

/// Where an autoencoder reads and what it stands for.
#[derive(Clone, Debug)]
pub struct Site {
    /// The hook point that is encoded.
    pub hook: HookPoint,
    /// The hook point that is reconstructed: `hook` but for transcoders, never before it.
    pub target: HookPoint,
}

/// What to measure on.
pub struct HeldOut<'a> {
    /// Contexts of one length.
    pub contexts: &'a [Context],
    /// Contexts that run through the model at once.
    pub lm_batch: usize,
}

/// Measures, and what they are made of.
pub struct Measured {
    /// For people and checkpoints.
    pub validation: Validation,
    /// For each autoencoder the share of tokens on which each latent fired \[d_sae\].
    pub frequencies: Vec<Vec<f32>>,
}

/// Measures each `autoencoders[i]` at `sites[i]`, one at a time. `progress` is told the
/// forward passes done and in all; an error that it returns ends the work.
///
/// # Errors
/// Those of the language model, of the autoencoders and of `progress`.
pub fn evaluate<D: LmOps>(
    device: &D,
    lm: &mut Lm<D>,
    held_out: &HeldOut<'_>,
    sites: &[Site],
    autoencoders: &mut [&mut dyn Autoencoder<D>],
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Measured> {
    let batches = held_out.batches()?;
    let total = (batches.len() * (1 + 3 * sites.len())) as u64;
    let mut done = 0;
    let mut tick = || {
        done += 1;
        progress(done, total)
    };
    let mut pass = Passes { device, lm };

    let mut hooks: Vec<HookPoint> = sites.iter().flat_map(|s| [s.hook, s.target]).collect();
    hooks.sort();
    hooks.dedup();
    let d = pass.lm.spec().d_model;
    let mut fidelity: Vec<Fidelity> = autoencoders
        .iter()
        .map(|a| Fidelity::new(d, a.d_sae()))
        .collect();
    let mut clean = 0.0;
    for batch in &batches {
        let (rows, loss) = pass.read(batch, &hooks)?;
        clean += loss;
        for ((site, sae), fidelity) in sites.iter().zip(&mut *autoencoders).zip(&mut fidelity) {
            let of = |hook| &rows[hooks.partition_point(|h| *h < hook)];
            let count = batch.valid.len();
            let (out, active) =
                sae.reconstruct(device, of(site.hook), count, &mut fidelity.fired)?;
            fidelity.add(of(site.target), &out, active);
        }
        tick()?;
    }

    let predicted: u64 = batches.iter().map(Batch::predicted).sum();
    let nats = |sum: f64| sum / predicted.max(1) as f64;
    let mut measured = Vec::new();
    for ((site, sae), fidelity) in sites.iter().zip(autoencoders).zip(&fidelity) {
        let mean: Vec<D::Real> = fidelity.mean().map(D::Real::from_f64).collect();
        let zero = vec![D::Real::default(); d];
        let (mut spliced, mut zeroed, mut averaged) = (0.0, 0.0, 0.0);
        for batch in &batches {
            let mut fired = vec![0; sae.d_sae()];
            spliced += pass.replace(batch, site, |x| {
                Ok(sae.reconstruct(device, x, batch.valid.len(), &mut fired)?.0)
            })?;
            tick()?;
            zeroed += pass.replace(batch, site, |_| Ok(zero.repeat(batch.valid.len())))?;
            tick()?;
            averaged += pass.replace(batch, site, |_| Ok(mean.repeat(batch.valid.len())))?;
            tick()?;
        }
        let ce = [clean, spliced, zeroed, averaged].map(nats);
        measured.push(site_validation(site, fidelity, ce));
    }
    Ok(Measured {
        validation: Validation {
            step: 0,
            tokens: batches.iter().map(|b| b.valid.len() as u64).sum(),
            sites: measured,
        },
        frequencies: fidelity.iter().map(Fidelity::frequencies).collect(),
    })
}

fn site_validation(site: &Site, fidelity: &Fidelity, ce: [f64; 4]) -> SiteValidation {
    let [ce_clean, ce_sae, ce_zero, ce_mean] = ce;
    let recovered = |ablated: f64| {
        let gap = ablated - ce_clean;
        let share = (ablated - ce_sae) / gap;
        (gap.abs() > 1e-9 && share.is_finite()).then_some(share)
    };
    let (density_edges, density_counts) = density::histogram(&fidelity.fired, fidelity.tokens());
    SiteValidation {
        hook: site.hook.to_string(),
        ce_clean,
        ce_zero,
        ce_mean,
        ce_sae,
        ce_recovered: recovered(ce_zero),
        ce_recovered_mean: recovered(ce_mean),
        explained_variance: fidelity.explained_variance(),
        cosine: fidelity.cosine(),
        l0: fidelity.l0(),
        dead: fidelity.fired.iter().filter(|f| **f == 0).count() as u64,
        d_sae: fidelity.fired.len() as u64,
        density_edges,
        density_counts,
    }
}

/// Contexts that run at once.
struct Batch {
    tokens: Tokens,
    targets: Vec<u32>,
    /// Rows that are trained on, ascending.
    valid: Vec<usize>,
}

impl Batch {
    fn predicted(&self) -> u64 {
        self.tokens
            .spans()
            .iter()
            .map(|s| s.len.saturating_sub(1) as u64)
            .sum()
    }
}

impl HeldOut<'_> {
    fn batches(&self) -> Result<Vec<Batch>> {
        let chunks = self.contexts.chunks(self.lm_batch.max(1));
        chunks
            .map(|contexts| {
                let size = contexts[0].ids.len();
                let ids: Vec<u32> = contexts
                    .iter()
                    .flat_map(|c| c.ids.iter().copied())
                    .collect();
                let mask: Vec<bool> = contexts
                    .iter()
                    .flat_map(|c| (0..size).map(|at| at < c.len))
                    .collect();
                let tokens = Tokens::masked(&ids, &mask, contexts.len(), size)?;
                let valid = contexts
                    .iter()
                    .enumerate()
                    .flat_map(|(i, c)| c.valid_positions().map(move |at| i * size + at))
                    .collect();
                Ok(Batch {
                    targets: tokens.next(),
                    tokens,
                    valid,
                })
            })
            .collect()
    }
}

struct Passes<'a, D: LmOps> {
    device: &'a D,
    lm: &'a mut Lm<D>,
}

impl<D: LmOps> Passes<'_, D> {
    /// Rows that are trained on at each of `hooks`, and the sum of the losses.
    fn read(&mut self, batch: &Batch, hooks: &[HookPoint]) -> Result<(Vec<Vec<D::Real>>, f64)> {
        let mut rows = vec![Vec::new(); hooks.len()];
        let (device, d) = (self.device, self.lm.spec().d_model);
        let loss = self.run(batch, hooks, &mut |index, value, count| {
            let mut all = vec![D::Real::default(); count * d];
            device.read(value, 0, &mut all)?;
            rows[index] = gather(&all, &batch.valid, d);
            Ok(())
        })?;
        Ok((rows, loss))
    }

    /// The sum of the losses where the rows at `site.target` that are trained on are
    /// replaced by what `by` makes of those at `site.hook`.
    fn replace(
        &mut self,
        batch: &Batch,
        site: &Site,
        mut by: impl FnMut(&[D::Real]) -> Result<Vec<D::Real>>,
    ) -> Result<f64> {
        let mut hooks = vec![site.hook, site.target];
        hooks.dedup();
        let last = hooks.len() - 1;
        let mut new = Vec::new();
        let (device, d) = (self.device, self.lm.spec().d_model);
        self.run(batch, &hooks, &mut |index, value, count| {
            let mut all = vec![D::Real::default(); count * d];
            device.read(value, 0, &mut all)?;
            if index == 0 {
                new = by(&gather(&all, &batch.valid, d))?;
            }
            if index == last {
                for (row, new) in batch.valid.iter().zip(new.chunks(d)) {
                    all[row * d..][..d].copy_from_slice(new);
                }
                device.write(value, 0, &all)?;
            }
            Ok(())
        })
    }

    fn run(&mut self, batch: &Batch, hooks: &[HookPoint], at: AtHook<'_, D>) -> Result<f64> {
        let mut losses = vec![0.0; batch.tokens.rows()];
        let end = End::Losses {
            targets: &batch.targets,
            out: &mut losses,
        };
        self.lm
            .forward(self.device, &batch.tokens, hooks, at, end)?;
        Ok(losses.iter().sum())
    }
}

fn gather<R: Copy>(all: &[R], rows: &[usize], d: usize) -> Vec<R> {
    rows.iter()
        .flat_map(|row| all[row * d..][..d].iter().copied())
        .collect()
}

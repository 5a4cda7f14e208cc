//! Dead latents that start anew from what the SAE reconstructs worst (Bricken et al. 2023).
//!
//! Each dead latent takes a token, drawn with a probability that is proportional to its
//! squared loss and without replacement. Its encoder row becomes the direction of the
//! token's activation, a fifth as long as the living ones' mean; its decoder row that of
//! what is to be reconstructed, as long as the living ones' mean; its biases and moments
//! become 0.

use super::params::Name;
use super::spec::Variant;
use super::trainer::{Batch, SaeTrainer};
use crate::device::Real;
use crate::device::sae::SaeOps;
use crate::domain::Result;
use crate::domain::random::Stream;

/// Length of a new encoder row, in mean lengths of the living ones.
const ENCODER_LENGTH: f64 = 0.2;

/// A latent's new rows.
pub struct Fresh<R> {
    latent: u32,
    w_enc: Vec<R>,
    w_dec: Vec<R>,
}

/// What is to be resampled; nothing where `errors`, Σ(x̂ − y)² of each token, is empty.
pub fn plan<D: SaeOps>(
    trainer: &mut SaeTrainer<D>,
    device: &D,
    batch: &Batch<'_, D::Buf>,
    dead: &[u32],
    errors: &[f64],
) -> Result<Vec<Fresh<D::Real>>> {
    if errors.is_empty() || dead.is_empty() {
        return Ok(Vec::new());
    }
    let dims = trainer.dims;
    let stream = Stream::new(trainer.seed, "resample").child(trainer.steps);
    let tokens = draw(stream, errors, dead.len());
    let (params, norms) = (&trainer.params, &mut trainer.scratch.work.norms);
    let norms = norms.at_least(device, dims.d_sae)?;
    device.row_norms(&params.w_enc, dims.d_sae, dims.d_in, norms)?;
    let encoder_norm = living_mean(device.download(norms)?, dead, trainer.spec.decoder_norm);
    device.row_norms(&params.w_dec, dims.d_sae, dims.d_out, norms)?;
    let decoder_norm = living_mean(device.download(norms)?, dead, trainer.spec.decoder_norm);

    let b_dec = device.download(&params.b_dec)?;
    let mut fresh = Vec::with_capacity(tokens.len());
    for (&latent, token) in dead.iter().zip(tokens) {
        let mut x = vec![D::Real::default(); dims.d_in];
        device.read(batch.x, token * dims.d_in, &mut x)?;
        let mut y = x.clone();
        let center = trainer.spec.target.is_none().then_some(&b_dec[..]);
        if let Some(target) = batch.target.filter(|_| center.is_none()) {
            y.resize(dims.d_out, D::Real::default());
            device.read(target, token * dims.d_out, &mut y)?;
        }
        let [x_scale, y_scale] = trainer.scales;
        fresh.push(Fresh {
            latent,
            w_enc: direction(&x, x_scale, center, ENCODER_LENGTH * encoder_norm),
            w_dec: direction(&y, y_scale, Some(&b_dec), decoder_norm),
        });
    }
    Ok(fresh)
}

/// Writes the new rows, and resets moments and counters. Takes no memory on the device.
pub fn apply<D: SaeOps>(
    trainer: &mut SaeTrainer<D>,
    device: &D,
    plan: Vec<Fresh<D::Real>>,
) -> Result<()> {
    if plan.is_empty() {
        return Ok(());
    }
    let threshold = match &trainer.spec.variant {
        Variant::JumpRelu(jump) => jump.init_threshold,
        _ => 0.0,
    };
    for fresh in plan {
        let at = fresh.latent as usize;
        let moments = &mut trainer.moments;
        let params = trainer.params.each_mut();
        let moments = moments.first.each_mut().zip(moments.second.each_mut());
        for ((name, param), ((_, m), (_, v))) in params.zip(moments) {
            let row = match name {
                Name::WEnc => fresh.w_enc.clone(),
                Name::WDec => fresh.w_dec.clone(),
                Name::Threshold => vec![D::Real::from_f64(threshold)],
                Name::BEnc | Name::RMag | Name::BMag => vec![D::Real::default()],
                Name::BDec | Name::WSkip => continue,
            };
            let zeros = vec![D::Real::default(); row.len()];
            device.write(param, at * row.len(), &row)?;
            device.write(m, at * row.len(), &zeros)?;
            device.write(v, at * row.len(), &zeros)?;
        }
        trainer.dead.revive(fresh.latent);
    }
    trainer
        .optim
        .constrain(device, trainer.dims, &mut trainer.params)
}

/// Up to `count` tokens, drawn without replacement with weights `errors`²: those with
/// the largest u^(1/weight) (Efraimidis & Spirakis 2006).
fn draw(stream: Stream, errors: &[f64], count: usize) -> Vec<usize> {
    let key = |(token, error): (usize, &f64)| {
        let weight = error * error;
        let u = stream.uniform(token as u64).max(f64::MIN_POSITIVE);
        (u.ln() / weight.max(f64::MIN_POSITIVE), token)
    };
    let mut keys: Vec<(f64, usize)> = errors.iter().enumerate().map(key).collect();
    keys.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    keys.into_iter()
        .take(count)
        .map(|(_, token)| token)
        .collect()
}

/// Mean of the norms of latents that are not dead; `otherwise` where all are.
fn living_mean<R: Real>(norms: Vec<R>, dead: &[u32], otherwise: f64) -> f64 {
    let all: f64 = norms.iter().map(|n| n.to_f64()).sum();
    let of_dead: f64 = dead.iter().map(|&j| norms[j as usize].to_f64()).sum();
    match norms.len() - dead.len() {
        0 => otherwise,
        living => (all - of_dead) / living as f64,
    }
}

/// scale·row − center, made `length` long.
fn direction<R: Real>(row: &[R], scale: f64, center: Option<&[R]>, length: f64) -> Vec<R> {
    let value = |c: usize| scale * row[c].to_f64() - center.map_or(0.0, |m| m[c].to_f64());
    let values: Vec<f64> = (0..row.len()).map(value).collect();
    let norm = values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let factor = length / norm.max(f64::MIN_POSITIVE);
    values
        .into_iter()
        .map(|v| R::from_f64(v * factor))
        .collect()
}

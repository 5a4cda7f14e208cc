//! The trained SAE in the model's own units, with decoder rows of length 1: what is
//! evaluated and exported.
//!
//! With factors s_x, s_y of the activations and n_j = ‖w_dec\[j\]‖/s_y, in this order:
//! W_enc·s_x, W_dec/s_y, b_dec/s_y, W_skip·s_x/s_y; then row by row W_enc·n, b_enc·n,
//! W_dec/n, thresholds·n. Reconstructions stay what they were (in the model's units), and
//! activations become p·n_j.

use super::params::Dims;
use super::spec::{Pool, Variant};
use super::trainer::SaeTrainer;
use crate::device::Real;
use crate::device::sae::SaeOps;
use crate::domain::Result;

/// Decoder rows shorter than this are divided by it instead, as in SAELens.
const LEAST_NORM: f64 = 1e-8;

/// A trained SAE on the host. Matrices are row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Folded {
    /// Widths.
    pub dims: Dims,
    /// Encoder [d_sae, d_in].
    pub w_enc: Vec<f32>,
    /// Encoder bias \[d_sae\]; the gate's bias of a gated SAE.
    pub b_enc: Vec<f32>,
    /// Decoder [d_sae, d_out].
    pub w_dec: Vec<f32>,
    /// Decoder bias \[d_out\].
    pub b_dec: Vec<f32>,
    /// Skip connection [d_out, d_in].
    pub w_skip: Option<Vec<f32>>,
    /// Whether b_dec is subtracted from the input: in all but transcoders.
    pub subtract_b_dec: bool,
    /// From pre-activations to activations.
    pub activation: Activation,
}

/// From pre-activations p to activations a.
#[derive(Clone, Debug, PartialEq)]
pub enum Activation {
    /// a = max(p, 0).
    Relu,
    /// a = max(p, 0) for the k largest p of a token, else 0.
    TopK {
        /// k.
        k: usize,
    },
    /// a = p where p > threshold, else 0: how a BatchTopK SAE works outside its batch.
    BatchTopK {
        /// Mean number of active latents a token in training.
        k: f64,
        /// Running mean of the least activation that a batch chose.
        threshold: f32,
    },
    /// a = p where p > threshold_j, else 0.
    Jump {
        /// \[d_sae\].
        threshold: Vec<f32>,
    },
    /// a = max((p − b_enc)·e^r_mag + b_mag, 0) where p > 0, else 0.
    Gated {
        /// \[d_sae\].
        r_mag: Vec<f32>,
        /// \[d_sae\].
        b_mag: Vec<f32>,
    },
}

impl<D: SaeOps> SaeTrainer<D> {
    /// The SAE as it is now, in the model's units.
    ///
    /// A TopK SAE that chooses by p alone keeps its decoder norms: with them folded it
    /// would choose other latents.
    ///
    /// # Errors
    /// Those of reading the device.
    pub fn fold(&self, device: &D) -> Result<Folded> {
        let Dims { d_in, d_out, d_sae } = self.dims;
        let [s_x, s_y] = self.scales;
        let host = |buf: &D::Buf| -> Result<Vec<f64>> {
            Ok(device.download(buf)?.iter().map(|v| v.to_f64()).collect())
        };
        let times = |values: Vec<f64>, factor: f64| -> Vec<f32> {
            values.into_iter().map(|v| (v * factor) as f32).collect()
        };
        let mut w_dec = host(&self.params.w_dec)?;
        w_dec.iter_mut().for_each(|v| *v /= s_y);
        let norms = match &self.spec.variant {
            Variant::TopK(topk) if !topk.rescale => vec![1.0; d_sae],
            _ => norms(&w_dec, d_out),
        };
        let each = |values: Vec<f64>| -> Vec<f32> {
            let pairs = values.into_iter().zip(&norms);
            pairs.map(|(v, n)| (v * n) as f32).collect()
        };
        let mut w_enc = host(&self.params.w_enc)?;
        for (j, n) in norms.iter().enumerate() {
            let row = &mut w_enc[j * d_in..][..d_in];
            row.iter_mut().for_each(|v| *v *= s_x * n);
            let row = &mut w_dec[j * d_out..][..d_out];
            row.iter_mut().for_each(|v| *v /= n);
        }
        let activation = match (&self.spec.variant, &self.params.magnitude) {
            (Variant::TopK(topk), _) => match topk.pool {
                Pool::Token => Activation::TopK { k: topk.k as usize },
                Pool::Batch => Activation::BatchTopK {
                    k: topk.k,
                    threshold: match topk.rescale {
                        true => (self.theta.unwrap_or(0.0) / s_y) as f32,
                        false => self.theta.unwrap_or(0.0) as f32,
                    },
                },
            },
            (Variant::Gated { .. }, Some(magnitude)) => Activation::Gated {
                r_mag: times(host(&magnitude.r_mag)?, 1.0),
                b_mag: each(host(&magnitude.b_mag)?),
            },
            _ => match &self.params.threshold {
                Some(threshold) => Activation::Jump {
                    threshold: each(host(threshold)?),
                },
                None => Activation::Relu,
            },
        };
        let w_skip = self.params.w_skip.as_ref().map(host).transpose()?;
        Ok(Folded {
            dims: self.dims,
            w_enc: times(w_enc, 1.0),
            b_enc: each(host(&self.params.b_enc)?),
            w_dec: times(w_dec, 1.0),
            b_dec: times(host(&self.params.b_dec)?, 1.0 / s_y),
            w_skip: w_skip.map(|w| times(w, s_x / s_y)),
            subtract_b_dec: self.spec.target.is_none(),
            activation,
        })
    }
}

fn norms(w: &[f64], d: usize) -> Vec<f64> {
    let norm = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>().sqrt();
    w.chunks_exact(d)
        .map(|row| norm(row).max(LEAST_NORM))
        .collect()
}

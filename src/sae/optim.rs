//! From gradients to parameters: clipping, Adam, the decoder's unit norm.

use super::params::{Dims, Params};
use super::spec::{not_negative, positive};
use crate::device::sae::{AdamStep, SaeOps};
use crate::domain::{Code, Error, Result};
use serde::{Deserialize, Serialize};

/// The `[optimizer]` table of `run.toml`: Adam in f32, whatever the activations' dtype.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimSpec {
    /// Learning rate, before the schedule.
    pub lr: f64,
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Longest gradient, over all parameters together; 0 for no limit.
    pub clip_norm: f64,
    /// Whether decoder rows move freely.
    pub decoder: DecoderNorm,
}

/// Whether decoder rows move freely.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecoderNorm {
    /// They do.
    #[default]
    Free,
    /// Each has length 1: the gradient's component along the row is removed before
    /// clipping, and rows are scaled back after every step.
    Unit,
}

impl Default for OptimSpec {
    fn default() -> Self {
        Self {
            lr: 3e-4,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            clip_norm: 1.0,
            decoder: DecoderNorm::Free,
        }
    }
}

impl OptimSpec {
    /// Whether the settings can be used.
    ///
    /// # Errors
    /// `config-invalid` about the key.
    pub fn validate(&self) -> Result<()> {
        not_negative("lr", self.lr)?;
        for (key, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&beta) {
                let message = format_args!("{beta} is not within 0 and 1 (exclusive)");
                return Err(Error::new(Code::ConfigInvalid, key, message));
            }
        }
        positive("eps", self.eps)?;
        not_negative("weight_decay", self.weight_decay)?;
        not_negative("clip_norm", self.clip_norm)
    }

    /// Removes from the decoder's gradient what the unit norm would undo.
    pub(super) fn project<D: SaeOps>(
        &self,
        device: &D,
        dims: Dims,
        params: &Params<D::Buf>,
        grads: &mut Params<D::Buf>,
    ) -> Result<()> {
        match self.decoder {
            DecoderNorm::Free => Ok(()),
            DecoderNorm::Unit => {
                device.project_rows(&params.w_dec, dims.d_sae, dims.d_out, &mut grads.w_dec)
            }
        }
    }

    /// Step number `step` (from 1) of Adam. Allocates nothing.
    pub(super) fn apply<D: SaeOps>(
        &self,
        device: &D,
        dims: Dims,
        at: Update,
        params: &mut Params<D::Buf>,
        grads: &Params<D::Buf>,
        moments: &mut Moments<D::Buf>,
    ) -> Result<()> {
        let steps = at.step as f64;
        let adam = AdamStep {
            lr: at.lr,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            decay: self.weight_decay,
            correction1: 1.0 - self.beta1.powf(steps),
            correction2: 1.0 - self.beta2.powf(steps),
            grad_scale: self.kept(at.grad_norm),
        };
        let moments = moments.first.each_mut().zip(moments.second.each_mut());
        let each = params.each_mut().zip(grads.each()).zip(moments);
        for (((_, param), (_, grad)), ((_, m), (_, v))) in each {
            device.adam(&adam, param, grad, m, v)?;
        }
        if let Some(threshold) = &mut params.threshold {
            device.clamp_below(threshold, 0.0)?;
        }
        self.constrain(device, dims, params)
    }

    /// Makes decoder rows as long as they have to be.
    pub(super) fn constrain<D: SaeOps>(
        &self,
        device: &D,
        dims: Dims,
        params: &mut Params<D::Buf>,
    ) -> Result<()> {
        match self.decoder {
            DecoderNorm::Free => Ok(()),
            DecoderNorm::Unit => device.normalize_rows(&mut params.w_dec, dims.d_sae, dims.d_out),
        }
    }

    /// What clipping leaves of a gradient of length `norm`, as PyTorch has it.
    fn kept(&self, norm: f64) -> f64 {
        if self.clip_norm > 0.0 {
            (self.clip_norm / (norm + 1e-6)).min(1.0)
        } else {
            1.0
        }
    }
}

/// One update.
#[derive(Clone, Copy, Debug)]
pub(super) struct Update {
    /// Number of the step, from 1.
    pub step: u64,
    /// Learning rate.
    pub lr: f64,
    /// Length of the gradient.
    pub grad_norm: f64,
}

/// Adam's moments.
pub(super) struct Moments<B> {
    /// m.
    pub first: Params<B>,
    /// v.
    pub second: Params<B>,
}

/// Later the square of the gradient's length over all parameters.
pub(super) fn grad_square<D: SaeOps>(
    device: &D,
    dims: Dims,
    grads: &Params<D::Buf>,
) -> Result<D::Later> {
    let each = grads.each();
    let buffers: Vec<_> = each.map(|(name, grad)| (grad, dims.len(name))).collect();
    device.sum_squares(&buffers)
}

//! Forward and backward of one batch.
//!
//! Notation: p = (x − b_dec)·W_encᵀ + b_enc, x̂ = a·W_dec + b_dec, n_j = ‖w_dec\[j\]‖, B
//! tokens in the batch; transcoders do not subtract b_dec from x. Losses are sums over the
//! width and means over the batch.
//!
//! A batch may be taken in micro-batches. Gradients and losses are then still those of
//! the whole batch, up to rounding: every factor 1/B is the batch's own, and the TopK
//! variants choose their latents over the whole batch before it is cut.

mod parts;
mod variants;

use super::params::{Dims, Params};
use super::spec::{SaeSpec, Variant};
use super::work::{CodeSets, Work};
use crate::device::Real;
use crate::device::sae::{Rows, SaeOps};
use crate::domain::Result;
use crate::domain::schedule::StepSettings;
use std::collections::BTreeMap;

/// What a batch is passed through.
pub struct Pass<'a, D: SaeOps> {
    /// The backend.
    pub device: &'a D,
    /// The settings.
    pub spec: &'a SaeSpec,
    /// The widths.
    pub dims: Dims,
    /// The parameters.
    pub params: &'a Params<D::Buf>,
    /// What is in force at this step.
    pub settings: StepSettings,
    /// Tokens of the whole batch, B.
    pub tokens: usize,
    /// Dead latents.
    pub dead: Dead<'a, D::Ints>,
    /// Whether [`Losses::token_errors`] is wanted.
    pub token_errors: bool,
    /// Factor of gradients that the device rounds.
    pub loss_scale: f64,
    /// Whether the device may guess codes, and later say that it was wrong.
    pub guess: bool,
}

/// Dead latents on the device.
pub struct Dead<'a, I> {
    /// Their numbers, ascending.
    pub list: &'a I,
    /// How many.
    pub count: usize,
    /// 1 for dead ones \[d_sae\].
    pub flags: &'a I,
}

/// Where a pass leaves its results.
pub struct Results<'a, D: SaeOps> {
    /// Scratch memory.
    pub work: &'a mut Work<D>,
    /// Gradients; overwritten.
    pub grads: &'a mut Params<D::Buf>,
    /// How often each latent fired \[d_sae\]; added to.
    pub fired: &'a mut D::Ints,
    /// Losses and counts; added to.
    pub losses: Pending<D::Later>,
}

/// Losses and counts of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Losses {
    /// Parts of the loss, by the peers' names; the loss is their sum.
    pub parts: BTreeMap<String, f64>,
    /// Σ ‖x̂ − y‖².
    pub squared_error: f64,
    /// Number of active (token, latent) pairs.
    pub active: u64,
    /// BatchTopK: the smallest positive key that was chosen.
    pub least_key: Option<f64>,
    /// ‖x̂ − y‖² of each token, where it was asked for.
    pub token_errors: Vec<f64>,
    /// Something in the batch is too large for the format that the device multiplies.
    pub(super) too_large: bool,
    /// Codes were guessed, and all of this, the gradients too, belongs to wrong ones.
    pub(super) wrong: bool,
}

/// What numbers add to losses.
type Then = Box<dyn FnOnce(&[f64], &mut Losses)>;

/// Losses of which the device may not have all numbers yet.
pub struct Pending<L> {
    known: Losses,
    later: Vec<L>,
    then: Vec<Then>,
}

impl<L> Default for Pending<L> {
    fn default() -> Self {
        Self {
            known: Losses::default(),
            later: Vec::new(),
            then: Vec::new(),
        }
    }
}

impl<L> Pending<L> {
    fn add(&mut self, later: L, then: impl FnOnce(&[f64], &mut Losses) + 'static) {
        self.later.push(later);
        self.then.push(Box::new(then));
    }

    /// Adds one number to a part of the loss.
    fn add_part(&mut self, part: &'static str, later: L) {
        self.add(later, move |sums, losses| losses.add(part, sums[0]));
    }

    /// What is waited for.
    pub fn take(&mut self) -> Vec<L> {
        std::mem::take(&mut self.later)
    }

    /// The losses, given the numbers of what was taken.
    pub fn finish(self, numbers: &[Vec<f64>]) -> Losses {
        let mut losses = self.known;
        for (then, numbers) in self.then.into_iter().zip(numbers) {
            then(numbers, &mut losses);
        }
        losses
    }
}

impl Losses {
    /// The loss.
    pub fn total(&self) -> f64 {
        self.parts.values().sum()
    }

    fn add(&mut self, part: &str, value: f64) {
        *self.parts.entry(part.to_owned()).or_default() += value;
    }
}

/// A micro-batch.
struct Part<'a, B> {
    x: Rows<'a, B>,
    y: Rows<'a, B>,
    /// Its first token's place in the batch.
    at: usize,
    /// Whether gradients of earlier micro-batches are there to be added to.
    more: bool,
}

impl<D: SaeOps> Pass<'_, D> {
    /// Gradients and losses of the batch `x` with target `y`, `micro` tokens at a time.
    ///
    /// # Errors
    /// `out-of-memory`. Parameters are never written here.
    pub fn run(
        &self,
        x: Rows<'_, D::Buf>,
        y: Rows<'_, D::Buf>,
        micro: usize,
        codes: &mut CodeSets<D>,
        to: &mut Results<'_, D>,
    ) -> Result<()> {
        let largest = self
            .device
            .largest_rounded(x, self.center(), self.dims.d_in)?;
        if let Some(largest) = largest {
            let check = |largest: &[f64], losses: &mut Losses| {
                losses.too_large = !largest[0].is_finite();
            };
            to.losses.add(largest, check);
        }
        self.prepare(x, codes, to)?;
        let micro = micro.clamp(1, self.tokens);
        for first in (0..self.tokens).step_by(micro) {
            let count = micro.min(self.tokens - first);
            let part = Part {
                x: x.part(first, count),
                y: y.part(first, count),
                at: first,
                more: first > 0,
            };
            match &self.spec.variant {
                Variant::TopK(topk) => self.topk(topk, &part, codes, to)?,
                Variant::Standard { l1_coefficient } => {
                    self.encode_above(part.x, codes, to)?;
                    self.standard(*l1_coefficient, &part, &codes.main, to)?;
                }
                Variant::JumpRelu(jump) => {
                    self.encode_above(part.x, codes, to)?;
                    self.jumprelu(jump, &part, &codes.main, to)?;
                }
                Variant::Gated { l1_coefficient } => {
                    self.encode_above(part.x, codes, to)?;
                    self.gated(*l1_coefficient, &part, &codes.main, to)?;
                }
            }
            if self.token_errors {
                self.add_token_errors(part.y, to)?;
            }
        }
        self.finish(to)
    }

    fn add_token_errors(&self, y: Rows<'_, D::Buf>, to: &mut Results<'_, D>) -> Result<()> {
        let d = self.dims.d_out;
        let mut target = vec![D::Real::default(); y.count * d];
        let mut out = target.clone();
        self.device.read(y.buf, y.first * d, &mut target)?;
        self.device.read(to.work.out.get(), 0, &mut out)?;
        for (y, out) in target.chunks_exact(d).zip(out.chunks_exact(d)) {
            let squares = y
                .iter()
                .zip(out)
                .map(|(y, x)| (x.to_f64() - y.to_f64()).powi(2));
            to.losses.known.token_errors.push(squares.sum());
        }
        Ok(())
    }

    /// Terms that are linear in the gradients of the batch, added once: what reaches b_dec
    /// through the encoder, −W_encᵀ·Σ_b dp, and what reaches w_dec through its norm.
    fn finish(&self, to: &mut Results<'_, D>) -> Result<()> {
        let Dims { d_in, d_out, d_sae } = self.dims;
        if self.center().is_some() {
            let sums = match self.spec.variant {
                Variant::Gated { .. } => to.work.dp_sums.get(),
                _ => &to.grads.b_enc,
            };
            let (w_enc, b_dec) = (&self.params.w_enc, &mut to.grads.b_dec);
            self.device
                .add_matvec_t(w_enc, d_sae, d_in, sums, -1.0, b_dec)?;
        }
        match self.spec.variant {
            Variant::TopK(_) => Ok(()),
            _ => self.device.add_norm_grad(
                &self.params.w_dec,
                d_sae,
                d_out,
                to.work.norm_sums.get(),
                &mut to.grads.w_dec,
            ),
        }
    }
}

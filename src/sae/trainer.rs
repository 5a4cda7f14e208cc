//! One SAE in training: parameters, moments, counters, and its step.

use super::dead::{DeadLatents, Told};
use super::init::{self, Sample};
use super::optim::{Moments, OptimSpec, Update, grad_square};
use super::params::{Dims, Name, Params};
use super::resample;
use super::spec::SaeSpec;
use super::step::{Dead, Losses, Pass, Pending, Results};
use super::work::{CodeSets, Scratch, Work};
use crate::device::sae::{Rows, SaeOps};
use crate::domain::loss_scale::{Decided, LossScale};
use crate::domain::schedule::StepSettings;
use crate::domain::{Code, Error, Result};
use std::collections::BTreeMap;

/// Weight of a new observation in the running mean of BatchTopK's threshold.
const THETA_RATE: f64 = 0.01;
/// Steps without a guess after one that guessed wrong: batches resemble each other.
const DOUBT: u32 = 64;

/// Activations of one step, in the units of the model.
#[derive(Clone, Copy)]
pub struct Batch<'a, B> {
    /// Activations [tokens, d_in].
    pub x: &'a B,
    /// What a transcoder reconstructs [tokens, d_out]; ignored by other SAEs.
    pub target: Option<&'a B>,
    /// Number of tokens.
    pub tokens: usize,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The parameters moved.
    Done(StepReport),
    /// Something was NaN or infinite; nothing has changed, neither parameters nor
    /// counters, and the same trainer can go on with another batch.
    NonFinite {
        /// `activations`, `rounded activations`, `loss` or `gradient`.
        what: &'static str,
    },
    /// The gradient was too large for the loss scale, which has fallen; nothing else has changed.
    Overflow {
        /// The scale of the next step.
        loss_scale: f64,
    },
}

/// Measures of a step, in training units.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// The loss that was minimised.
    pub loss: f64,
    /// Its parts, by the peers' names.
    pub parts: BTreeMap<String, f64>,
    /// Mean number of active latents a token.
    pub l0: f64,
    /// Σ‖x̂ − y‖² / Σ‖y − mean y‖² over the batch; NaN where the batch has no variance.
    pub fvu: f64,
    /// 1 − FVU.
    pub explained_variance: f64,
    /// Dead latents before the step.
    pub dead: usize,
    /// Length of the gradient before clipping.
    pub grad_norm: f64,
    /// Latents that started anew after the step.
    pub resampled: usize,
    /// The loss scale that the step was made with, where there is one.
    pub loss_scale: Option<f64>,
}

/// One SAE in training.
pub struct SaeTrainer<D: SaeOps> {
    pub(super) spec: SaeSpec,
    pub(super) optim: OptimSpec,
    pub(super) dims: Dims,
    pub(super) seed: u64,
    pub(super) params: Params<D::Buf>,
    pub(super) grads: Params<D::Buf>,
    pub(super) moments: Moments<D::Buf>,
    pub(super) dead: DeadLatents,
    /// BatchTopK's threshold on p·n, before the first step `None`.
    pub(super) theta: Option<f64>,
    /// Steps done.
    pub(super) steps: u64,
    /// Factors of x and y in training.
    pub(super) scales: [f64; 2],
    /// Where gradients are held in fp16.
    pub(super) loss_scale: Option<LossScale>,
    fired: D::Ints,
    told: Told<D>,
    /// Steps to come that do not guess.
    doubt: u32,
    pub(super) scratch: Memory<D>,
}

/// What a trainer can give back at any time between steps.
pub(super) struct Memory<D: SaeOps> {
    pub work: Work<D>,
    pub codes: CodeSets<D>,
    pub x: Scratch<D::Buf>,
    pub target: Scratch<D::Buf>,
}

impl<D: SaeOps> Memory<D> {
    fn new(device: &D) -> Self {
        Self {
            work: Work::new(),
            codes: CodeSets::new(device),
            x: Scratch::new(),
            target: Scratch::new(),
        }
    }
}

impl<D: SaeOps> SaeTrainer<D> {
    /// A fresh SAE between activations of width `d_in` and `d_out` (the same, but for
    /// transcoders). `sample` fixes factors and b_dec; the same seed and sample give the
    /// same SAE.
    ///
    /// # Errors
    /// `config-invalid` about a key of either table; `out-of-memory`.
    pub fn new(
        device: &D,
        spec: &SaeSpec,
        optim: &OptimSpec,
        d_in: usize,
        d_out: usize,
        seed: u64,
        sample: Sample<'_, D::Real>,
    ) -> Result<Self> {
        let d_sae = spec.d_sae;
        let dims = Dims { d_in, d_out, d_sae };
        let target = sample.target.unwrap_or(sample.x);
        let scales = [
            init::factor(spec.normalize, sample.x, d_in),
            init::factor(spec.normalize, target, d_out),
        ];
        Self::with_start(device, spec, optim, dims, seed, scales, |name| {
            device.upload(&init::start(spec, dims, seed, name, target, scales[1]))
        })
    }

    /// As [`SaeTrainer::new`], with start values of the caller's: `start` gives each parameter, of
    /// [`Dims::len`] numbers. `scales` are the factors of x and y in training.
    ///
    /// # Errors
    /// As [`SaeTrainer::new`], and those of `start`.
    pub fn with_start(
        device: &D,
        spec: &SaeSpec,
        optim: &OptimSpec,
        dims: Dims,
        seed: u64,
        scales: [f64; 2],
        start: impl FnMut(Name) -> Result<D::Buf>,
    ) -> Result<Self> {
        spec.validate()?;
        optim.validate()?;
        let Dims { d_in, d_out, d_sae } = dims;
        if spec.target.is_none() && d_in != d_out {
            let message = format_args!("activations of width {d_in} and {d_out} need a target");
            return Err(Error::new(Code::ConfigInvalid, "target", message));
        }
        let zeros = || Params::build(spec, |name| device.zeros(dims.len(name)));
        let params = Params::build(spec, start)?;
        let mut trainer = Self {
            params,
            grads: zeros()?,
            moments: Moments {
                first: zeros()?,
                second: zeros()?,
            },
            dead: DeadLatents::new(d_sae, spec.dead_after),
            theta: None,
            steps: 0,
            scales,
            loss_scale: device.scales_loss().then(LossScale::default),
            fired: device.zero_ints(d_sae)?,
            told: Told::new(device, d_sae)?,
            doubt: 0,
            scratch: Memory::new(device),
            spec: spec.clone(),
            optim: optim.clone(),
            dims,
            seed,
        };
        optim.constrain(device, dims, &mut trainer.params)?;
        Ok(trainer)
    }

    /// Widths.
    pub fn dims(&self) -> Dims {
        self.dims
    }

    /// Settings.
    pub fn spec(&self) -> &SaeSpec {
        &self.spec
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The parameters, in training units.
    pub fn params(&self) -> &Params<D::Buf> {
        &self.params
    }

    /// The gradients of the last [`SaeTrainer::gradients`] or [`SaeTrainer::step`].
    pub fn grads(&self) -> &Params<D::Buf> {
        &self.grads
    }

    /// Latents that are dead now, ascending.
    pub fn dead(&self) -> Vec<u32> {
        self.dead.list()
    }

    /// One optimiser step on `batch`, `micro` tokens at a time.
    ///
    /// # Errors
    /// `out-of-memory`: parameters, moments, counters and the loss scale are as before, and scratch
    /// memory is given back, so that the same step can run again with a smaller `micro`.
    pub fn step(
        &mut self,
        device: &D,
        batch: &Batch<'_, D::Buf>,
        micro: usize,
        settings: &StepSettings,
    ) -> Result<Outcome> {
        let result = self.try_step(device, batch, micro, settings);
        if let Err(error) = &result
            && error.code == Code::OutOfMemory
        {
            self.scratch = Memory::new(device);
        }
        result
    }

    fn try_step(
        &mut self,
        device: &D,
        batch: &Batch<'_, D::Buf>,
        micro: usize,
        settings: &StepSettings,
    ) -> Result<Outcome> {
        let dead = self.dead.list();
        let guess = self.doubt == 0;
        self.doubt = self.doubt.saturating_sub(1);
        let mut measures = self.measure(device, batch, micro, settings, &dead, guess)?;
        if measures.losses.wrong {
            self.doubt = DOUBT;
            measures = self.measure(device, batch, micro, settings, &dead, false)?;
        }
        let Measures {
            spread,
            losses,
            grad_norm,
            fired,
        } = measures;
        if !spread.is_finite() {
            return Ok(Outcome::NonFinite {
                what: "activations",
            });
        }
        if losses.too_large {
            return Ok(Outcome::NonFinite {
                what: "rounded activations",
            });
        }
        let loss = losses.total();
        if !(loss.is_finite() && losses.squared_error.is_finite()) {
            return Ok(Outcome::NonFinite { what: "loss" });
        }
        if !grad_norm.is_finite() {
            // All else is finite: where the scale can be the reason, it is taken for it.
            return Ok(match self.loss_scale.filter(|scale| scale.can_fall()) {
                Some(scale) => {
                    let lower = scale.after(Decided::Overflowed);
                    self.loss_scale = Some(lower);
                    Outcome::Overflow {
                        loss_scale: lower.scale(),
                    }
                }
                None => Outcome::NonFinite { what: "gradient" },
            });
        }
        let plan = resample::plan(self, device, batch, &dead, &losses.token_errors)?;

        // Nothing below takes memory.
        let update = Update {
            step: self.steps + 1,
            lr: settings.lr,
            grad_norm,
        };
        let (params, grads, moments) = (&mut self.params, &self.grads, &mut self.moments);
        self.optim
            .apply(device, self.dims, update, params, grads, moments)?;
        self.steps += 1;
        let used = self.loss_scale;
        self.loss_scale = used.map(|scale| scale.after(Decided::Moved));
        self.dead.advance(&fired, batch.tokens);
        if let Some(least) = losses.least_key {
            let old = self.theta.unwrap_or(least);
            self.theta = Some(old + THETA_RATE * (least - old));
        }
        let resampled = plan.len();
        resample::apply(self, device, plan)?;

        let y_scale = self.scales[1];
        let fvu = losses.squared_error / (spread * y_scale * y_scale);
        Ok(Outcome::Done(StepReport {
            loss,
            l0: losses.active as f64 / batch.tokens as f64,
            parts: losses.parts,
            fvu: if spread > 0.0 { fvu } else { f64::NAN },
            explained_variance: if spread > 0.0 { 1.0 - fvu } else { f64::NAN },
            dead: dead.len(),
            grad_norm,
            resampled,
            loss_scale: used.map(LossScale::scale),
        }))
    }

    /// Losses of `batch`, and its gradients to [`SaeTrainer::grads`]; changes nothing else.
    ///
    /// # Errors
    /// `out-of-memory`.
    pub fn gradients(
        &mut self,
        device: &D,
        batch: &Batch<'_, D::Buf>,
        micro: usize,
        settings: &StepSettings,
    ) -> Result<Losses> {
        let dead = self.dead.list();
        let mut pending = self.begin(device, batch, micro, settings, &dead, false)?;
        let numbers = device.numbers(pending.take())?;
        Ok(pending.finish(&numbers))
    }

    /// All of a step that changes no parameters, with one wait.
    fn measure(
        &mut self,
        device: &D,
        batch: &Batch<'_, D::Buf>,
        micro: usize,
        settings: &StepSettings,
        dead: &[u32],
        guess: bool,
    ) -> Result<Measures> {
        let mut later = self.spreads(device, batch)?;
        let mut pending = self.begin(device, batch, micro, settings, dead, guess)?;
        self.optim
            .project(device, self.dims, &self.params, &mut self.grads)?;
        later.push(grad_square(device, self.dims, &self.grads)?);
        // The device goes through all of it before anybody waits.
        let own = later.len();
        later.extend(pending.take());
        let mut fired = vec![0; self.dims.d_sae];
        let numbers = device.numbers_and_counts(later, &self.fired, &mut fired)?;
        let (own, of_losses) = numbers.split_at(own);
        let (spreads, square) = own.split_at(own.len() - 1);
        // Of a transcoder's input it matters whether it is finite.
        let unfit = spreads.iter().find(|spread| !spread[0].is_finite());
        Ok(Measures {
            spread: unfit.unwrap_or(&spreads[spreads.len() - 1])[0],
            losses: pending.finish(of_losses),
            grad_norm: square[0][0].sqrt(),
            fired,
        })
    }

    /// Gives the device all work of [`SaeTrainer::gradients`].
    fn begin(
        &mut self,
        device: &D,
        batch: &Batch<'_, D::Buf>,
        micro: usize,
        settings: &StepSettings,
        dead: &[u32],
        guess: bool,
    ) -> Result<Pending<D::Later>> {
        let target = self.target_of(batch)?;
        self.told.tell(device, self.dims.d_sae, dead)?;
        let token_errors = self.resamples_next() && !dead.is_empty();
        let memory = &mut self.scratch;
        let (Dims { d_in, d_out, .. }, tokens) = (self.dims, batch.tokens);
        let scaled = |rows, d, factor, out| in_training_units(device, rows, d, factor, out);
        let x = Rows::of(batch.x, tokens);
        let x = scaled(x, d_in, self.scales[0], &mut memory.x)?;
        let y = match target {
            Some(target) => {
                let y = Rows::of(target, tokens);
                scaled(y, d_out, self.scales[1], &mut memory.target)?
            }
            None => x,
        };
        device.clear_ints(&mut self.fired)?;
        let pass = Pass {
            device,
            spec: &self.spec,
            dims: self.dims,
            params: &self.params,
            settings: *settings,
            tokens,
            dead: Dead {
                list: &self.told.list,
                count: dead.len(),
                flags: &self.told.flags,
            },
            token_errors,
            loss_scale: self.loss_scale.map_or(1.0, LossScale::scale),
            guess,
        };
        let mut results = Results {
            work: &mut memory.work,
            grads: &mut self.grads,
            fired: &mut self.fired,
            losses: Pending::default(),
        };
        pass.run(x, y, micro, &mut memory.codes, &mut results)?;
        Ok(results.losses)
    }

    /// Whether the next step ends with a resampling.
    fn resamples_next(&self) -> bool {
        let every = self.spec.resample_every;
        every > 0 && (self.steps + 1).is_multiple_of(every)
    }

    /// What a transcoder reconstructs.
    fn target_of<'a>(&self, batch: &Batch<'a, D::Buf>) -> Result<Option<&'a D::Buf>> {
        let wrong = |message| Err(Error::new(Code::Internal, "batch", message));
        match (self.spec.target.is_some(), batch.target) {
            _ if batch.tokens == 0 => wrong("it has no tokens"),
            (true, None) => wrong("a transcoder needs activations to reconstruct"),
            (true, target) => Ok(target),
            (false, _) => Ok(None),
        }
    }

    /// Variances of the activations, that of what is to be reconstructed last; not finite where
    /// any activation is.
    fn spreads(&self, device: &D, batch: &Batch<'_, D::Buf>) -> Result<Vec<D::Later>> {
        let target = self.target_of(batch)?;
        let input = device.spread(Rows::of(batch.x, batch.tokens), self.dims.d_in)?;
        let target = target
            .map(|target| device.spread(Rows::of(target, batch.tokens), self.dims.d_out))
            .transpose()?;
        Ok(std::iter::once(input).chain(target).collect())
    }
}

/// What a step is decided by.
struct Measures {
    /// Variance of what is to be reconstructed; not finite where any activation is.
    spread: f64,
    losses: Losses,
    grad_norm: f64,
    /// How often each latent fired.
    fired: Vec<u32>,
}

/// `rows` times `factor`.
fn in_training_units<'a, D: SaeOps>(
    device: &D,
    rows: Rows<'a, D::Buf>,
    d: usize,
    factor: f64,
    out: &'a mut Scratch<D::Buf>,
) -> Result<Rows<'a, D::Buf>> {
    if factor == 1.0 {
        return Ok(rows);
    }
    let buf = out.at_least(device, rows.count * d)?;
    device.scaled(rows, d, factor, buf)?;
    Ok(Rows::of(out.get(), rows.count))
}

//! From contexts to batches of activations, and back to measures of them.

use super::Job;
use super::context::Context;
use super::feed::Source;
use super::prepare::Prepared;
use super::site::Site;
use crate::activations::{Live, LmCapture, Order, cache, cache::Identity, model_hash};
use crate::config::RunConfig;
use crate::data::{Context as TextContext, TokenSet};
use crate::device::lm::LmOps;
use crate::device::sae::SaeOps;
use crate::domain::{Code, Error, Precision, Result};
use crate::eval::{self, Autoencoder, HeldOut, Measured};
use crate::lm::{HookPoint, Lm};
use crate::protocol::Stage;
use crate::sae::{Inference, SaeTrainer, Sample};
use std::sync::{Mutex, MutexGuard};

/// The language model at work for a run.
pub struct Pipeline<'a, D: SaeOps<Real = f32> + LmOps> {
    device: &'a D,
    config: &'a RunConfig,
    lm: &'a Mutex<Lm<D>>,
    hooks: Vec<HookPoint>,
    /// Batches of activations.
    pub source: Box<Source<'a, D>>,
    held_out: Vec<TextContext>,
}

impl<'a, D: SaeOps<Real = f32> + LmOps> Pipeline<'a, D> {
    /// Captures from `lm`, or reads the activation cache, which it fills first where it
    /// lacks rows.
    ///
    /// # Errors
    /// Those of the cache and of capture.
    pub fn new(
        device: &'a D,
        lm: &'a Mutex<Lm<D>>,
        job: &'a Job,
        prepared: &Prepared,
        context: &mut Context<'_>,
    ) -> Result<Self> {
        let config = &job.config;
        let held_out = held_out(config, &prepared.tokens);
        if held_out.is_empty() {
            context.warn("no context is held out: nothing will be measured on unseen text");
        }
        let order = Order {
            seed: config.seed,
            batch: config.training.batch_size,
            window_batches: config.activations.window_batches,
            lm_batch: config.activations.lm_batch,
            keep: prepared.estimate.keep,
        };
        let live = || {
            let names: Vec<String> = prepared.captured.iter().map(|s| s.hook.clone()).collect();
            let capture = LmCapture::new(device, lm, &names)?;
            Live::new(device, prepared.tokens.clone(), capture, order)
        };
        let source: Box<Source<'a, D>> = match &config.activations.cache {
            None => Box::new(live()?),
            Some(folder) => {
                let identity = Identity {
                    model: model_hash(&config.model.path)?,
                    precision: config.model.precision,
                    data: prepared.tokens.key().to_owned(),
                    seed: config.seed,
                    window_rows: order.window_rows() as u64,
                    dtype: config.activations.cache_dtype,
                    sites: prepared.captured.clone(),
                };
                let steps = config
                    .training
                    .total_steps(prepared.tokens.training_tokens());
                let rows = steps * order.batch as u64;
                let stage = Stage::CachingActivations;
                let mut tell = |done, total| context.progress(stage, done, Some(total));
                let batch = order.batch;
                Box::new(cache::open_or_build(
                    folder, &identity, rows, batch, live, &mut tell,
                )?)
            }
        };
        Ok(Self {
            device,
            config,
            lm,
            hooks: prepared.hooks.clone(),
            source,
            held_out,
        })
    }

    /// How the language model's weights are held.
    ///
    /// # Errors
    /// `internal` where a pass was left in its middle.
    pub fn precision(&self) -> Result<Precision> {
        Ok(self.lm()?.precision())
    }

    fn lm(&self) -> Result<MutexGuard<'a, Lm<D>>> {
        let message = "the language model was left in the middle of a pass";
        self.lm
            .lock()
            .map_err(|_| Error::new(Code::Internal, "model", message))
    }

    /// Fresh autoencoders. With `sample`, a first batch fixes their normalisation and
    /// biases, and the source is put back before it; without, a checkpoint is to follow.
    ///
    /// # Errors
    /// Those of capture; `config-invalid`; `out-of-memory`.
    pub fn sites(&mut self, sample: bool, context: &mut Context<'_>) -> Result<Vec<Site<D>>> {
        context.progress(Stage::Initializing, 0, Some(1))?;
        let mut first = vec![Vec::new(); self.hooks.len()];
        if sample {
            let cursor = self.source.cursor();
            self.source.next_batch(&mut first)?;
            self.source.seek(&cursor)?;
        }
        let lm = self.lm()?;
        let d = lm.spec().d_model;
        let mut sites = Vec::new();
        for (index, name) in self.config.model.hooks.iter().enumerate() {
            let hook = lm.spec().hook(name)?;
            let target = lm.spec().hook(&self.config.target_of(name))?;
            let at = |hook| self.hooks.partition_point(|h| *h < hook);
            let (input, output) = (at(hook), at(target));
            let sample = Sample {
                x: &first[input],
                target: (input != output).then_some(first[output].as_slice()),
            };
            let seed = self.config.seed.wrapping_add(index as u64);
            let (sae, optimizer) = (&self.config.sae, &self.config.optimizer);
            sites.push(Site {
                name: name.clone(),
                hook,
                target,
                input,
                output,
                trainer: SaeTrainer::new(self.device, sae, optimizer, d, d, seed, sample)?,
            });
        }
        context.progress(Stage::Initializing, 1, Some(1))?;
        Ok(sites)
    }

    /// Measures on held-out text; nothing where none is held out.
    ///
    /// # Errors
    /// Those of the model and of the autoencoders.
    pub fn measure(
        &self,
        sites: &[Site<D>],
        context: &mut Context<'_>,
    ) -> Result<Option<Measured>> {
        if self.held_out.is_empty() {
            return Ok(None);
        }
        let mut folded = Vec::new();
        for site in sites {
            let folded_sae = site.trainer.fold(self.device)?;
            folded.push(Inference::new(self.device, &folded_sae)?);
        }
        let mut autoencoders: Vec<&mut dyn Autoencoder<D>> = folded
            .iter_mut()
            .map(|f| f as &mut dyn Autoencoder<D>)
            .collect();
        let places: Vec<eval::Site> = sites.iter().map(Site::place).collect();
        let held_out = HeldOut {
            contexts: &self.held_out,
            lm_batch: self.config.activations.lm_batch,
        };
        let measured = eval::evaluate(
            self.device,
            &mut *self.lm()?,
            &held_out,
            &places,
            &mut autoencoders,
            &mut |done, total| context.progress(Stage::Evaluating, done, Some(total)),
        )?;
        Ok(Some(measured))
    }
}

/// The held-out contexts that are measured: evenly spread over those that there are.
fn held_out(config: &RunConfig, tokens: &TokenSet) -> Vec<TextContext> {
    let have = tokens.held_out_contexts();
    let count = have.min(config.eval.contexts as u64);
    (0..count)
        .map(|i| tokens.held_out_context(i * have / count))
        .collect()
}

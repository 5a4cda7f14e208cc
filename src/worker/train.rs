//! The run loop: step, measure, save, obey.

use super::Job;
use super::context::{Context, Wish};
use super::estimate::Estimate;
use super::feed::Feed;
use super::finish;
use super::folder::RunFolder;
use super::metrics::{self, Metrics};
use super::pipeline::Pipeline;
use super::prepare::Prepared;
use super::site::{Site, Stepped};
use super::state::{self, State};
use crate::config::NonFinitePolicy;
use crate::device::lm::LmOps;
use crate::device::sae::SaeOps;
use crate::domain::early_stopping::Stopper;
use crate::domain::micro_batch::{AfterOom, MicroBatch};
use crate::domain::{Code, Error, Result};
use crate::eval::Measured;
use crate::lm::Lm;
use crate::protocol::{Ending, Fact, OutOfMemory, SiteStep, Stage, Step, Validation};
use crate::system::memory;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

/// Prepares `job`, trains it to its end, and says how it ended.
///
/// # Errors
/// Whatever ended the run.
pub fn train<D>(device: &D, job: &Job, context: &mut Context<'_>) -> Result<()>
where
    D: SaeOps<Real = f32> + LmOps,
{
    let prepared = Prepared::new(device, job, context)?;
    context.progress(Stage::LoadingModel, 0, Some(1))?;
    let lm = Mutex::new(Lm::load_as(
        device,
        &job.config.model.path,
        job.config.model.precision,
    )?);
    context.progress(Stage::LoadingModel, 1, Some(1))?;
    let pipeline = Pipeline::new(device, &lm, job, &prepared, context)?;
    let mut run = Run::begin(device, job, prepared, pipeline, context)?;
    let last = match run.steps(context)? {
        End::Aborted => Fact::Aborted(run.ending(context)),
        End::Stopped => Fact::Stopped(run.ending(context)),
        end @ (End::Completed | End::Early) => finish::finish(&mut run, end, context)?,
    };
    context.send(last);
    Ok(())
}

/// Why the steps of a run are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All are done.
    Completed,
    /// Going on is not worth it.
    Early,
    /// It was told to save and end.
    Stopped,
    /// It was told to end.
    Aborted,
}

/// A run under way.
pub struct Run<'a, D: SaeOps<Real = f32> + LmOps> {
    pub(super) device: &'a D,
    pub(super) job: &'a Job,
    pub(super) folder: RunFolder,
    pub(super) estimate: Estimate,
    pub(super) sites: Vec<Site<D>>,
    pub(super) state: State,
    pub(super) steps: u64,
    /// The last measures.
    pub(super) validation: Option<Validation>,
    /// For each SAE, how often each latent fired in them; empty in a run that was resumed
    /// since.
    pub(super) frequencies: Vec<Vec<f32>>,
    pub(super) pipeline: Pipeline<'a, D>,
    metrics: Metrics,
    epoch_tokens: u64,
    micro: MicroBatch,
    checkpoint: Option<PathBuf>,
    saved_at: Option<u64>,
    feed: Feed<D>,
    last_step: Instant,
    /// Seconds of the last steps, capture included.
    recent: VecDeque<f64>,
}

impl<'a, D: SaeOps<Real = f32> + LmOps> Run<'a, D> {
    fn begin(
        device: &'a D,
        job: &'a Job,
        prepared: Prepared,
        mut pipeline: Pipeline<'a, D>,
        context: &mut Context<'_>,
    ) -> Result<Self> {
        let Prepared {
            folder,
            start,
            tokens,
            estimate,
            ..
        } = prepared;
        let training = &job.config.training;
        let epoch_tokens = pipeline.source.rows_per_epoch();
        let steps = training.total_steps(epoch_tokens);
        job.config.schedule.validate(steps).map_err(|e| Error {
            about: format!("schedule.{}", e.about),
            ..e
        })?;
        let mut sites = pipeline.sites(start.is_none(), context)?;
        let mut state = match &start {
            None => {
                if let Some(folder) = &training.init_from {
                    state::start_from(device, &mut sites, folder)?;
                }
                State {
                    step: 0,
                    skipped: 0,
                    micro_batch: training.micro_batch_size,
                    cursor: pipeline.source.cursor(),
                    data: tokens.key().to_owned(),
                    loss: None,
                    early: None,
                }
            }
            Some(start) => {
                let state = state::restore(device, &mut sites, &start.checkpoint)?;
                state.check_data(tokens.key(), &start.checkpoint)?;
                pipeline.source.seek(&state.cursor)?;
                state
            }
        };
        let rule = job.config.early_stopping.as_ref();
        state.early = rule.map(|rule| Stopper::resume(state.early, rule));
        let checkpoint = start.map(|s| s.checkpoint.path().to_owned());
        let metrics = Metrics::open(&folder.path, state.step)?;
        let feed = Feed::new(device, &*pipeline.source)?;
        context.step = state.step;
        context.send(Fact::RunStarted {
            step: state.step,
            steps,
            epoch_tokens,
            device: device.describe(),
            folder: folder.path.clone(),
            resumed_from: checkpoint.clone(),
        });
        Ok(Self {
            device,
            job,
            feed,
            validation: metrics::last_validation(&folder.path)?,
            frequencies: Vec::new(),
            folder,
            estimate,
            sites,
            micro: MicroBatch::new(training.batch_size, state.micro_batch),
            saved_at: checkpoint.is_some().then_some(state.step),
            state,
            steps,
            pipeline,
            metrics,
            epoch_tokens,
            checkpoint,
            last_step: Instant::now(),
            recent: VecDeque::new(),
        })
    }

    /// Runs the steps that are left.
    fn steps(&mut self, context: &mut Context<'_>) -> Result<End> {
        loop {
            match context.obey() {
                Wish::Continue => {}
                Wish::Abort => return Ok(End::Aborted),
                Wish::Stop => {
                    self.save(context)?;
                    return Ok(End::Stopped);
                }
                Wish::Checkpoint => {
                    self.save(context)?;
                    continue;
                }
            }
            if self.state.step >= self.steps {
                return Ok(End::Completed);
            }
            if self.is_spent() {
                return Ok(End::Early);
            }
            let config = &self.job.config;
            let stop_at = config.training.stop_at;
            if stop_at.is_some_and(|at| self.state.step >= at) {
                self.save(context)?;
                return Ok(End::Stopped);
            }
            self.step(context)?;
            let step = self.state.step;
            let due = |every: u64| every > 0 && step.is_multiple_of(every);
            let (measure, save) = (due(config.eval.every), due(config.checkpoints.every));
            if measure || stop_at == Some(step) {
                self.measure(context)?;
            }
            if measure {
                self.observe();
            }
            if save {
                self.save(context)?;
            }
        }
    }

    /// Shows early stopping what was measured after this step.
    fn observe(&mut self) {
        let (rule, step) = (&self.job.config.early_stopping, self.state.step);
        let measured = self.validation.as_ref().filter(|v| v.step == step);
        if let (Some(rule), Some(stopper), Some(measured)) = (rule, &mut self.state.early, measured)
        {
            stopper.observe(rule, step, measured.mean(rule.metric));
        }
    }

    fn is_spent(&self) -> bool {
        let rule = self.job.config.early_stopping.as_ref();
        rule.zip(self.state.early)
            .is_some_and(|(rule, stopper)| stopper.is_spent(rule))
    }

    fn step(&mut self, context: &mut Context<'_>) -> Result<()> {
        let config = &self.job.config;
        let number = self.state.step + 1;
        let settings =
            config
                .schedule
                .at(number - 1, self.steps, config.optimizer.lr, config.sae.k());
        let (device, micro, sites) = (self.device, &mut self.micro, &mut self.sites);
        let on_non_finite = config.training.on_non_finite;
        let skipped_before = self.state.skipped;
        let ((measured, skipped), cursor) =
            self.feed.with_next(&mut *self.pipeline.source, |batch| {
                let mut measured = Vec::new();
                let mut skipped = false;
                for site in sites {
                    let tokens = config.training.batch_size;
                    let stepped = loop {
                        match site.step(device, batch, tokens, micro.size(), &settings) {
                            Ok(stepped) => break stepped,
                            Err(e) if e.code == Code::OutOfMemory => {
                                shrink(micro, number, e, context)?;
                            }
                            Err(e) => return Err(e),
                        }
                    };
                    match (stepped, on_non_finite) {
                        (Stepped::Done(site), _) => measured.push(site),
                        (Stepped::NonFinite(what), NonFinitePolicy::Skip) => {
                            context.send(Fact::NonFinite {
                                step: number,
                                hook: site.name.clone(),
                                what: what.into(),
                                skipped: skipped_before + 1,
                            });
                            skipped = true;
                        }
                        (Stepped::Overflow(loss_scale), _) => context.send(Fact::LossScaled {
                            step: number,
                            hook: site.name.clone(),
                            loss_scale,
                        }),
                        (Stepped::NonFinite(what), NonFinitePolicy::Fail) => {
                            return Err(not_finite(&site.name, number, what));
                        }
                    }
                }
                Ok((measured, skipped))
            })?;
        self.micro.succeeded();
        self.state.micro_batch = self.micro.size();
        self.state.step = number;
        context.step = number;
        self.state.skipped += u64::from(skipped);
        self.state.cursor = cursor;
        self.tell(number, settings.lr, measured, context)
    }

    /// Tells and logs the step, and the epochs that it ended.
    fn tell(
        &mut self,
        number: u64,
        lr: f64,
        sites: Vec<SiteStep>,
        context: &Context<'_>,
    ) -> Result<()> {
        let batch = self.job.config.training.batch_size as u64;
        let epoch_tokens = self.epoch_tokens;
        let tokens = number * batch;
        // A whole window is captured before its first batch: the pace is that of as many
        // steps as a window has.
        self.recent
            .push_back(self.last_step.elapsed().as_secs_f64());
        if self.recent.len() > self.job.config.activations.window_batches {
            self.recent.pop_front();
        }
        let seconds = self.recent.iter().sum::<f64>() / self.recent.len() as f64;
        self.last_step = Instant::now();
        if !sites.is_empty() {
            let loss = sites.iter().map(|s| s.loss).sum::<f64>() / sites.len() as f64;
            self.state.loss = Some(loss);
            let step = Step {
                step: number,
                steps: self.steps,
                epoch: (tokens - 1) / epoch_tokens + 1,
                tokens,
                loss,
                lr,
                tokens_per_second: batch as f64 / seconds.max(1e-9),
                sites,
            };
            self.metrics.step(&step)?;
            context.send(Fact::Step(step));
        }
        for epoch in (tokens - batch) / epoch_tokens + 1..=tokens / epoch_tokens {
            context.send(Fact::Epoch {
                epoch,
                step: number,
            });
        }
        Ok(())
    }

    /// Measures on held-out text, once a step at most.
    pub(super) fn measure(&mut self, context: &mut Context<'_>) -> Result<()> {
        let step = self.state.step;
        let known = self.validation.as_ref().is_some_and(|v| v.step == step);
        if known && !self.frequencies.is_empty() {
            return Ok(());
        }
        let paused = Instant::now();
        let measured = self.pipeline.measure(&self.sites, context)?;
        if let Some(Measured {
            mut validation,
            frequencies,
        }) = measured
        {
            self.frequencies = frequencies;
            if !known {
                validation.step = step;
                self.metrics.validation(&validation)?;
                context.send(Fact::Validation(validation.clone()));
                self.validation = Some(validation);
            }
        }
        self.last_step += paused.elapsed();
        Ok(())
    }

    /// Saves a checkpoint, once a step at most.
    pub(super) fn save(&mut self, context: &Context<'_>) -> Result<()> {
        if self.saved_at == Some(self.state.step) {
            return Ok(());
        }
        let paused = Instant::now();
        self.metrics.sync()?;
        let measured = self
            .validation
            .as_ref()
            .filter(|v| v.step == self.state.step);
        let metric = measured.map(|v| {
            let sum: f64 = v.sites.iter().map(|s| s.explained_variance).sum();
            sum / v.sites.len() as f64
        });
        let (state, store) = (&self.state, &mut self.folder.store);
        let saved = state::snapshot(self.device, &self.sites, state, metric, |snapshot| {
            store.save(snapshot, state)
        })?;
        for warning in &saved.warnings {
            context.warn(warning.to_string());
        }
        let path = saved.checkpoint.path().to_owned();
        context.send(Fact::CheckpointSaved {
            step: self.state.step,
            path: path.clone(),
            best: saved.checkpoint.manifest().best,
        });
        self.checkpoint = Some(path);
        self.saved_at = Some(self.state.step);
        self.last_step += paused.elapsed();
        Ok(())
    }

    pub(super) fn ending(&self, context: &Context<'_>) -> Ending {
        Ending {
            step: self.state.step,
            steps: self.steps,
            tokens: self.state.step * self.job.config.training.batch_size as u64,
            skipped: self.state.skipped,
            loss: self.state.loss,
            seconds: context.began.elapsed().as_secs_f64(),
            folder: self.folder.path.clone(),
            checkpoint: self.checkpoint.clone(),
            peak_memory: memory::peak(),
            // What cannot be read is not known, and is no reason to fail.
            peak_gpu_memory: self.device.peak_memory().ok().flatten(),
            validation: self
                .validation
                .clone()
                .filter(|v| v.step == self.state.step),
        }
    }
}

/// Makes micro-batches smaller, and says so.
fn shrink(micro: &mut MicroBatch, step: u64, error: Error, context: &Context<'_>) -> Result<()> {
    match micro.out_of_memory() {
        AfterOom::GiveUp => Err(error.hint(
            "even the smallest micro-batch does not fit: lower sae.d_sae or \
             activations.window_batches, or free memory; --resume goes on from the last \
             checkpoint",
        )),
        AfterOom::Again => {
            context.send(Fact::Oom(OutOfMemory {
                step,
                micro_batch: micro.size() as u64,
                accumulation: micro.accumulation() as u64,
                message: error.to_string(),
            }));
            Ok(())
        }
    }
}

fn not_finite(hook: &str, step: u64, what: &str) -> Error {
    let message = format!("step {step}: the {what} is not finite; nothing was changed");
    Error::new(Code::NonFinite, hook, message).hint(match what {
        "rounded activations" => {
            "fp16 holds no number above 65504: set training.amp = \"bf16\" or sae.normalize"
        }
        _ => "lower optimizer.lr, check the data, or set training.on_non_finite = \"skip\"",
    })
}

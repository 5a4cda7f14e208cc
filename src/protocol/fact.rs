//! The facts of a run. One JSON object each; `--json` prints them a line each.

use crate::domain::Error;
use crate::domain::measure::Measure;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A fact with its place in the order of its run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// [`super::VERSION`].
    pub v: u32,
    /// 1, 2, 3, … without a gap within one worker's life.
    pub seq: u64,
    /// The run's name.
    pub run: String,
    /// What happened.
    #[serde(flatten)]
    pub fact: Fact,
}

/// What happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Fact {
    /// A stage of the work before the first step went forward.
    Progress {
        /// Which stage.
        stage: Stage,
        /// Units done: bytes, tokens, contexts.
        done: u64,
        /// Units in all, where known.
        total: Option<u64>,
    },
    /// Something that the reader should know and that does not end the run.
    Warning {
        /// One line.
        message: String,
    },
    /// Bytes that the run is expected to need, before anything large is allocated.
    Estimate {
        /// The sum.
        bytes: u64,
        /// Its parts by name.
        parts: BTreeMap<String, u64>,
        /// What the machine has free.
        available: Option<u64>,
        /// The same of the GPU's memory, where the run computes on one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gpu: Option<GpuEstimate>,
    },
    /// Training begins or goes on.
    RunStarted {
        /// Steps that are already done; 0 for a new run.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Tokens of one epoch that are trained on.
        epoch_tokens: u64,
        /// The compute device in words.
        device: String,
        /// The run's folder.
        folder: PathBuf,
        /// The checkpoint that it goes on from.
        resumed_from: Option<PathBuf>,
    },
    /// An optimiser step is done.
    Step(Step),
    /// An optimiser step found a NaN or an infinity, and changed nothing.
    NonFinite {
        /// The step that was skipped.
        step: u64,
        /// The hook point of the SAE.
        hook: String,
        /// What was not finite.
        what: String,
        /// Steps skipped so far.
        skipped: u64,
    },
    /// A gradient in fp16 was too large for its scale, which was halved; the step changed nothing.
    LossScaled {
        /// The step that was left out.
        step: u64,
        /// The hook point of the SAE.
        hook: String,
        /// The scale from now on.
        loss_scale: f64,
    },
    /// Every token of the training text was seen once more.
    Epoch {
        /// 1 for the first.
        epoch: u64,
        /// The step that ended it.
        step: u64,
    },
    /// Measures on held-out text.
    Validation(Validation),
    /// A checkpoint is complete and durable.
    CheckpointSaved {
        /// Its step.
        step: u64,
        /// Its folder.
        path: PathBuf,
        /// Whether it is the best so far.
        best: bool,
    },
    /// Memory ran out; the same step runs again in smaller pieces.
    Oom(OutOfMemory),
    /// The run waits.
    Paused {
        /// Steps done.
        step: u64,
    },
    /// The run goes on.
    Resumed {
        /// Steps done.
        step: u64,
    },
    /// The last fact of a run that did all its steps.
    RunCompleted(Ending),
    /// The last fact of a run whose early stopping ended it before its last step. It is
    /// saved, measured and exported like one that did all of them.
    EarlyStopped(EarlyStop),
    /// The last fact of a run that was told to stop; it can be resumed.
    Stopped(Ending),
    /// The last fact of a run that was told to abort.
    Aborted(Ending),
    /// The last fact of a run that failed.
    RunFailed {
        /// Steps done.
        step: u64,
        /// The stable code.
        code: String,
        /// The error in one line.
        message: String,
    },
}

/// Bytes of a GPU's memory that a run is expected to need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuEstimate {
    /// The sum.
    pub bytes: u64,
    /// Its parts by name.
    pub parts: BTreeMap<String, u64>,
    /// What the GPU has free.
    pub available: u64,
}

impl Fact {
    /// The last fact of a failed run.
    pub fn failed(step: u64, error: &Error) -> Self {
        Fact::RunFailed {
            step,
            code: error.code.as_str().to_owned(),
            message: error.to_string(),
        }
    }
}

impl EarlyStop {
    /// The reason in words.
    pub fn why(&self) -> String {
        format!(
            "{} was best at step {} ({:.4}) and no better in {} measurements since",
            self.metric, self.best_step, self.best, self.patience
        )
    }
}

/// Stages before the first step and after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Reading the language model's weights.
    LoadingModel,
    /// Text to tokens.
    Tokenizing,
    /// Initial statistics of the activations.
    Initializing,
    /// Writing the activation cache.
    CachingActivations,
    /// Measuring on held-out text.
    Evaluating,
    /// Writing the exports and the report.
    Exporting,
}

/// One optimiser step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// 1 … `steps`.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// 1 for the first pass over the text.
    pub epoch: u64,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// Mean of the sites' losses.
    pub loss: f64,
    /// The learning rate of this step.
    pub lr: f64,
    /// Tokens a second over the steps of one shuffling window, capture included.
    pub tokens_per_second: f64,
    /// One entry for each SAE.
    pub sites: Vec<SiteStep>,
}

/// One SAE's measures of one step, on the batch that it was trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteStep {
    /// The hook point.
    pub hook: String,
    /// The loss that was minimised.
    pub loss: f64,
    /// Its parts, by the peers' names: `mse_loss`, `l1_loss`, ….
    pub parts: BTreeMap<String, f64>,
    /// Mean number of active latents a token.
    pub l0: f64,
    /// 1 − FVU; null where the batch has no variance.
    #[serde(with = "super::nullable")]
    pub explained_variance: f64,
    /// Fraction of variance unexplained: Σ‖x − x̂‖² / Σ‖x − mean‖² over the batch.
    #[serde(with = "super::nullable")]
    pub fvu: f64,
    /// Share of latents that have not fired within the dead window.
    pub dead: f64,
    /// Norm of the whole gradient before clipping.
    pub grad_norm: f64,
    /// The factor that gradients carried, where they were held in fp16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
}

/// Measures on held-out text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Steps done.
    pub step: u64,
    /// Tokens measured.
    pub tokens: u64,
    /// One entry for each SAE.
    pub sites: Vec<SiteValidation>,
}

impl Validation {
    /// The mean of `measure` over the hook points; none unless it is known of each.
    pub fn mean(&self, measure: Measure) -> Option<f64> {
        let of = |site: &SiteValidation| match measure {
            Measure::CeRecovered => site.ce_recovered,
            Measure::CeRecoveredMean => site.ce_recovered_mean,
            Measure::CeSae => Some(site.ce_sae),
            Measure::ExplainedVariance => Some(site.explained_variance),
            Measure::Cosine => Some(site.cosine),
            Measure::L0 => Some(site.l0),
            Measure::Loss => None,
        };
        let sum: f64 = self.sites.iter().map(of).sum::<Option<f64>>()?;
        let mean = sum / self.sites.len() as f64;
        mean.is_finite().then_some(mean)
    }
}

/// One SAE's measures on held-out text. What is not finite (a diverged SAE) is null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteValidation {
    /// The hook point.
    pub hook: String,
    /// Cross-entropy of the untouched model, nats a token.
    #[serde(with = "super::nullable")]
    pub ce_clean: f64,
    /// … with the hook point's activations set to zero.
    #[serde(with = "super::nullable")]
    pub ce_zero: f64,
    /// … set to their mean.
    #[serde(with = "super::nullable")]
    pub ce_mean: f64,
    /// … replaced by the SAE's reconstruction.
    #[serde(with = "super::nullable")]
    pub ce_sae: f64,
    /// (ce_zero − ce_sae) / (ce_zero − ce_clean); null where the two are equal.
    pub ce_recovered: Option<f64>,
    /// (ce_mean − ce_sae) / (ce_mean − ce_clean); null where the two are equal.
    pub ce_recovered_mean: Option<f64>,
    /// 1 − FVU; null where the batch has no variance.
    #[serde(with = "super::nullable")]
    pub explained_variance: f64,
    /// Mean cosine of activation and reconstruction.
    #[serde(with = "super::nullable")]
    pub cosine: f64,
    /// Mean number of active latents a token.
    pub l0: f64,
    /// Latents that never fired on the text measured.
    pub dead: u64,
    /// Latents in all.
    pub d_sae: u64,
    /// log10 of each bin's lower edge; latents that never fired are not in the histogram.
    pub density_edges: Vec<f64>,
    /// Latents whose firing frequency lies in the bin.
    pub density_counts: Vec<u64>,
}

/// Memory ran out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutOfMemory {
    /// The step that runs again.
    pub step: u64,
    /// Tokens in a micro-batch from now on.
    pub micro_batch: u64,
    /// Micro-batches in a step from now on.
    pub accumulation: u64,
    /// The allocation that failed.
    pub message: String,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    /// Steps done.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Steps skipped for a NaN or an infinity.
    pub skipped: u64,
    /// Loss of the last step.
    pub loss: Option<f64>,
    /// Seconds of this worker's life.
    pub seconds: f64,
    /// The run's folder.
    pub folder: PathBuf,
    /// The last checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// Peak resident memory of the process, bytes.
    pub peak_memory: Option<u64>,
    /// The most of the GPU's memory that this worker had in use, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_gpu_memory: Option<u64>,
    /// Measures on held-out text after the last step, where they were taken.
    #[serde(default)]
    pub validation: Option<Validation>,
}

impl Ending {
    /// The mean of `measure` over the hook points, where it is known.
    pub fn measure(&self, measure: Measure) -> Option<f64> {
        match measure {
            Measure::Loss => self.loss.filter(|loss| loss.is_finite()),
            _ => self.validation.as_ref()?.mean(measure),
        }
    }
}

/// How a run ended early.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EarlyStop {
    /// As of any run.
    #[serde(flatten)]
    pub ending: Ending,
    /// What no longer became better.
    pub metric: Measure,
    /// Its best value.
    pub best: f64,
    /// The step of the best value.
    pub best_step: u64,
    /// Measurements since, none of which was better.
    pub patience: u64,
}

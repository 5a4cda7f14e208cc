//! `run.toml`: everything that decides a run's result.

use super::file::ConfigFile;
use crate::domain::asset::AssetKind;
use crate::domain::measure::Measure;
use crate::domain::{Amp, Code, Error, Precision, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Tables of their own parts: see the types' modules.
pub use crate::activations::ActivationSettings;
pub use crate::data::TokenSettings;
pub use crate::domain::early_stopping::EarlyStopping;
pub use crate::domain::schedule::Schedule;
pub use crate::sae::{OptimSpec, SaeSpec};

/// A run as its file describes it. Paths are relative to the file's folder, except
/// `output`, which is relative to the current folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// What the run is called in logs, events and the report.
    pub name: String,
    /// Seed of everything random: initialisation, order of the text, shuffling.
    #[serde(default)]
    pub seed: u64,
    /// The run folder. Default: `runs/` + name.
    #[serde(default)]
    pub output: PathBuf,
    /// `[model]`
    pub model: ModelTable,
    /// `[data]`
    pub data: TokenSettings,
    /// `[activations]`
    #[serde(default)]
    pub activations: ActivationSettings,
    /// `[sae]`
    pub sae: SaeSpec,
    /// `[optimizer]`
    #[serde(default)]
    pub optimizer: OptimSpec,
    /// `[schedule]`
    #[serde(default)]
    pub schedule: Schedule,
    /// `[training]`
    pub training: TrainingTable,
    /// `[checkpoints]`
    #[serde(default)]
    pub checkpoints: CheckpointTable,
    /// `[eval]`
    #[serde(default)]
    pub eval: EvalTable,
    /// `[early_stopping]`; without it a run does all its steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
}

/// `[model]`: the language model and where to look into it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelTable {
    /// A folder in Hugging Face layout: `config.json`, weights, `tokenizer.json`.
    pub path: PathBuf,
    /// Hook points in TransformerLens' names, e.g. `blocks.2.hook_resid_post`; one
    /// autoencoder is trained on each.
    pub hooks: Vec<String>,
    /// How the model's weights are held: `f32`, `bf16`, `f16`, `int8`, `int4`. They are held
    /// in this precision or the run fails.
    #[serde(default)]
    pub precision: Precision,
}

/// `[training]`: how long, and in what pieces. Exactly one of `tokens`, `epochs` and
/// `steps` is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingTable {
    /// Train on this many tokens (rounded up to whole steps).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Train on the whole text this many times (rounded up to whole steps).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    /// Train for this many steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Tokens of one optimiser step.
    #[serde(default = "default_batch")]
    pub batch_size: usize,
    /// Tokens that are computed at once; 0 means the whole batch. Smaller ones need less
    /// memory and give the same gradient.
    #[serde(default)]
    pub micro_batch_size: usize,
    /// What is rounded to 16 bits on a GPU, the factors of the encoder's product and the rows that
    /// gradients are gathered from: `off`, `bf16`, or `fp16` with a loss scale.
    #[serde(default)]
    pub amp: Amp,
    /// What a NaN or an infinity in a loss or gradient does: `fail` ends the run, `skip`
    /// leaves the step out and counts it.
    #[serde(default)]
    pub on_non_finite: NonFinitePolicy,
    /// After this many steps the run is measured, saved and stopped; a run that is resumed
    /// with another value goes on to there. Schedules follow the whole length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_at: Option<u64>,
    /// The folder of a run from whose newest weights a new run starts; its autoencoders
    /// have the same shapes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<PathBuf>,
    /// Refuse to start where the estimate is above this many MiB. Default: what the
    /// machine has free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory_mib: Option<u64>,
}

fn default_batch() -> usize {
    4096
}

/// See [`TrainingTable::on_non_finite`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NonFinitePolicy {
    /// End the run with code `non-finite`.
    #[default]
    Fail,
    /// Leave the step out, say so, and count it.
    Skip,
}

/// `[checkpoints]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointTable {
    /// Steps between two checkpoints; 0 saves only at the end and when stopped.
    pub every: u64,
    /// How many of the newest are kept. The one with the best held-out explained variance
    /// and protected ones are kept besides.
    pub keep_last: usize,
}

impl Default for CheckpointTable {
    fn default() -> Self {
        Self {
            every: 1000,
            keep_last: 2,
        }
    }
}

/// `[eval]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalTable {
    /// Steps between two measurements on held-out text; 0 measures only at the end.
    pub every: u64,
    /// Held-out contexts that are measured, at most.
    pub contexts: usize,
}

impl Default for EvalTable {
    fn default() -> Self {
        Self {
            every: 0,
            contexts: 64,
        }
    }
}

impl RunConfig {
    /// Reads and validates `path`; `overrides` are of the form `key=value`.
    ///
    /// # Errors
    /// `config-missing`, `config-invalid` (naming file, line and key), `usage` for an
    /// override that cannot be read.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self> {
        let base = path.parent().unwrap_or(Path::new(""));
        let file = ConfigFile::read(path, overrides)?;
        let mut config = Self::of(&file, base)?;
        config.refuse_references(&file)?;
        if config.output.as_os_str().is_empty() {
            config.output = Path::new("runs").join(&config.name);
        }
        Ok(config)
    }

    /// As [`RunConfig::read`], from `text`; `name` stands in errors, and relative paths
    /// start at `base`. An output that is not given stays empty.
    ///
    /// # Errors
    /// `config-invalid`, `usage`.
    pub fn parse(name: &str, text: &str, base: &Path, overrides: &[String]) -> Result<Self> {
        Self::of(&ConfigFile::parse(name, text.to_owned(), overrides)?, base)
    }

    fn of(file: &ConfigFile, base: &Path) -> Result<Self> {
        let mut config: Self = file.decode()?;
        config.validate(file)?;
        if AssetKind::Model.reference(&config.model.path)?.is_none() {
            config.model.path = base.join(&config.model.path);
        }
        for path in &mut config.data.path.0 {
            if AssetKind::Dataset.reference(path)?.is_none() {
                *path = base.join(&*path);
            }
        }
        if let Some(folder) = &mut config.training.init_from {
            *folder = base.join(&folder);
        }
        if let Some(cache) = &mut config.activations.cache {
            *cache = base.join(&cache);
        }
        Ok(config)
    }

    /// Names of models and datasets mean something to a daemon only.
    fn refuse_references(&self, file: &ConfigFile) -> Result<()> {
        let model = (AssetKind::Model, "model.path", &self.model.path);
        let data = self.data.path.0.iter();
        let data = data.map(|path| (AssetKind::Dataset, "data.path", path));
        for (kind, key, path) in std::iter::once(model).chain(data) {
            if kind.reference(path)?.is_some() {
                let message = format!("{} names a {kind} that a daemon knows", path.display());
                return Err(file.invalid(key, message).hint(format_args!(
                    "queue the run with `backpropd ctl submit`, or give the path of the {kind}"
                )));
            }
        }
        Ok(())
    }

    fn validate(&self, file: &ConfigFile) -> Result<()> {
        if !is_name(&self.name) {
            let message = format!(
                "{:?} is no name: use letters, digits, `-`, `_`, `.`",
                self.name
            );
            return Err(file.invalid("name", message));
        }
        if self.model.hooks.is_empty() {
            let message = "is empty: name at least one, e.g. blocks.2.hook_resid_post";
            return Err(file.invalid("model.hooks", message));
        }
        for (index, hook) in self.model.hooks.iter().enumerate() {
            if self.model.hooks[..index].contains(hook) {
                return Err(file.invalid("model.hooks", format_args!("names {hook} twice")));
            }
        }
        self.training.validate(file)?;
        let locate = |table: &str, error: Error| {
            if error.code != Code::ConfigInvalid {
                return error;
            }
            let prefix = format!("{table}.");
            let key = error.about.strip_prefix(&prefix).unwrap_or(&error.about);
            file.invalid(&format!("{prefix}{key}"), &error.message)
                .hint(&error.hint)
        };
        self.data.validate().map_err(|e| locate("data", e))?;
        self.activations
            .validate()
            .map_err(|e| locate("activations", e))?;
        self.sae.validate().map_err(|e| locate("sae", e))?;
        self.optimizer
            .validate()
            .map_err(|e| locate("optimizer", e))?;
        let Some(rule) = &self.early_stopping else {
            return Ok(());
        };
        rule.validate().map_err(|e| locate("early_stopping", e))?;
        self.check_measured(rule, file)
    }

    /// That what `rule` looks at is measured while the run trains.
    fn check_measured(&self, rule: &EarlyStopping, file: &ConfigFile) -> Result<()> {
        if rule.metric == Measure::Loss {
            let message = "loss is that of a training batch, which is no measure of a run \
                           under way: choose one on held-out text, e.g. ce_recovered";
            return Err(file.invalid("early_stopping.metric", message));
        }
        let key = if self.eval.every == 0 {
            "eval.every"
        } else if self.data.holdout == 0.0 {
            "data.holdout"
        } else {
            return Ok(());
        };
        let message = "is 0, but [early_stopping] needs measures on held-out text";
        Err(file.invalid(key, message))
    }

    /// The hook point that the autoencoder at `hook` reconstructs: itself, or for a
    /// transcoder `sae.target`, in which `{layer}` stands for the layer of `hook`.
    pub fn target_of(&self, hook: &str) -> String {
        match &self.sae.target {
            None => hook.to_owned(),
            Some(target) => target.replace("{layer}", hook.split('.').nth(1).unwrap_or_default()),
        }
    }

    /// The run as TOML, every default spelled out.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|e| Error::new(Code::Internal, "run.toml", e))
    }
}

/// Whether `text` can name a run or a sweep, and a folder.
pub(super) fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !text.is_empty() && !text.starts_with('.') && text.chars().all(plain)
}

impl TrainingTable {
    fn validate(&self, file: &ConfigFile) -> Result<()> {
        let lengths = [
            ("training.tokens", self.tokens),
            ("training.epochs", self.epochs),
            ("training.steps", self.steps),
        ];
        let given: Vec<_> = lengths.iter().filter(|(_, v)| v.is_some()).collect();
        match given[..] {
            [(key, Some(0))] => return Err(file.invalid(key, "0 trains nothing")),
            [_] => {}
            [] => {
                let message = "says not how long: set tokens, epochs or steps";
                return Err(file.invalid("training", message));
            }
            [(a, _), (b, _), ..] => {
                return Err(file.invalid(b, format_args!("is set beside {a}: set only one")));
            }
        }
        if self.stop_at == Some(0) {
            return Err(file.invalid("training.stop_at", "0 trains nothing"));
        }
        if self.batch_size == 0 {
            return Err(file.invalid("training.batch_size", "0 is not a batch"));
        }
        if self.micro_batch_size > self.batch_size {
            let message = format!(
                "{} exceeds batch_size {}",
                self.micro_batch_size, self.batch_size
            );
            return Err(file.invalid("training.micro_batch_size", message));
        }
        Ok(())
    }

    /// Steps of the whole run, with epochs of `epoch_tokens` tokens.
    pub fn total_steps(&self, epoch_tokens: u64) -> u64 {
        let batch = self.batch_size as u64;
        match (self.steps, self.tokens, self.epochs) {
            (Some(steps), ..) => steps,
            (_, Some(tokens), _) => tokens.div_ceil(batch),
            (.., Some(epochs)) => epochs.saturating_mul(epoch_tokens).div_ceil(batch),
            _ => 0,
        }
    }
}

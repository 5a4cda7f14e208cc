//! What a run needs before the model is in memory: cheap checks first.

use super::Job;
use super::context::Context;
use super::estimate::{Estimate, Need};
use super::folder::{RunFolder, Start};
use crate::activations::Site as Captured;
use crate::config::RunConfig;
use crate::data::{ModelTokens, Progress, TokenSet};
use crate::device::Device;
use crate::domain::{Code, Error, Result};
use crate::lm::{self, HookPoint, LmSpec};
use crate::protocol::Stage;
use crate::system::files;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// A run whose model, hook points, memory, folder and text are known to be usable.
pub struct Prepared {
    /// The run's folder, locked.
    pub folder: RunFolder,
    /// What it goes on from.
    pub start: Option<Start>,
    /// The contexts.
    pub tokens: Arc<TokenSet>,
    /// The captured hook points, inputs and targets, in the order of computation.
    pub hooks: Vec<HookPoint>,
    /// The same with their widths.
    pub captured: Vec<Captured>,
    /// Memory.
    pub estimate: Estimate,
}

impl Prepared {
    /// Reads everything that `job` names but the weights.
    ///
    /// # Errors
    /// Each names the file, key or hook point that cannot be used.
    pub fn new(device: &impl Device, job: &Job, context: &mut Context<'_>) -> Result<Self> {
        let config = &job.config;
        let spec = lm::config::load(&config.model.path)?;
        let hooks = captured_hooks(config, &spec)?;
        let captured = sites(&hooks, &spec);
        let mut estimate = estimate(config, &spec, &captured, job.threads, device.free_memory()?);
        context.send(estimate.fact());
        estimate.check(config.training.max_memory_mib)?;
        if let Some(missing) = config.data.path.0.iter().find(|path| !path.exists()) {
            let message = "there is no such file or folder";
            return Err(Error::new(Code::DataMissing, missing.display(), message)
                .hint("set data.path to a text file or a folder of them"));
        }
        let (folder, start) = RunFolder::open(config, job.resume)?;
        for warning in start.iter().flat_map(|s| &s.warnings) {
            context.warn(warning.clone());
        }
        let tokens = Arc::new(tokenize(config, &spec, context)?);
        if !tokens.reused() {
            estimate.measure();
            context.send(estimate.fact());
            estimate.check(config.training.max_memory_mib)?;
        }
        Ok(Self {
            folder,
            start,
            tokens,
            hooks,
            captured,
            estimate,
        })
    }
}

/// `hooks` with their widths.
pub(super) fn sites(hooks: &[HookPoint], spec: &LmSpec) -> Vec<Captured> {
    let site = |hook: &HookPoint| Captured {
        hook: hook.to_string(),
        d_in: spec.d_model,
    };
    hooks.iter().map(site).collect()
}

/// The hook points that `config` needs, in the order of computation.
pub(super) fn captured_hooks(config: &RunConfig, spec: &LmSpec) -> Result<Vec<HookPoint>> {
    let mut hooks = Vec::new();
    for name in &config.model.hooks {
        let hook = spec.hook(name)?;
        let target = spec.hook(&config.target_of(name))?;
        if target < hook {
            let message = format!("{target} is computed before {hook}, which it is to follow from");
            return Err(Error::new(Code::ConfigInvalid, "sae.target", message));
        }
        hooks.extend([hook, target]);
    }
    hooks.sort();
    hooks.dedup();
    Ok(hooks)
}

/// The estimate for `config` on a model of `spec`, and on a device that has so much of its own
/// memory `free`.
pub(super) fn estimate(
    config: &RunConfig,
    spec: &LmSpec,
    captured: &[Captured],
    threads: usize,
    free: Option<u64>,
) -> Estimate {
    let (batch, context_size) = (config.training.batch_size, config.data.context_size);
    let rows = config.activations.lm_batch * context_size;
    Estimate::new(&Need {
        config,
        lm: spec,
        capture: spec.forward_bytes(rows) as u64,
        window: config.activations.window_bytes(captured, batch),
        landing: config.activations.landing_bytes(captured, context_size),
        captured: captured.len() as u64,
        threads,
        free,
    })
}

fn tokenize(config: &RunConfig, spec: &LmSpec, context: &mut Context<'_>) -> Result<TokenSet> {
    let file = config.model.path.join("tokenizer.json");
    let model = model_tokens(&config.model.path, spec)?;
    let mut waiting = false;
    let mut tell = |progress: Progress<'_>| match progress {
        Progress::Hashing(..) => Ok(()),
        Progress::Tokenising(done, total, _) => {
            context.progress(Stage::Tokenizing, done, Some(total))
        }
        Progress::Waiting => {
            if !std::mem::replace(&mut waiting, true) {
                context.warn("another process builds a token set in the same cache: waiting");
            }
            Ok(())
        }
        Progress::Rebuilding(error) => {
            context.warn(format!("{error}; building the token set again"));
            Ok(())
        }
    };
    TokenSet::open_or_build(
        &config.data,
        &file,
        &model,
        &files::cache_folder(&config.output.join("cache"))?,
        &mut tell,
    )
}

/// The special tokens that `config.json` names.
pub(super) fn model_tokens(folder: &Path, spec: &LmSpec) -> Result<ModelTokens> {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(|e| Error::read(&path, &e))?;
    let config: Value = serde_json::from_str(&text)
        .map_err(|e| Error::new(Code::ModelConfigInvalid, path.display(), e))?;
    // A list names several that end a text; the first is the usual one.
    let id = |key: &str| {
        let value = &config[key];
        let id = value.get(0).unwrap_or(value).as_u64();
        id.and_then(|id| u32::try_from(id).ok())
    };
    Ok(ModelTokens {
        vocab_size: spec.vocab,
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        pad: id("pad_token_id"),
    })
}

//! A model's folder: what its config says, and whether the rest is as it says.

use super::Desk;
use crate::config::RunConfig;
use crate::data::Tokenizer;
use crate::device::cpu::Cpu;
use crate::domain::asset::{Assumed, MemoryNeeds, ModelCheck, ModelDescription};
use crate::domain::{Code, Error, Result};
use crate::lm::{self, LmSpec};
use crate::protocol::asset::WorkStage;
use crate::worker::prepare;
use serde_json::Value;
use std::path::Path;
use std::time::Instant;

/// Latents of the assumed autoencoder for each element of the residual stream.
const EXPANSION: usize = 16;
/// Folders within a model's folder that are looked into for its size.
const DEPTH: usize = 4;
/// Text that every tokenizer can take.
const SAMPLE: &str = "It is a truth universally acknowledged, äöü 日本 🦀 \u{0}\n\t 12345.";

/// What `config.json` in `folder` says.
pub fn describe(folder: &Path) -> Result<ModelDescription> {
    let spec = lm::config::load(folder)?;
    Ok(ModelDescription {
        family: spec.family.to_owned(),
        architecture: architecture(folder)?,
        parameters: spec.parameters() as u64,
        layers: spec.layers() as u64,
        hidden_size: spec.d_model as u64,
        heads: spec.heads as u64,
        kv_heads: spec.kv_heads as u64,
        intermediate_size: spec.d_mlp as u64,
        vocab_size: spec.vocab as u64,
        context: spec.max_positions as u64,
        context_is_limit: spec.learned_positions,
        hook_points: spec.hook_points().iter().map(ToString::to_string).collect(),
        memory: needs(&spec)?,
        disk_bytes: bytes_below(folder, DEPTH),
    })
}

fn architecture(folder: &Path) -> Result<Option<String>> {
    let path = folder.join("config.json");
    let text = std::fs::read(&path).map_err(|e| Error::read(&path, &e))?;
    let config: Value = serde_json::from_slice(&text)
        .map_err(|e| Error::new(Code::ModelConfigInvalid, path.display(), e))?;
    let plain = |name: &&str| {
        name.len() <= 100 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let first = config["architectures"][0].as_str().filter(plain);
    Ok(first.map(str::to_owned))
}

/// Estimates for a TopK run at the first hook point, with the defaults of run.toml.
fn needs(spec: &LmSpec) -> Result<MemoryNeeds> {
    let d_sae = EXPANSION * spec.d_model;
    let hook = spec.hook_points()[0];
    let run = format!(
        "name = \"estimate\"\nmodel = {{ path = \"/\", hooks = [\"{hook}\"] }}\n\
         data = {{ path = \"/\" }}\n\
         sae = {{ variant = \"topk\", d_sae = {d_sae}, k = {} }}\ntraining = {{ steps = 1 }}",
        d_sae.min(32)
    );
    let config = RunConfig::parse("estimate", &run, Path::new("/"), &[])?;
    let hooks = prepare::captured_hooks(&config, spec)?;
    let estimate = prepare::estimate(&config, spec, &prepare::sites(&hooks, spec), 0, None);
    let rows = config.activations.lm_batch * config.data.context_size;
    let load = spec.weight_bytes(config.model.precision) as u64;
    Ok(MemoryNeeds {
        load,
        capture: load + spec.forward_bytes(rows) as u64,
        training: estimate.bytes(),
        assumed: Assumed {
            d_sae: d_sae as u64,
            k: d_sae.min(32) as u64,
            batch_size: config.training.batch_size as u64,
            context_size: config.data.context_size as u64,
            lm_batch: config.activations.lm_batch as u64,
        },
    })
}

/// Bytes of the files below `folder`, through links as the Hub's cache has them; none where
/// something cannot be read.
fn bytes_below(folder: &Path, depth: usize) -> Option<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).ok()? {
        let path = entry.ok()?.path();
        let meta = std::fs::metadata(&path).ok()?;
        if meta.is_file() {
            bytes += meta.len();
        } else if meta.is_dir() && depth > 0 {
            bytes += bytes_below(&path, depth - 1)?;
        }
    }
    Some(bytes)
}

/// Reads every weight of the model in `folder`, and its tokenizer.
pub fn verify(folder: &Path, desk: &mut Desk<'_>) -> Result<ModelCheck> {
    let began = Instant::now();
    let spec = lm::config::load(folder)?;
    // The small file first: what is wrong with it is known at once.
    let tokenizer = Tokenizer::load(&folder.join("tokenizer.json"), spec.vocab)?;
    tokenizer.encode(SAMPLE)?;
    let bytes = spec.parameters() as u64 * size_of::<f32>() as u64;
    let mut each = |done: u64, parts: u64| {
        let share = done as f64 / parts as f64;
        desk.progress(
            WorkStage::Loading,
            (bytes as f64 * share) as u64,
            Some(bytes),
        )
    };
    let stored = lm::verify(&Cpu::new(1), folder, &mut each)?;
    Ok(ModelCheck {
        tensors: stored.tensors as u64,
        dtypes: stored.dtypes,
        special_tokens: tokenizer.special_tokens().len() as u64,
        seconds: began.elapsed().as_secs_f64(),
    })
}

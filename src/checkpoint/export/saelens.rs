//! SAELens: `cfg.json`, `sae_weights.safetensors`, `sparsity.safetensors`; and reading
//! them again.

use super::item::Item;
use super::sae::{Architecture, ExportedSae, Metadata, Task};
use super::{write_json, write_tensors};
use crate::domain::{Code, Error, Result};
use crate::tensorfile::{Codes, Dtype, TensorFile};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::Path;

const CONFIG: &str = "cfg.json";
const WEIGHTS: &str = "sae_weights.safetensors";
const SPARSITY: &str = "sparsity.safetensors";

/// The release whose format this is.
const VERSION: &str = "6.54.12";

pub(super) fn inexpressible(sae: &ExportedSae) -> Option<&'static str> {
    match (&sae.task, &sae.architecture) {
        (Task::Transcoder { .. }, Architecture::TopK { .. }) => {
            Some("SAELens has no TopK transcoder")
        }
        (Task::Transcoder { .. }, Architecture::Gated { .. }) => {
            Some("SAELens has no gated transcoder")
        }
        _ => None,
    }
}

pub(super) fn write(sae: &ExportedSae, dir: &Path) -> Result<()> {
    write_json(&dir.join(CONFIG), &config(sae))?;
    write_tensors(&dir.join(WEIGHTS), &weights(sae))?;
    if let Some(frequency) = &sae.frequency {
        let sparsity: Vec<f32> = frequency.iter().map(|f| (f + 1e-10).log10()).collect();
        let item = Item::f32("sparsity", &[sae.d_sae], &sparsity);
        write_tensors(&dir.join(SPARSITY), &[item])?;
    }
    Ok(())
}

fn architecture(sae: &ExportedSae) -> &'static str {
    let skip = sae.w_skip().is_some();
    match (&sae.architecture, &sae.task) {
        (Architecture::Standard, Task::Autoencoder { .. }) => "standard",
        (Architecture::TopK { .. }, _) => "topk",
        (Architecture::Gated { .. }, _) => "gated",
        (_, Task::Autoencoder { .. }) => "jumprelu",
        (Architecture::Standard, _) if skip => "skip_transcoder",
        (Architecture::Standard, _) => "transcoder",
        (_, _) if skip => "jumprelu_skip_transcoder",
        (_, _) => "jumprelu_transcoder",
    }
}

fn config(sae: &ExportedSae) -> Value {
    let mut config = json!({
        "architecture": architecture(sae),
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.subtracts_b_dec(),
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata(&sae.metadata),
    });
    if let Task::Transcoder { .. } = sae.task {
        config["d_out"] = json!(sae.d_out);
    }
    if let Architecture::TopK { k, rescale } = sae.architecture {
        config["k"] = json!(k);
        config["rescale_acts_by_decoder_norm"] = json!(rescale);
    }
    config
}

fn metadata(metadata: &Metadata) -> Value {
    let mut all = json!({
        "sae_lens_version": VERSION,
        "sae_lens_training_version": null,
        "model_name": metadata.model_name,
        "hook_name": metadata.hook_name,
        "hook_head_index": null,
        "context_size": metadata.context_size,
        "prepend_bos": metadata.prepend_bos,
        "dataset_path": metadata.dataset_path,
        "exclude_special_tokens": metadata.exclude_special_tokens,
        "training_architecture": metadata.training_architecture,
        "l0": metadata.l0,
        "num_dead_features": metadata.num_dead_features,
    });
    if let Some(out) = &metadata.hook_name_out {
        all["hook_name_out"] = json!(out);
    }
    if let Value::Object(all) = &mut all {
        all.extend(metadata.extra.clone());
    }
    all
}

fn weights(sae: &ExportedSae) -> Vec<Item<'_>> {
    let (d_in, d_sae, d_out) = (sae.d_in, sae.d_sae, sae.d_out);
    let latents = |name, values| Item::f32(name, &[d_sae], values);
    let mut items = vec![
        Item::transposed("W_enc", d_in, &sae.w_enc),
        Item::f32("W_dec", &[d_sae, d_out], &sae.w_dec),
        Item::f32("b_dec", &[d_out], &sae.b_dec),
    ];
    match &sae.architecture {
        Architecture::Gated {
            b_gate,
            b_mag,
            r_mag,
        } => items.extend([
            latents("b_gate", b_gate),
            latents("b_mag", b_mag),
            latents("r_mag", r_mag),
        ]),
        Architecture::JumpRelu { threshold } => items.push(latents("threshold", threshold)),
        Architecture::BatchTopK { threshold, .. } => {
            let threshold = vec![*threshold; d_sae];
            items.push(Item::copied("threshold", Dtype::F32, &[d_sae], &threshold));
        }
        Architecture::Standard | Architecture::TopK { .. } => {}
    }
    if !matches!(sae.architecture, Architecture::Gated { .. }) {
        items.push(latents("b_enc", &sae.b_enc));
    }
    items.extend(sae.w_skip().map(|w| Item::f32("W_skip", &[d_out, d_in], w)));
    items
}

#[derive(Deserialize)]
struct Config {
    architecture: String,
    d_in: usize,
    d_sae: usize,
    d_out: Option<usize>,
    apply_b_dec_to_input: bool,
    normalize_activations: String,
    k: Option<usize>,
    #[serde(default)]
    rescale_acts_by_decoder_norm: bool,
    #[serde(default)]
    metadata: Map<String, Value>,
}

/// Reads the SAELens folder `dir`: an export of this program, or an SAE of SAELens 6.
///
/// # Errors
/// [`Code::ModelMissing`], [`Code::ModelConfigInvalid`], [`Code::ModelUnsupported`] names
/// what this program does not compute, [`Code::ModelFileCorrupt`],
/// [`Code::ModelTensorMismatch`], [`Code::ModelNonFinite`].
pub fn load(dir: &Path) -> Result<ExportedSae> {
    let path = dir.join(CONFIG);
    let text = std::fs::read(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(Code::ModelMissing, path.display(), "there is no such file")
        }
        _ => Error::read(&path, &e),
    })?;
    let config: Config = serde_json::from_slice(&text)
        .map_err(|e| Error::new(Code::ModelConfigInvalid, path.display(), e))?;
    let unsupported = |key: &str, value: &str| {
        let about = format!("{}: {key}", path.display());
        Err(Error::new(
            Code::ModelUnsupported,
            about,
            format_args!("`{value}`"),
        ))
    };
    // Before 6, other keys said what the SAE computes.
    let version = config.metadata.get("sae_lens_version");
    let version = version.and_then(Value::as_str).unwrap_or("none");
    let major = version
        .split('.')
        .next()
        .and_then(|v| v.parse::<u32>().ok());
    if major.is_none_or(|major| major < 6) {
        return unsupported("metadata.sae_lens_version", version);
    }
    if config.normalize_activations != "none" {
        return unsupported("normalize_activations", &config.normalize_activations);
    }

    let file = TensorFile::open(dir.join(WEIGHTS), Codes::MODEL)?;
    let mut asked = Vec::new();
    let mut read = |name: &'static str, shape: &[usize]| -> Result<Vec<f32>> {
        asked.push(name);
        let tensor = file.tensor(name)?.expect_shape(shape)?;
        Ok(tensor.f32()?.into_owned())
    };
    let (d_in, d_sae) = (config.d_in, config.d_sae);
    let (kind, transcoder, skip) = match config.architecture.as_str() {
        "transcoder" => ("standard", true, false),
        "skip_transcoder" => ("standard", true, true),
        "jumprelu_transcoder" => ("jumprelu", true, false),
        "jumprelu_skip_transcoder" => ("jumprelu", true, true),
        other => (other, false, false),
    };
    let d_out = config.d_out.filter(|_| transcoder).unwrap_or(d_in);
    let architecture = match kind {
        "standard" => Architecture::Standard,
        "topk" => Architecture::TopK {
            k: config.k.unwrap_or(0),
            rescale: config.rescale_acts_by_decoder_norm,
        },
        "jumprelu" => Architecture::JumpRelu {
            threshold: read("threshold", &[d_sae])?,
        },
        "gated" => Architecture::Gated {
            b_gate: read("b_gate", &[d_sae])?,
            b_mag: read("b_mag", &[d_sae])?,
            r_mag: read("r_mag", &[d_sae])?,
        },
        other => return unsupported("architecture", other),
    };
    let task = match (transcoder, skip) {
        (false, _) => Task::Autoencoder {
            subtract_b_dec: config.apply_b_dec_to_input,
        },
        (true, false) => Task::Transcoder { w_skip: None },
        (true, true) => Task::Transcoder {
            w_skip: Some(read("W_skip", &[d_out, d_in])?),
        },
    };
    let mut sae = ExportedSae {
        d_in,
        d_sae,
        d_out,
        b_enc: match architecture {
            Architecture::Gated { .. } => Vec::new(),
            _ => read("b_enc", &[d_sae])?,
        },
        w_enc: transposed(&read("W_enc", &[d_in, d_sae])?, d_sae),
        w_dec: read("W_dec", &[d_sae, d_out])?,
        b_dec: read("b_dec", &[d_out])?,
        architecture,
        task,
        frequency: frequency(dir, d_sae)?,
        metadata: read_metadata(config.metadata),
    };
    if let Some(other) = file.names().find(|name| !asked.contains(name)) {
        return unsupported("architecture", &format!("{kind} with a tensor {other}"));
    }
    // SAELens looks at the norms while it runs; here they belong to the encoder.
    let checked = match sae.architecture {
        Architecture::TopK { rescale: true, .. } => sae.unit_rows(),
        _ => sae.check(),
    };
    checked.map(|()| sae).map_err(|e| {
        let code = match e.code {
            Code::NonFinite => Code::ModelNonFinite,
            _ => Code::ModelConfigInvalid,
        };
        Error::new(
            code,
            format_args!("{}: {}", dir.display(), e.about),
            e.message,
        )
    })
}

fn frequency(dir: &Path, d_sae: usize) -> Result<Option<Vec<f32>>> {
    let path = dir.join(SPARSITY);
    if !path.exists() {
        return Ok(None);
    }
    let file = TensorFile::open(path, Codes::MODEL)?;
    let sparsity = file.tensor("sparsity")?.expect_shape(&[d_sae])?.f32()?;
    Ok(Some(sparsity.iter().map(|s| 10f32.powf(*s)).collect()))
}

fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns.max(1);
    let mut out = vec![0.0; values.len()];
    for (r, row) in values.chunks_exact(columns.max(1)).enumerate() {
        for (c, value) in row.iter().enumerate() {
            out[c * rows + r] = *value;
        }
    }
    out
}

/// The keys that have a field, taken out of `all`; the others stay as extra ones.
fn read_metadata(mut all: Map<String, Value>) -> Metadata {
    let mut take = |key: &str| all.remove(key).unwrap_or(Value::Null);
    let text = |value: Value| value.as_str().unwrap_or_default().to_owned();
    let count = |value: Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
    for key in [
        "sae_lens_version",
        "sae_lens_training_version",
        "hook_head_index",
    ] {
        take(key);
    }
    Metadata {
        model_name: text(take("model_name")),
        hook_name: text(take("hook_name")),
        hook_name_out: take("hook_name_out").as_str().map(str::to_owned),
        context_size: count(take("context_size")).unwrap_or(0),
        prepend_bos: take("prepend_bos").as_bool().unwrap_or(false),
        dataset_path: text(take("dataset_path")),
        exclude_special_tokens: serde_json::from_value(take("exclude_special_tokens"))
            .unwrap_or_default(),
        training_architecture: text(take("training_architecture")),
        l0: take("l0").as_f64(),
        num_dead_features: count(take("num_dead_features")),
        extra: all,
    }
}

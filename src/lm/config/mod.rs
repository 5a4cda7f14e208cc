//! `config.json` to the one description of a decoder.
//!
//! Both dialects are read: the older (`rope_theta`, `rope_scaling`, `torch_dtype`,
//! `rotary_pct`, `rotary_emb_base`) and the newer (`rope_parameters`, for some families one
//! for each kind of layer, `dtype`, `layer_types`). What asks for a computation that is not
//! here is refused by the name of its key.

mod families;
mod fields;
mod foreign;
mod parts;
mod rope;
#[cfg(test)]
mod tests;

use super::spec::LmSpec;
use crate::domain::{Code, Error, Result};
use families::FAMILIES;
use fields::Fields;
use serde_json::Value;
use std::path::Path;

/// Largest `config.json` that is parsed, in bytes.
const MAX_CONFIG: u64 = 4 << 20;

/// Most parameters that are believed: further numbers, as bytes, follow from theirs.
const MAX_PARAMETERS: usize = 1 << 46;

/// The model that `config.json` of `folder` describes.
///
/// # Errors
/// `model-missing`, `io-read`, `model-config-invalid` for what is malformed or contradicts
/// itself, `model-unsupported` for what is not computed here.
pub fn load(folder: &Path) -> Result<LmSpec> {
    let path = folder.join("config.json");
    let missing = |message: &str| {
        Error::new(Code::ModelMissing, path.display(), message)
            .hint("give a folder that holds config.json, model.safetensors and tokenizer.json")
    };
    let size = match std::fs::metadata(&path) {
        Ok(found) => found.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(missing("there is no such file"));
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(missing("the model is not a folder"));
        }
        Err(e) => return Err(Error::read(&path, &e)),
    };
    if size > MAX_CONFIG {
        return Err(Error::new(
            Code::ModelConfigInvalid,
            path.display(),
            format_args!("it has {size} bytes; at most {MAX_CONFIG} are read"),
        ));
    }
    let text = std::fs::read(&path).map_err(|e| Error::read(&path, &e))?;
    parse(&path, &text)
}

/// The model that the JSON `text` describes; `path` is for messages.
pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<LmSpec> {
    let malformed = |message: String| {
        Err(Error::new(
            Code::ModelConfigInvalid,
            path.display(),
            message,
        ))
    };
    let map = match serde_json::from_slice(text) {
        Ok(Value::Object(map)) => map,
        Ok(_) => return malformed("it is not a JSON object".into()),
        Err(e) => return malformed(format!("it is not valid JSON: {e}")),
    };
    let f = Fields::new(path, &map);
    let Some(model_type) = f.text("model_type")? else {
        return Err(f.invalid("model_type", "is missing"));
    };
    let spec = match FAMILIES.iter().find(|(name, _)| *name == model_type) {
        Some((name, read)) => read(&f, name)?,
        None => {
            let names: Vec<&str> = FAMILIES.iter().map(|(name, _)| *name).collect();
            return Err(f.unsupported(
                "model_type",
                format_args!("is not supported: {} are", names.join(", ")),
            ));
        }
    };
    if spec.parameters() > MAX_PARAMETERS {
        return malformed(format!(
            "it describes {} parameters, more than any model has",
            spec.parameters()
        ));
    }
    Ok(spec)
}

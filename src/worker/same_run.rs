//! Whether a run.toml may go on with the checkpoints of an earlier one.

use crate::config::RunConfig;
use crate::domain::{Code, Error, Result};
use std::path::Path;
use toml::{Table, Value};

/// Keys that do not decide what is trained. Everything else must stay.
const FREE: &[&str] = &[
    "name",
    "output",
    "model.path",
    "data.path",
    "activations.cache",
    "activations.lm_batch",
    "training.micro_batch_size",
    "training.on_non_finite",
    "training.stop_at",
    "training.init_from",
    "training.max_memory_mib",
    "checkpoints.every",
    "checkpoints.keep_last",
    "eval.every",
    "eval.contexts",
    // It decides where the run ends and nothing before that.
    "early_stopping",
    "early_stopping.metric",
    "early_stopping.mode",
    "early_stopping.patience",
    "early_stopping.min_delta",
];

/// Keys that set the length: changing them is allowed and worth a word.
const LENGTH: &[&str] = &["training.tokens", "training.epochs", "training.steps"];

/// Compares `config` with the run.toml at `old`.
///
/// # Errors
/// `checkpoint-mismatch` naming the first key that differs and both values.
pub fn check(old: &Path, config: &RunConfig) -> Result<Option<String>> {
    let text = std::fs::read_to_string(old).map_err(|e| Error::read(old, &e))?;
    let parse = |text: &str| -> Result<Table> {
        toml::from_str(text).map_err(|e: toml::de::Error| {
            let message = format!("cannot be understood: {}", e.message());
            Error::new(Code::CheckpointMismatch, old.display(), message)
        })
    };
    let mut differing = Vec::new();
    compare(
        "",
        &parse(&text)?,
        &parse(&config.to_toml()?)?,
        &mut differing,
    );
    let mut length = None;
    for (key, was, is) in differing {
        if FREE.contains(&key.as_str()) {
            continue;
        }
        if LENGTH.contains(&key.as_str()) {
            length = Some("the length of the run changed; schedules follow the new one".into());
            continue;
        }
        let message = format!("{key} was {was} when the run began and is {is} now");
        return Err(Error::new(Code::CheckpointMismatch, old.display(), message)
            .hint("set it back, or start a new run in another folder with --out"));
    }
    Ok(length)
}

fn compare(prefix: &str, a: &Table, b: &Table, differing: &mut Vec<(String, String, String)>) {
    let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let name = format!("{prefix}{key}");
        match (a.get(key), b.get(key)) {
            (Some(Value::Table(a)), Some(Value::Table(b))) => {
                compare(&format!("{name}."), a, b, differing);
            }
            (a, b) if a != b => differing.push((name, show(a), show(b))),
            _ => {}
        }
    }
}

fn show(value: Option<&Value>) -> String {
    match value {
        None => "not set".into(),
        // As people write it: 8, not 8.0.
        Some(Value::Float(number)) => number.to_string(),
        Some(value) => value.to_string(),
    }
}

//! `run.toml` and `daemon.toml` to validated types; errors name file, line and key.

mod control;
pub mod daemon;
mod file;
pub mod redact;
mod run;
pub mod settings;
pub mod sweep;
mod tokens;

pub use run::{CheckpointTable, EvalTable, ModelTable, NonFinitePolicy, RunConfig, TrainingTable};
pub use tokens::TokenRequest;

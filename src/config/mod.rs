//! `run.toml` to validated types; errors name file, line and key.

pub mod daemon;
mod file;
mod run;
pub mod sweep;
mod tokens;

pub use run::{CheckpointTable, EvalTable, ModelTable, NonFinitePolicy, RunConfig, TrainingTable};
pub use tokens::TokenRequest;

//! `run.toml` to validated types; errors name file, line and key.

mod file;
mod run;

pub use run::{
    CheckpointTable, DeviceName, EvalTable, ModelTable, NonFinitePolicy, RunConfig, TrainingTable,
};

//! `run.toml` to validated types; errors name file, line and key.

pub mod file;

//! run.toml to validated types.

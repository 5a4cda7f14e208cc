//! Log records to standard error: a line each, for people and journald, or JSON.

use crate::domain::{Code, Error, Result};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Begins to log what `level`, a filter of `tracing-subscriber`, lets through.
///
/// # Errors
/// `config-invalid` for a filter that cannot be understood.
pub fn start(level: &str, json: bool) -> Result<()> {
    let filter = EnvFilter::try_new(level).map_err(|e| {
        Error::new(Code::ConfigInvalid, "log.level", e).hint("e.g. info, or backpropd=debug,warn")
    })?;
    let records = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // journald notes the time itself.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    match (json, journal) {
        (true, _) => records.json().init(),
        (false, true) => records.without_time().init(),
        (false, false) => records.init(),
    }
    Ok(())
}

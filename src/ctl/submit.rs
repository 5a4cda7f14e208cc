//! `ctl submit`.

use super::{Session, watch};
use crate::domain::{Code, Error, Result};
use crate::protocol::api::{RunView, Submit};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Queue a run
#[derive(Args)]
pub struct SubmitArgs {
    /// The run: model, hook points, text, autoencoder, training
    run: PathBuf,
    /// Replace a value of run.toml, e.g. --set sae.k=64; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Higher ones are started first
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    priority: i64,
    /// Queue it once only: a later submission with the same key names the run that the
    /// first one made
    #[arg(long)]
    key: Option<String>,
    /// Pause from this temperature of its GPU on; it only ever lowers what the host allows
    #[arg(long, value_name = "CELSIUS")]
    max_temperature: Option<f64>,
    /// Follow it until it ends
    #[arg(long)]
    watch: bool,
}

/// Queues, and follows where asked to.
pub fn submit(session: &Session, args: SubmitArgs) -> Result<ExitCode> {
    let path = &args.run;
    let run_toml = std::fs::read_to_string(path).map_err(|e| {
        let message = format!("cannot be read: {e}");
        Error::new(Code::ConfigMissing, path.display(), message).hint("give the path of a run.toml")
    })?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let base = std::path::absolute(folder).map_err(|e| Error::read(folder, &e))?;
    let request = Submit {
        max_temperature: args.max_temperature,
        run_toml,
        base,
        file: path.display().to_string(),
        set: args.set,
        priority: args.priority,
        key: args.key,
    };
    let run: RunView = session.client.post("/v1/runs", &request)?;
    if !(args.watch && session.json) {
        session.print(&run, |run| {
            format!("run {} ({}) is {}\n", run.id, run.name, run.state)
        });
    }
    match args.watch {
        true => watch::watch(session, run.id, true),
        false => Ok(ExitCode::SUCCESS),
    }
}

//! `ctl sweep`: many runs from one specification.

mod render;
mod watch;

use super::Session;
use crate::domain::{Code, Error, Result};
use crate::protocol::sweep::{SubmitSweep, SweepAcknowledged, SweepView, Why};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The verbs of `ctl sweep`.
#[derive(Subcommand)]
pub enum SweepVerb {
    /// Begin a sweep
    Submit(SubmitArgs),
    /// All sweeps, newest first
    List,
    /// One sweep: its runs, their settings and measures
    Show(One),
    /// Follow a sweep until it ends, a line for each run; survives restarts of the daemon
    Watch(One),
    /// Let all runs wait and begin no other
    Pause(One),
    /// Go on with a sweep that was paused or stopped
    Resume(One),
    /// Save all runs and end
    Stop(End),
    /// End all runs without saving
    Abort(End),
    /// A page that compares the runs
    Report(ReportArgs),
}

/// Which sweep
#[derive(Args)]
pub struct One {
    /// The sweep's number, or its name where it is unique
    sweep: String,
}

/// Which sweep, and why it ends
#[derive(Args)]
pub struct End {
    #[command(flatten)]
    one: One,
    /// For whoever looks at the end of the sweep
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// What to begin
#[derive(Args)]
pub struct SubmitArgs {
    /// The sweep.toml; it names the run.toml of its runs
    sweep: PathBuf,
    /// Replace a value of every run.toml, e.g. --set training.steps=500; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Begin it once only: a later submission with the same key names the sweep that the
    /// first one made
    #[arg(long)]
    key: Option<String>,
    /// Follow it until it ends
    #[arg(long)]
    watch: bool,
}

/// Which sweep, and where the page goes
#[derive(Args)]
pub struct ReportArgs {
    #[command(flatten)]
    one: One,
    /// The file that is written
    #[arg(long, value_name = "FILE", default_value = "sweep.html")]
    out: PathBuf,
}

/// Runs the command.
pub fn sweep(session: &Session, verb: SweepVerb) -> Result<ExitCode> {
    match verb {
        SweepVerb::Submit(args) => return submit(session, args),
        SweepVerb::List => {
            let sweeps: Vec<SweepView> = session.client.get("/v1/sweeps")?;
            session.print(&sweeps, |sweeps| render::list(sweeps));
        }
        SweepVerb::Show(one) => {
            let sweep = find(session, &one.sweep)?;
            session.print(&sweep, render::sweep);
        }
        SweepVerb::Watch(one) => {
            let sweep = find(session, &one.sweep)?;
            return watch::watch(session, sweep.id);
        }
        SweepVerb::Pause(one) => order(session, &one, "pause", None)?,
        SweepVerb::Resume(one) => order(session, &one, "resume", None)?,
        SweepVerb::Stop(end) => order(session, &end.one, "stop", end.reason)?,
        SweepVerb::Abort(end) => order(session, &end.one, "abort", end.reason)?,
        SweepVerb::Report(args) => {
            let id = find(session, &args.one.sweep)?.id;
            let page = session.client.text(&format!("/v1/sweeps/{id}/report"))?;
            std::fs::write(&args.out, page).map_err(|e| Error::write(&args.out, &e))?;
            println!("{}", args.out.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn submit(session: &Session, args: SubmitArgs) -> Result<ExitCode> {
    let path = &args.sweep;
    let sweep_toml = text(path, "give the path of a sweep.toml")?;
    // The daemon says what else is wrong with it.
    let table: toml::Table = toml::from_str(&sweep_toml).unwrap_or_default();
    let run = table.get("run").and_then(toml::Value::as_str);
    let run = path.with_file_name(run.unwrap_or("run.toml"));
    let request = SubmitSweep {
        base: folder_of(path)?,
        file: path.display().to_string(),
        run_toml: text(
            &run,
            "`run` of the sweep.toml names the run.toml of its runs",
        )?,
        run_base: folder_of(&run)?,
        run_file: run.display().to_string(),
        sweep_toml,
        set: args.set,
        key: args.key,
    };
    let sweep: SweepView = session.client.post("/v1/sweeps", &request)?;
    if !(args.watch && session.json) {
        session.print(&sweep, |sweep| {
            let runs = sweep.runs_planned;
            format!("sweep {} ({}) has {runs} runs\n", sweep.id, sweep.name)
        });
    }
    match args.watch {
        true => watch::watch(session, sweep.id),
        false => Ok(ExitCode::SUCCESS),
    }
}

fn text(path: &Path, hint: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| {
        let message = format!("cannot be read: {e}");
        Error::new(Code::ConfigMissing, path.display(), message).hint(hint)
    })
}

fn folder_of(path: &Path) -> Result<PathBuf> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::path::absolute(folder).map_err(|e| Error::read(folder, &e))
}

/// A sweep by number or name.
fn find(session: &Session, sweep: &str) -> Result<SweepView> {
    let id = match sweep.parse::<i64>() {
        Ok(id) => id,
        Err(_) => {
            let sweeps: Vec<SweepView> = session.client.get("/v1/sweeps")?;
            let mut named = sweeps.into_iter().filter(|s| s.name == sweep);
            match (named.next(), named.next()) {
                (Some(found), None) => found.id.0,
                (None, _) => {
                    let error = Error::new(Code::NotFound, sweep, "there is no such sweep");
                    return Err(error.hint("`backpropd ctl sweep list` lists them"));
                }
                (Some(a), Some(b)) => {
                    let ids = format!("{} and {} among them", a.id, b.id);
                    let message = format!("several sweeps have this name, {ids}");
                    return Err(Error::new(Code::NotFound, sweep, message)
                        .hint("name the sweep by its number"));
                }
            }
        }
    };
    session.client.get(&format!("/v1/sweeps/{id}"))
}

fn order(session: &Session, one: &One, command: &str, reason: Option<String>) -> Result<()> {
    let id = find(session, &one.sweep)?.id;
    let path = format!("/v1/sweeps/{id}/{command}");
    let done: SweepAcknowledged = session.client.post(&path, &Why { reason })?;
    session.print(&done, |done| format!("{}\n", done.message));
    Ok(())
}

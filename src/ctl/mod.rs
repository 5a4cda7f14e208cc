//! `backpropd ctl VERB`: a client of the daemon. It knows the protocol and nothing of
//! training.

mod actors;
mod assets;
mod client;
mod config;
mod datasets;
mod follow;
mod gpus;
mod handlers;
mod line;
mod logs;
mod metrics;
mod models;
mod render;
mod submit;
mod sweep;
mod watch;

use crate::domain::{Code, Error, Printable, Result};
use crate::protocol::api::{Acknowledged, RunView, Status};
use crate::protocol::service::ActorView;
use clap::{Args, Subcommand};
use client::{Client, Place};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where a service's socket lies.
const SYSTEM_SOCKET: &str = "/run/backpropd/control.sock";

/// Steer a running daemon
#[derive(Args)]
pub struct CtlArgs {
    /// The daemon's control socket; by default $BACKPROPD_SOCKET, else the service's, else
    /// the user's
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// A daemon at an address (`control.tcp`) instead, e.g. http://127.0.0.1:8970
    #[arg(long, global = true, value_name = "URL", conflicts_with = "socket")]
    url: Option<String>,
    /// A file with the token for --url; by default $BACKPROPD_TOKEN_FILE
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// The daemon at a glance
    Status,
    /// Queue a run
    Submit(submit::SubmitArgs),
    /// All runs, newest first
    Runs,
    /// One run
    Show(One),
    /// Follow a run until it ends; survives restarts of the daemon
    Watch(One),
    /// Let a run wait, keeping everything in memory
    Pause(One),
    /// Go on with a run that was paused or stopped
    Resume(One),
    /// Save a checkpoint and end
    Stop(One),
    /// End without saving
    Abort(One),
    /// Run again what failed or was aborted, from its newest checkpoint
    Retry(One),
    /// Event handlers: what is done with events
    Handlers(handlers::HandlersArgs),
    /// Language models that runs may refer to by name
    Models(models::ModelsArgs),
    /// Datasets that runs may refer to by name
    Datasets(datasets::DatasetsArgs),
    /// The GPUs: how they are, and which runs compute on them
    Gpus(gpus::GpusArgs),
    /// Many runs from one specification: list, grid or random sweep
    #[command(subcommand)]
    Sweep(sweep::SweepVerb),
    Metrics(metrics::MetricsArgs),
    Logs(logs::LogsArgs),
    /// The daemon's parts, as their supervisor sees them
    Actors,
    /// The settings in use, without secrets
    Config,
    /// Read daemon.toml again, and use what can change without a restart
    Reload,
    /// Save all runs and end the daemon
    Shutdown,
}

/// Which run
#[derive(Args)]
struct One {
    /// The run's number, or its name where it is unique among the runs that are known
    run: String,
}

/// Runs the command.
///
/// # Errors
/// `daemon-unavailable`, or what the daemon answers.
pub fn ctl(args: CtlArgs) -> Result<ExitCode> {
    let client = Client::new(place(&args)?)?;
    let session = Session {
        client,
        json: args.json,
    };
    match args.verb {
        Verb::Status => {
            let status: Status = session.client.get("/v1/status")?;
            session.print(&status, render::status);
        }
        Verb::Submit(args) => return submit::submit(&session, args),
        Verb::Runs => {
            let runs: Vec<RunView> = session.client.get("/v1/runs")?;
            session.print(&runs, |runs| render::runs(runs));
        }
        Verb::Show(one) => {
            let run = session.find(&one.run)?;
            session.print(&run, render::run);
        }
        Verb::Watch(one) => {
            let run = session.find(&one.run)?;
            return watch::watch(&session, run.id, session.json);
        }
        Verb::Pause(one) => session.command(&one.run, "pause")?,
        Verb::Resume(one) => session.command(&one.run, "resume")?,
        Verb::Stop(one) => session.command(&one.run, "stop")?,
        Verb::Abort(one) => session.command(&one.run, "abort")?,
        Verb::Retry(one) => session.command(&one.run, "retry")?,
        Verb::Handlers(args) => handlers::handlers(&session, args)?,
        Verb::Models(args) => models::models(&session, args)?,
        Verb::Datasets(args) => datasets::datasets(&session, args)?,
        Verb::Gpus(args) => gpus::gpus(&session, args)?,
        Verb::Sweep(verb) => return sweep::sweep(&session, verb),
        Verb::Metrics(args) => metrics::metrics(&session, &args)?,
        Verb::Logs(args) => logs::logs(&session, &args)?,
        Verb::Actors => {
            let actors: Vec<ActorView> = session.client.get("/v1/actors")?;
            session.print(&actors, |actors| actors::render(actors));
        }
        Verb::Config => config::config(&session)?,
        Verb::Reload => config::reload(&session)?,
        Verb::Shutdown => {
            let said: serde_json::Value = session.client.post("/v1/shutdown", &())?;
            session.print(&said, |_| "the daemon saves all runs and ends\n".to_owned());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn place(args: &CtlArgs) -> Result<Place> {
    if let Some(url) = &args.url {
        let file = args.token_file.clone();
        let file = file.or_else(|| std::env::var_os("BACKPROPD_TOKEN_FILE").map(PathBuf::from));
        return Place::address(url, file.as_deref());
    }
    let socket = args.socket.clone().or_else(find_socket);
    socket.map(Place::Socket).ok_or_else(|| {
        let message = "nothing says where it is";
        Error::new(Code::DaemonUnavailable, "control socket", message).hint("name it with --socket")
    })
}

fn find_socket() -> Option<PathBuf> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let home = || {
        let state =
            variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")));
        Some(state?.join("backpropd/control.sock"))
    };
    let system = Path::new(SYSTEM_SOCKET);
    variable("BACKPROPD_SOCKET")
        .or_else(|| system.exists().then(|| system.to_owned()))
        .or_else(|| Some(variable("XDG_RUNTIME_DIR")?.join("backpropd.sock")))
        .or_else(home)
}

/// A daemon, and how its answers are shown.
struct Session {
    client: Client,
    json: bool,
}

impl Session {
    fn print<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) {
        put(&match self.json {
            true => format!("{}\n", serde_json::json!(value)),
            // Names and messages are other people's words.
            false => text(value)
                .lines()
                .map(|line| format!("{}\n", Printable(line)))
                .collect(),
        });
    }

    /// A run by number or name.
    fn find(&self, run: &str) -> Result<RunView> {
        if let Ok(id) = run.parse::<i64>() {
            return self.client.get(&format!("/v1/runs/{id}"));
        }
        let runs: Vec<RunView> = self.client.get("/v1/runs")?;
        let mut named = runs.into_iter().filter(|r| r.name == run);
        match (named.next(), named.next()) {
            (Some(run), None) => Ok(run),
            (None, _) => Err(Error::new(Code::NotFound, run, "there is no such run")
                .hint("`backpropd ctl runs` lists them")),
            (Some(a), Some(b)) => {
                let message = format!(
                    "several runs have this name, {} and {} among them",
                    a.id, b.id
                );
                Err(Error::new(Code::NotFound, run, message).hint("name the run by its number"))
            }
        }
    }

    fn command(&self, run: &str, command: &str) -> Result<()> {
        let id = self.find(run)?.id;
        let done: Acknowledged = self.client.post(&format!("/v1/runs/{id}/{command}"), &())?;
        self.print(&done, |done| format!("{}\n", done.message));
        Ok(())
    }
}

/// Prints `text`. When whoever reads it has seen enough, as `head` has, this program ends.
fn put(text: &str) {
    let mut out = std::io::stdout().lock();
    if out
        .write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(0);
    }
}

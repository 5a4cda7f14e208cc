//! `backpropd bench daemon`: what the service costs, and how soon it answers.

mod bus;
mod http;
mod latency;
mod restarts;
mod served;
mod training;

use crate::domain::{Code, Error, Result};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// Measures the service: how soon it is ready, what it holds when idle, how soon it answers
/// alone and in a crowd, how soon an actor is back after a panic, what the bus of events
/// carries, and what training loses when it runs under it
#[derive(Clone, Debug, clap::Args)]
pub struct DaemonArgs {
    /// The run that is trained in turn in the foreground and under the daemon
    #[arg(
        long,
        value_name = "RUN.toml",
        default_value = "examples/quickstart/run.toml"
    )]
    run: PathBuf,
    /// Its training.tokens
    #[arg(long, default_value_t = 819_200)]
    tokens: u64,
    /// Pairs of runs to take the median of; 0 leaves training out
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Requests to take the quantiles of
    #[arg(long, default_value_t = 2000)]
    requests: usize,
    /// Clients of the crowd: each follows the events and asks for the status once a second
    #[arg(long, default_value_t = 500)]
    clients: usize,
    /// One line of JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Quantiles of what was timed, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Quantiles {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Quantiles {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |part: f64| {
            let last = times.len().saturating_sub(1);
            let time = times.get((last as f64 * part) as usize).copied();
            1e3 * time.unwrap_or_default().as_secs_f64()
        };
        Self {
            p50: at(0.5),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
struct Figures {
    /// From the start of the process to READY=1.
    ready: Quantiles,
    /// Resident memory of the idle daemon, MiB; absent where the system does not say.
    idle_memory_mib: Option<f64>,
    /// A connection, GET /v1/status, and its answer.
    status_idle: Quantiles,
    /// The whole process `backpropd ctl status`.
    ctl_status_idle: Quantiles,
    clients: usize,
    /// As `status_idle`, with that many clients.
    status_crowded: Quantiles,
    /// From an actor's panic to the end of the next one's start.
    restart: Quantiles,
    /// 100,000 events a second for two seconds.
    bus: bus::Figures,
    /// Absent where it was left out.
    training: Option<training::Figures>,
}

/// Measures and prints.
///
/// # Errors
/// `usage`; `config-missing` where the run is not there; `daemon-unavailable` where the
/// daemon does not come up.
pub fn daemon(args: &DaemonArgs) -> Result<()> {
    if args.requests == 0 {
        return Err(Error::new(Code::Usage, "--requests", "must be at least 1"));
    }
    let folder = tempfile::tempdir().map_err(|e| Error::write("a temporary folder", &e))?;
    let (ready, idle_memory_mib) = served::ready_and_memory(folder.path())?;
    let restart = restarts::measure();
    let bus = bus::measure(folder.path())?;
    let latencies = latency::measure(folder.path(), args.requests, args.clients)?;
    let training = match args.pairs {
        0 => None,
        pairs => Some(training::measure(
            folder.path(),
            &args.run,
            args.tokens,
            pairs,
        )?),
    };
    let figures = Figures {
        ready,
        idle_memory_mib,
        status_idle: latencies.idle,
        ctl_status_idle: latencies.process,
        clients: args.clients,
        status_crowded: latencies.crowded,
        restart,
        bus,
        training,
    };
    match args.json {
        true => println!("{}", serde_json::json!(figures)),
        false => print!("{}", table(&figures)),
    }
    Ok(())
}

fn table(f: &Figures) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["", "p50", "p99", "most", "aim"]);
    let mut row = |what: String, q: Quantiles, aim: &str| {
        let ms = |ms: f64| format!("{ms:.2} ms");
        table.add_row([what, ms(q.p50), ms(q.p99), ms(q.max), aim.to_owned()]);
    };
    row("start to READY=1".into(), f.ready, "100 ms");
    row("a status, idle".into(), f.status_idle, "p99 5 ms");
    row("`ctl status`, idle".into(), f.ctl_status_idle, "");
    let crowd = format!("a status, {} clients", f.clients);
    row(crowd, f.status_crowded, "p99 20 ms");
    row("panic to restart".into(), f.restart, "p99 10 ms");
    let memory = match f.idle_memory_mib {
        Some(mib) => format!("{mib:.1} MiB"),
        None => "not known".to_owned(),
    };
    let mut text = format!("{table}\nresident when idle: {memory} (aim 25 MiB)\n");
    text += &f.bus.lines();
    if let Some(training) = &f.training {
        text += &training.lines();
    }
    text
}

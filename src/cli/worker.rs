//! `backpropd worker`: one run in a process of its own, driven through its standard input
//! and output as [`crate::protocol::wire`] says.
//!
//! It outlives nobody: where its parent goes away it saves a checkpoint and ends, and so it
//! does on SIGTERM. Its last frame says how the run ended; its exit status is that of
//! `train`.

use super::asset_worker;
use super::signals::Signals;
use crate::config::RunConfig;
use crate::domain::{Code, Error, Result};
use crate::protocol::wire::{self, Begin, Start, Up};
use crate::protocol::{Command, Fact, VERSION};
use crate::worker::link::{Listener, Next, WorkerLink, link};
use crate::worker::{self, Job, Resume, Sharing};
use rustix::process::{Resource, Rlimit, setrlimit};
use signal_hook::consts::SIGHUP;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How often a worker says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Runs the command.
pub fn worker() -> Result<ExitCode> {
    make_expendable();
    let mut input = BufReader::new(std::io::stdin());
    let begin: Begin = wire::read_line(&mut input)?.ok_or_else(|| {
        Error::new(Code::ProtocolInvalid, "worker", "was told nothing")
            .hint("it is started by the daemon; to run in the foreground use backpropd train")
    })?;
    let start = match begin {
        Begin::Train(start) => start,
        Begin::Asset(start) => return asset_worker::work(start, input),
    };
    limit_memory(start.memory_mib);
    let job = job(&start)?;
    let (worker, listener) = link(&job.config.name);
    let signals = Signals::catch(&listener)?;
    let thread = std::thread::Builder::new()
        .name("device".into())
        .spawn(move || run(job, &worker))
        .map_err(|e| Error::new(Code::Internal, "worker", e))?;
    let (commands, state) = (listener.clone(), signals.clone());
    std::thread::Builder::new()
        .name("commands".into())
        .spawn(move || obey(&mut input, &commands, &state))
        .map_err(|e| Error::new(Code::Internal, "worker", e))?;
    tell(&listener, &signals);
    match thread.join() {
        Ok(Ok(())) => Ok(signals.exit_code()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::new(Code::Internal, "worker", "panicked")),
    }
}

/// Where memory runs out the system shall end a worker, not the daemon; a worker's memory is
/// the language model's, so it leaves no core file. Neither is needed to run.
fn make_expendable() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
}

/// What is over the limit is refused by the system, which costs this process at most.
fn limit_memory(mib: u64) {
    if mib == 0 {
        return;
    }
    let bytes = Some(mib << 20);
    let limit = Rlimit {
        current: bytes,
        maximum: bytes,
    };
    if let Err(e) = setrlimit(Resource::As, limit) {
        eprintln!("memory is not limited: {e}");
    }
}

fn job(start: &Start) -> Result<Job> {
    if start.v != VERSION {
        let message = format!(
            "speaks version {VERSION} and was spoken to in version {}",
            start.v
        );
        return Err(Error::new(Code::ProtocolInvalid, "worker", message));
    }
    Ok(Job {
        config: RunConfig::parse("run.toml", &start.run_toml, Path::new("/"), &[])?,
        device: start.device,
        threads: start.threads,
        sharing: Sharing::Among(start.runs_per_gpu),
        resume: Resume::IfAny,
    })
}

/// A panic of the run loop is its last fact too.
fn run(job: Job, worker: &WorkerLink) -> Result<()> {
    let result =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker::run(job, worker)));
    result.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("a panic without a message");
        let error = Error::new(Code::Internal, "worker", format_args!("panicked: {text}"))
            .hint("this is a defect of backpropd; the last checkpoint is intact");
        worker.send(Fact::failed(0, &error));
        Err(error)
    })
}

/// Hands commands on until the parent is gone or talks nonsense.
fn obey(input: &mut impl BufRead, listener: &Listener, signals: &Signals) {
    while let Ok(Some(command)) = wire::read_line::<Command>(input) {
        let ends = matches!(command, Command::Stop | Command::Abort);
        if ends && !signals.has_training_begun() {
            // There is nothing to save yet, and caches are written under temporary names.
            signal_hook::low_level::exit(128 + SIGHUP);
        }
        listener.command(command);
    }
    if !signals.has_training_begun() {
        signal_hook::low_level::exit(128 + SIGHUP);
    }
    listener.command(Command::Stop);
}

/// Writes facts and heartbeats to standard output until the run is over.
fn tell(listener: &Listener, signals: &Signals) {
    let mut out = std::io::stdout().lock();
    let mut last_beat = Instant::now();
    let mut listening = true;
    loop {
        let up = match listener.next(HEARTBEAT) {
            Next::Closed => return,
            Next::Nothing => None,
            Next::Frame(frame) => {
                if matches!(frame.fact, Fact::RunStarted { .. }) {
                    signals.training_began();
                }
                Some(Up::Frame(frame))
            }
        };
        if let Some(up) = up {
            listening = listening && write(&mut out, &up, listener);
        }
        if last_beat.elapsed() >= HEARTBEAT {
            last_beat = Instant::now();
            let heartbeat = listener.beats();
            listening = listening && write(&mut out, &Up::Heartbeat { heartbeat }, listener);
        }
    }
}

/// Where nobody reads any more the run saves and ends, without being heard.
fn write(out: &mut impl Write, up: &Up, listener: &Listener) -> bool {
    let written = wire::write_line(out, up).is_ok();
    if !written {
        listener.command(Command::Stop);
    }
    written
}

//! `backpropd train RUN.toml`: one run in the foreground, no daemon needed.

mod summary;

use super::signals::Signals;
use crate::config::RunConfig;
use crate::domain::{Code, DeviceName, Error, Result};
use crate::protocol::{Ending, Fact};
use crate::report::screen::{Mode, Screen};
use crate::worker::{
    self, Job, Resume, Sharing,
    link::{Listener, Next, link},
};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Train the autoencoders that a run.toml describes
#[derive(Args)]
#[command(
    after_help = "Ctrl-C (SIGINT), SIGTERM and SIGHUP save a checkpoint and end the run with \
                        exit status 130, 143 or 129; go on with --resume. A second one ends it at \
                        once."
)]
pub struct TrainArgs {
    /// The run: model, hook points, text, autoencoder, training
    run: PathBuf,
    /// Where to compute: auto, cpu, or cuda[:N] for an NVIDIA GPU. auto is the CPU until the
    /// kernels were measured on GPUs
    #[arg(long, default_value_t = DeviceName::Auto)]
    device: DeviceName,
    /// Threads of the CPU device; 0 means one a core. Results do not depend on it
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Train on the GPU beside other runs of backpropd, which otherwise have it for themselves
    #[arg(long)]
    share_gpu: bool,
    /// The run folder; replaces `output` of run.toml
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Go on from the newest valid checkpoint of the run folder
    #[arg(long)]
    resume: bool,
    /// Replace a value of run.toml, e.g. --set sae.k=64; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Print nothing but warnings and errors
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    /// Print every event as one line of JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn train(args: TrainArgs) -> Result<ExitCode> {
    let mut config = RunConfig::read(&args.run, &args.overrides)?;
    if let Some(out) = args.out {
        config.output = out;
    }
    let mode = match (args.quiet, args.json) {
        (true, _) => Mode::Quiet,
        (_, true) => Mode::Json,
        _ => Mode::Person,
    };
    let (worker, listener) = link(&config.name);
    let signals = Signals::catch(&listener)?;
    let job = Job {
        config,
        device: args.device,
        threads: args.threads,
        sharing: match args.share_gpu {
            true => Sharing::Anybody,
            false => Sharing::Nobody,
        },
        resume: match args.resume {
            true => Resume::Yes,
            false => Resume::No,
        },
    };
    let thread = std::thread::Builder::new()
        .name("worker".into())
        .spawn(move || worker::run(job, &worker))
        .map_err(|e| Error::new(Code::Internal, "worker", e))?;
    let mut screen = Screen::new(mode);
    let ended = watch(&listener, &mut screen, &signals);
    screen.clear();
    let dropped = listener.dropped();
    if dropped > 0 {
        screen.line(&format!(
            "warning: {dropped} events were not shown in time and were dropped"
        ));
    }
    let result = thread.join().map_err(|_| {
        Error::new(
            Code::Internal,
            "worker",
            "panicked; the message stands above",
        )
        .hint("the last checkpoint is intact: go on with --resume")
    })?;
    result?;
    match ended {
        Some(Ended::Well(ending, early)) => {
            if mode == Mode::Person {
                summary::print(&ending, early.as_ref());
            }
            Ok(ExitCode::SUCCESS)
        }
        Some(Ended::Stopped(ending)) => {
            if mode == Mode::Person {
                summary::print_stopped(&ending);
            }
            Ok(signals.exit_code())
        }
        None => Err(Error::new(
            Code::Internal,
            "worker",
            "ended without a last event",
        )),
    }
}

enum Ended {
    /// With the words of early stopping, where that ended it.
    Well(Ending, Option<String>),
    Stopped(Ending),
}

fn watch(listener: &Listener, screen: &mut Screen, signals: &Signals) -> Option<Ended> {
    let mut ended = None;
    loop {
        let frame = match listener.next(Duration::from_millis(200)) {
            Next::Frame(frame) => frame,
            Next::Nothing => continue,
            Next::Closed => return ended,
        };
        screen.show(&frame);
        match frame.fact {
            Fact::RunStarted { .. } => signals.training_began(),
            Fact::RunCompleted(ending) => ended = Some(Ended::Well(ending, None)),
            Fact::EarlyStopped(stop) => {
                let why = stop.why();
                ended = Some(Ended::Well(stop.ending, Some(why)));
            }
            Fact::Stopped(ending) | Fact::Aborted(ending) => ended = Some(Ended::Stopped(ending)),
            _ => {}
        }
    }
}

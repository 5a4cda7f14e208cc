//! The command line: arguments to calls, errors to one line and an exit status.

mod asset_worker;
mod bench_daemon;
mod bench_gpu;
mod bench_lm;
mod bench_step;
mod capture;
mod confined;
mod daemon;
mod shell;
mod signals;
mod train;
mod worker;

use crate::ctl::{self, CtlArgs};
use crate::domain::{Error, Printable};
use crate::handlers::Kinds;
use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// Trains sparse autoencoders on the activations of language models.
#[derive(Parser)]
#[command(
    name = "backpropd",
    version,
    max_term_width = 100,
    args_override_self = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(train::TrainArgs),
    Daemon(daemon::DaemonArgs),
    Ctl(CtlArgs),
    Capture(capture::CaptureArgs),
    #[command(subcommand)]
    Bench(Bench),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
    #[command(hide = true)]
    Worker,
    #[command(hide = true)]
    Confined(confined::ConfinedArgs),
}

/// Measure this machine on the work of a run
#[derive(Subcommand)]
enum Bench {
    Daemon(bench_daemon::DaemonArgs),
    Lm(bench_lm::LmArgs),
    Step(bench_step::StepArgs),
}

/// The program that runs, even where its file was replaced meanwhile.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    main_with(Kinds::builtin())
}

/// As [`main()`], for a program with kinds of event handlers of its own.
pub fn main_with(kinds: Kinds) -> ExitCode {
    let result = match Cli::parse().command {
        Command::Train(args) => train::train(args),
        Command::Capture(args) => capture::capture(args).map(|()| ExitCode::SUCCESS),
        Command::Daemon(args) => daemon::daemon(args, kinds),
        Command::Ctl(args) => ctl::ctl(args),
        Command::Completions(args) => {
            shell::completions(&args, Cli::command()).map(|()| ExitCode::SUCCESS)
        }
        Command::Man(args) => shell::man(&args, Cli::command()).map(|()| ExitCode::SUCCESS),
        Command::Worker => worker::worker(),
        Command::Confined(args) => Ok(confined::confined(args)),
        Command::Bench(Bench::Daemon(args)) => {
            bench_daemon::daemon(&args).map(|()| ExitCode::SUCCESS)
        }
        Command::Bench(Bench::Lm(args)) => bench_lm::lm(args).map(|()| ExitCode::SUCCESS),
        Command::Bench(Bench::Step(args)) => bench_step::step(&args).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| fail(&error))
}

/// Prints `error` as one line; its code decides the exit status.
fn fail(error: &Error) -> ExitCode {
    eprintln!("error: {}", Printable(&error.to_string()));
    ExitCode::from(error.code.exit_status())
}

//! The command line: arguments to calls, errors to one line and an exit status.

pub mod bench_lm;
pub mod capture;
mod train;

use crate::domain::Error;
use clap::{Parser, Subcommand};
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
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Train(args) => train::train(args),
    };
    result.unwrap_or_else(|error| fail(&error))
}

/// Prints `error` as one line; its code decides the exit status.
fn fail(error: &Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(error.code.exit_status())
}

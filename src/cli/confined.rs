//! `backpropd confined`: becomes a program that somebody else wrote, within limits. The daemon
//! starts it for event handlers of the kind `exec`.

use crate::system::limits::Limits;
use clap::Args;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Arguments of `backpropd confined`.
#[derive(Args)]
pub struct ConfinedArgs {
    #[arg(long, default_value_t)]
    cpu_seconds: u64,
    #[arg(long, default_value_t)]
    memory_mib: u64,
    #[arg(long, default_value_t)]
    open_files: u64,
    #[arg(long, default_value_t)]
    file_mib: u64,
    #[arg(long)]
    new_privileges: bool,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// What a shell says of a program that is not there.
const NOT_THERE: u8 = 127;

/// Becomes the program; returns only where that cannot be.
pub fn confined(args: ConfinedArgs) -> ExitCode {
    let limits = Limits {
        cpu_seconds: args.cpu_seconds,
        memory: args.memory_mib << 20,
        open_files: args.open_files,
        file: args.file_mib << 20,
        new_privileges: args.new_privileges,
    };
    let mut words = args.command.into_iter();
    let mut command = Command::new(words.next().unwrap_or_default());
    match limits.apply() {
        Err(e) => eprintln!("its limits cannot be set: {e}"),
        Ok(()) => eprintln!("cannot be started: {}", command.args(words).exec()),
    }
    ExitCode::from(NOT_THERE)
}

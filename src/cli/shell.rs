//! `backpropd completions` and `backpropd man`: what shells and `man` know of the commands.

use crate::domain::{Error, Result};
use crate::system::files;
use clap::{Args, Command};
use clap_complete::Shell;
use std::io::Write;
use std::path::PathBuf;

/// Print what makes a shell complete the arguments of backpropd
#[derive(Args)]
#[command(
    after_help = "bash: backpropd completions bash > /etc/bash_completion.d/backpropd\n\
                  zsh:  backpropd completions zsh > \"${fpath[1]}/_backpropd\"\n\
                  fish: backpropd completions fish > ~/.config/fish/completions/backpropd.fish"
)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Write a manual page for each command
#[derive(Args)]
#[command(after_help = "Read one with `man -l DIR/backpropd-ctl.1`.")]
pub struct ManArgs {
    /// The folder for them, e.g. /usr/local/share/man/man1; made where it is missing
    dir: PathBuf,
}

/// Prints the completions of `command`.
pub fn completions(args: &CompletionsArgs, mut command: Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "backpropd", &mut script);
    let mut out = std::io::stdout().lock();
    let written = out.write_all(&script).and_then(|()| out.flush());
    written.map_err(|e| Error::write("standard output", &e))
}

/// Writes the pages of `command`.
pub fn man(args: &ManArgs, command: Command) -> Result<()> {
    files::create_dir(&args.dir)?;
    clap_mangen::generate_to(command, &args.dir).map_err(|e| Error::write(&args.dir, &e))
}

//! `exec`: a program is started for each event, which it reads as JSON from its standard
//! input.
//!
//! It gets an environment of its own and a process group of its own, of which nothing is
//! left when it has ended, its deadline has come, or its handler is removed. This program
//! itself starts it, as `backpropd confined`, which sets limits first.

use super::{Ending, EventHandler, Settings};
use crate::domain::{Code, Error, Result};
use crate::protocol::api::Event;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, OFlags, fcntl_setfl, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What is kept of standard error for the error of a program that fails.
const LAST_WORDS: usize = 1024;
/// Reads after the end of a program: as much as a pipe holds, whoever still writes to it.
const PIPE: u32 = 16;
/// How often it is looked whether the handler ends.
const LOOK: Duration = Duration::from_millis(250);
/// Where programs find others.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    /// The program, by its whole path, and its arguments.
    command: Vec<String>,
    /// Variables beside those that every program gets.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Seconds of processor time of each process; 0 for no limit, as in all of these. By
    /// default a minute, or the deadline where that is longer.
    cpu_seconds: Option<u64>,
    /// MiB of address space of each process.
    #[serde(default = "memory")]
    memory_mib: u64,
    /// Files that each process may have open.
    #[serde(default = "open_files")]
    open_files: u64,
    /// MiB of each file that is written.
    #[serde(default = "file")]
    file_mib: u64,
    /// Whether it may become another user, as `sudo` does.
    #[serde(default)]
    new_privileges: bool,
}

fn memory() -> u64 {
    4096
}

fn open_files() -> u64 {
    1024
}

fn file() -> u64 {
    1024
}

/// Processor time in seconds, at least.
const CPU: u64 = 60;
/// No limit is higher: some petabytes, and thousands of years.
const MOST: u64 = 1 << 40;
/// Files without which no program starts.
const FEW: u64 = 16;

/// A program and how it is started.
#[derive(Clone)]
pub(super) struct Exec {
    /// This program, and what it is told of the limits.
    confined: (PathBuf, Vec<String>),
    program: String,
    arguments: Vec<String>,
    env: BTreeMap<String, String>,
    socket: PathBuf,
    deadline: Duration,
    ending: Ending,
}

pub(super) fn prepare(settings: &Settings) -> Result<impl Fn() -> Result<Exec> + use<>> {
    let keys: Keys = settings.decode()?;
    let mut words = keys.command.iter().cloned();
    let program = words.next().unwrap_or_default();
    if !Path::new(&program).is_absolute() {
        let message = format!("{program:?} is not the whole path of a program");
        return Err(settings.invalid("command", message));
    }
    let strange = |name: &&String| name.is_empty() || name.contains(['=', '\0']);
    if let Some(name) = keys.env.keys().find(strange) {
        return Err(settings.invalid("env", format_args!("{name:?} is no name of a variable")));
    }
    let exec = Exec {
        confined: (settings.host.program.clone(), limits(settings, &keys)?),
        program,
        arguments: words.collect(),
        env: keys.env,
        socket: settings.host.socket.clone(),
        deadline: settings.deadline,
        ending: settings.host.ending.clone(),
    };
    Ok(move || Ok(exec.clone()))
}

/// The limits as arguments of `backpropd confined`.
fn limits(settings: &Settings, keys: &Keys) -> Result<Vec<String>> {
    let deadline = settings.deadline.as_secs() + 1;
    let limits = [
        ("cpu_seconds", keys.cpu_seconds.unwrap_or(CPU.max(deadline))),
        ("memory_mib", keys.memory_mib),
        ("open_files", keys.open_files),
        ("file_mib", keys.file_mib),
    ];
    if let Some((name, _)) = limits.iter().find(|(_, value)| *value > MOST) {
        return Err(settings.invalid(name, format_args!("must be {MOST} at most; 0 for no limit")));
    }
    if (1..FEW).contains(&keys.open_files) {
        let message = format!("must be {FEW} at least; 0 for no limit");
        return Err(settings.invalid("open_files", message));
    }
    let option = |(name, value): (&str, u64)| format!("--{}={value}", name.replace('_', "-"));
    let mut options: Vec<String> = limits.into_iter().map(option).collect();
    options.extend(keys.new_privileges.then(|| "--new-privileges".to_owned()));
    Ok(options)
}

impl Exec {
    fn failed(&self, message: impl std::fmt::Display) -> Error {
        Error::new(Code::HandlerFailed, &self.program, message)
    }

    fn spawn(&self, event: &Event) -> std::io::Result<Child> {
        // A file and no pipe: a program that does not read keeps nobody waiting.
        let mut input = File::from(memfd_create("event", MemfdFlags::CLOEXEC)?);
        serde_json::to_writer(&mut input, event)?;
        input.write_all(b"\n")?;
        input.rewind()?;
        let run = event.run.map(|run| ("BACKPROPD_RUN", run.to_string()));
        let (confined, limits) = &self.confined;
        Command::new(confined)
            .arg("confined")
            .args(limits)
            .arg("--")
            .arg(&self.program)
            .args(&self.arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("LANG", "C.UTF-8")
            .env("BACKPROPD_SOCKET", &self.socket)
            .env("BACKPROPD_EVENT", &event.kind)
            .envs(run)
            .envs(&self.env)
            .current_dir("/")
            .process_group(0)
            .stdin(input)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    }
}

impl EventHandler for Exec {
    fn handle(&mut self, event: &Event) -> Result<()> {
        let until = Instant::now() + self.deadline;
        let child = self
            .spawn(event)
            .map_err(|e| self.failed(format_args!("cannot be started: {e}")))?;
        let mut running =
            Running::new(child).map_err(|e| self.failed(format_args!("cannot be watched: {e}")))?;
        let ended = running
            .wait(until, &self.ending)
            .map_err(|e| self.failed(format_args!("cannot be waited for: {e}")))?;
        let words = running.words();
        match ended {
            Some(status) if status.success() => Ok(()),
            Some(status) => {
                let how = match (status.code(), status.signal()) {
                    (Some(code), _) => format!("ended with exit status {code}"),
                    (None, signal) => format!("was killed by signal {}", signal.unwrap_or(0)),
                };
                Err(self.failed(format_args!("{how}{words}")))
            }
            None if self.ending.is_set() => {
                Err(self.failed(format_args!("was killed: its handler ends{words}")))
            }
            None => Err(self.failed(format_args!(
                "did not end within {} s and was killed{words}",
                self.deadline.as_secs_f64()
            ))),
        }
    }
}

/// A program at work. Dropping it kills its process group.
struct Running {
    child: Child,
    pid: Pid,
    pidfd: OwnedFd,
    stderr: Option<ChildStderr>,
    words: Vec<u8>,
}

impl Running {
    fn new(mut child: Child) -> std::io::Result<Self> {
        let pid = Pid::from_child(&child);
        let stderr = child.stderr.take();
        let watched = pidfd_open(pid, PidfdFlags::empty()).and_then(|pidfd| {
            if let Some(stderr) = &stderr {
                fcntl_setfl(stderr, OFlags::NONBLOCK)?;
            }
            Ok(pidfd)
        });
        match watched {
            Ok(pidfd) => Ok(Self {
                child,
                pid,
                pidfd,
                stderr,
                words: Vec::new(),
            }),
            Err(e) => {
                let _ = kill_process_group(pid, Signal::KILL);
                let _ = child.wait();
                Err(e.into())
            }
        }
    }

    /// Waits for the end of the program, and then ends its process group; nothing where
    /// `until`, or the end of the handler, came first.
    fn wait(&mut self, until: Instant, ending: &Ending) -> std::io::Result<Option<ExitStatus>> {
        loop {
            let left = until.saturating_duration_since(Instant::now()).min(LOOK);
            if left.is_zero() || ending.is_set() {
                self.end();
                return Ok(None);
            }
            let exited = {
                let mut fds = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
                fds.extend(
                    self.stderr
                        .as_ref()
                        .map(|fd| PollFd::new(fd, PollFlags::IN)),
                );
                match poll(
                    &mut fds,
                    Some(&Timespec::try_from(left).unwrap_or_default()),
                ) {
                    Ok(_) | Err(Errno::INTR) => !fds[0].revents().is_empty(),
                    Err(e) => return Err(e.into()),
                }
            };
            self.listen();
            if exited {
                let status = self.end();
                // What it still had to say, which lies in the pipe.
                let mut reads = 0;
                while self.listen() && reads < PIPE {
                    reads += 1;
                }
                return Ok(status);
            }
        }
    }

    /// Reads what is there of standard error and keeps the end of it; whether there may be
    /// more.
    fn listen(&mut self) -> bool {
        let Some(stderr) = &mut self.stderr else {
            return false;
        };
        let mut buffer = [0; 4096];
        match stderr.read(&mut buffer) {
            Ok(0) => {
                self.stderr = None;
                false
            }
            Ok(n) => {
                self.words.extend_from_slice(&buffer[..n]);
                let excess = self.words.len().saturating_sub(LAST_WORDS);
                self.words.drain(..excess);
                true
            }
            // Nothing is there.
            Err(_) => false,
        }
    }

    /// Kills whatever is left of the process group, which keeps its number until the leader
    /// was waited for.
    fn end(&mut self) -> Option<ExitStatus> {
        let _ = kill_process_group(self.pid, Signal::KILL);
        self.child.wait().ok()
    }

    fn words(&self) -> String {
        let words = String::from_utf8_lossy(&self.words);
        let words: Vec<&str> = words.split_whitespace().collect();
        match words.is_empty() {
            true => String::new(),
            false => format!("; its last words: {}", words.join(" ").escape_debug()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of no effect where it was waited for: then the standard library knows its status.
        if let Ok(None) = self.child.try_wait() {
            self.end();
        }
    }
}

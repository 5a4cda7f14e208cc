//! A daemon in a process of its own, in a folder that goes when the measurement does.

use super::Quantiles;
use crate::domain::{Code, Error, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Daemons that are started to time their start.
const STARTS: usize = 20;
/// What a daemon may take to be ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// After which a daemon that nobody asks anything is called idle.
const SETTLED: Duration = Duration::from_secs(2);

/// This program.
pub(super) fn program() -> Command {
    // As it runs, also where its file was replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// A daemon that is up.
pub(super) struct Served {
    child: Child,
    pub socket: PathBuf,
    /// From its start to READY=1.
    pub ready: Duration,
}

impl Served {
    /// Starts one in `folder`, with `settings` as its daemon.toml.
    pub fn start(folder: &Path, settings: &str) -> Result<Self> {
        let path = |name: &str| folder.join(name);
        let (socket, notify) = (path("socket"), path("notify"));
        let written = |e: std::io::Error| Error::write(folder, &e);
        std::fs::write(path("daemon.toml"), settings).map_err(written)?;
        let _ = std::fs::remove_file(&notify);
        let manager = UnixDatagram::bind(&notify).map_err(written)?;
        manager.set_read_timeout(Some(PATIENCE)).map_err(written)?;
        let start = Instant::now();
        let child = program()
            .arg("daemon")
            .arg("--config")
            .arg(path("daemon.toml"))
            .env("BACKPROPD_DAEMON__STATE_DIR", path("state"))
            .env("BACKPROPD_CONTROL__SOCKET", &socket)
            .env("NOTIFY_SOCKET", &notify)
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| Error::new(Code::Internal, "daemon", e))?;
        let mut served = Self {
            child,
            socket,
            ready: Duration::ZERO,
        };
        let mut message = [0; 4096];
        loop {
            let len = manager.recv(&mut message).map_err(|e| {
                Error::new(Code::DaemonUnavailable, "daemon", e)
                    .hint("`backpropd daemon` in another terminal shows why it does not start")
            })?;
            if message[..len]
                .split(|b| *b == b'\n')
                .any(|l| l == b"READY=1")
            {
                served.ready = start.elapsed();
                return Ok(served);
            }
        }
    }

    /// Resident memory now, MiB.
    fn memory(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib / 1024.0)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        let _ = kill_process(pid, Signal::TERM);
        let _ = self.child.wait();
    }
}

/// How long a daemon takes to be ready, and what it holds when it has nothing to do.
pub(super) fn ready_and_memory(folder: &Path) -> Result<(Quantiles, Option<f64>)> {
    let mut times = Vec::new();
    for _ in 1..STARTS {
        times.push(Served::start(folder, "")?.ready);
    }
    let last = Served::start(folder, "")?;
    times.push(last.ready);
    std::thread::sleep(SETTLED);
    Ok((Quantiles::of(times), last.memory()))
}

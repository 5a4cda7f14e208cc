//! `backpropd worker` at work on a model or dataset. There is nothing to save: where its
//! parent goes away it gives up.

use crate::domain::{Code, Error, Result};
use crate::protocol::asset::{AssetFact, AssetStart, AssetTask};
use crate::protocol::wire::{self, Up};
use crate::protocol::{Command, VERSION};
use crate::worker::assets::{self, Shared};
use rustix::process::{Resource, Rlimit, setrlimit};
use signal_hook::consts::SIGHUP;
use std::io::BufRead;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often the worker says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// For the work to give up in order, after which nobody may be there to kill it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Does what `start` says, to its end.
///
/// # Errors
/// Whatever ended the work; the parent was told.
pub fn work(start: AssetStart, mut input: impl BufRead + Send + 'static) -> Result<ExitCode> {
    if start.v != VERSION {
        let message = format!(
            "speaks version {VERSION} and was spoken to in version {}",
            start.v
        );
        return Err(Error::new(Code::ProtocolInvalid, "worker", message));
    }
    limit(&start.task);
    let shared = Arc::new(Shared::default());
    let (heard, beating) = (shared.clone(), shared.clone());
    spawn("commands", move || {
        while let Ok(Some(command)) = wire::read_line::<Command>(&mut input) {
            if matches!(command, Command::Stop | Command::Abort) {
                break;
            }
        }
        heard.cancelled.store(true, Ordering::Relaxed);
        std::thread::sleep(PATIENCE);
        signal_hook::low_level::exit(128 + SIGHUP);
    })?;
    spawn("heartbeats", move || {
        loop {
            std::thread::sleep(HEARTBEAT);
            let heartbeat = beating.beats.load(Ordering::Relaxed);
            tell(&Up::Heartbeat { heartbeat });
        }
    })?;
    let done = assets::run(&start.task, &shared, &mut |fact| {
        tell(&Up::Frame(Box::new(fact)))
    });
    done.map(|()| ExitCode::SUCCESS)
}

fn spawn(name: &str, act: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(act);
    thread
        .map(|_| ())
        .map_err(|e| Error::new(Code::Internal, "worker", e))
}

/// A parent that is gone is noticed by the end of the input.
fn tell(up: &Up<AssetFact>) {
    let _ = wire::write_line(&mut std::io::stdout().lock(), up);
}

const MIB: u64 = 1 << 20;

/// Files from elsewhere are read: what they make this process ask for has a bound, and where
/// it is passed the process ends, which its parent survives. The bounds are far above what
/// sound files need.
fn limit(task: &AssetTask) {
    let (data, seconds, writes) = match task {
        AssetTask::Describe { .. } => (512 * MIB, Some(20), false),
        // A part of the weights at a time, in several copies, as 32-bit numbers.
        AssetTask::Verify { model } => (2048 * MIB + 8 * largest_file(model), None, false),
        AssetTask::Validate { .. } => (2048 * MIB, None, false),
        AssetTask::Tokenize { .. } => (8192 * MIB, None, true),
    };
    set(Resource::Data, data);
    if let Some(seconds) = seconds {
        set(Resource::Cpu, seconds);
    }
    if !writes {
        set(Resource::Fsize, 0);
    }
}

fn set(resource: Resource, most: u64) {
    let limit = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    // Without it the work is the same, and less safe.
    let _ = setrlimit(resource, limit);
}

/// Bytes of the largest file in `folder`.
fn largest_file(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| Some(std::fs::metadata(entry.path()).ok()?.len()));
    sizes.max().unwrap_or(0)
}

//! One process at a time in a run folder.
//!
//! The lock is the kernel's (`flock`), so the death of its holder releases it, however it
//! died. What the file says is only there to name the holder to whoever is refused. The
//! file stays when the lock goes: removing it would let two processes lock two files of
//! one name.

use crate::domain::{Code, Error, Result};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// The name of the lock file in a run folder.
pub const FILE_NAME: &str = ".lock";

/// The right to write in a run folder, until it is dropped or the process ends.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
    path: PathBuf,
}

impl RunLock {
    /// Takes the lock of `run_dir`, without waiting.
    ///
    /// # Errors
    /// [`Code::RunBusy`] names the process that holds it; [`Code::IoWrite`] when the
    /// folder cannot be written.
    pub fn acquire(run_dir: &Path) -> Result<Self> {
        let path = run_dir.join(FILE_NAME);
        let fail = |e: std::io::Error| Error::write(&path, &e);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(busy(run_dir, &mut file)),
            Err(errno) => return Err(fail(errno.into())),
        }
        let holder = format!("{} {}\n", std::process::id(), start_ticks().unwrap_or(0));
        file.set_len(0).map_err(fail)?;
        file.write_all(holder.as_bytes()).map_err(fail)?;
        Ok(Self { _file: file, path })
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn busy(run_dir: &Path, file: &mut File) -> Error {
    let mut text = String::new();
    // Empty for the instant between the holder's lock and its note.
    let _ = file.read_to_string(&mut text);
    let holder = match text.split_whitespace().next().map(str::parse::<u32>) {
        Some(Ok(pid)) => format!("process {pid}"),
        _ => "another process".to_owned(),
    };
    Error::new(
        Code::RunBusy,
        run_dir.display(),
        format_args!("{holder} works in this run folder"),
    )
    .hint("wait for it, stop it, or choose another folder")
}

/// When this process started, in clock ticks since boot: with the pid it names a process
/// for as long as the machine is up, although pids come round again.
fn start_ticks() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the name in parentheses, may hold anything; `starttime` is the
    // 22nd field, so the 20th after it (proc(5)).
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_by_the_pid_of_the_first_and_given_once_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let lock = RunLock::acquire(dir.path()).unwrap();
        let note = std::fs::read_to_string(lock.path()).unwrap();
        let mut words = note.split_whitespace().map(|w| w.parse::<u64>().unwrap());
        assert_eq!(words.next(), Some(u64::from(std::process::id())));
        assert!(words.next().unwrap() > 0);

        let error = RunLock::acquire(dir.path()).unwrap_err();
        assert_eq!(error.code, Code::RunBusy);
        assert!(
            error
                .message
                .contains(&format!("process {}", std::process::id()))
        );
        assert!(error.about.contains(dir.path().to_str().unwrap()));

        drop(lock);
        RunLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = RunLock::acquire(Path::new("/no-such-folder")).unwrap_err();
        assert_eq!(error.code, Code::IoWrite);
        assert!(error.about.contains("/no-such-folder"));
    }
}

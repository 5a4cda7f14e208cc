//! One process at a time in a folder.
//!
//! The lock is the kernel's, so the death of its holder releases it, however it died: at once,
//! or where the holder was starting a program, when that has begun. What the file says is only
//! there to name the holder to whoever is refused, and to tell that it is gone. The file stays
//! when the lock goes: removing it would let two processes lock two files of one name.

use crate::domain::{Code, Error, Process, Result};
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// The name of the lock file in a run folder.
pub const RUN_FILE: &str = ".lock";
/// How long a holder's death may take to release the lock.
const DEATH: Duration = Duration::from_secs(10);
/// Between two looks.
const AGAIN: Duration = Duration::from_millis(5);

/// The right to work in a folder, until it is dropped or the process ends.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

impl FileLock {
    /// Takes the lock of the file `path`, without waiting for anybody who lives.
    ///
    /// # Errors
    /// What `busy` makes of the words for its holder ("process 12") where there is one;
    /// [`Code::IoWrite`] when the file cannot be written.
    pub fn acquire(path: &Path, busy: impl FnOnce(&str) -> Error) -> Result<Self> {
        let fail = |e: std::io::Error| Error::write(path, &e);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(fail)?;
        let until = Instant::now() + DEATH;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    let holder = holder(&mut file);
                    let is_gone = holder.is_some_and(|pid| Process::of(pid).is_none());
                    if !is_gone || Instant::now() >= until {
                        return Err(busy(&words(holder)));
                    }
                    std::thread::sleep(AGAIN);
                }
                Err(TryLockError::Error(e)) => return Err(fail(e)),
            }
        }
        file.set_len(0).map_err(fail)?;
        file.rewind().map_err(fail)?;
        let note = format!("{}\n", std::process::id());
        file.write_all(note.as_bytes()).map_err(fail)?;
        Ok(Self { _file: file })
    }

    /// Takes the lock of a run folder, without waiting for anybody who lives.
    ///
    /// # Errors
    /// [`Code::RunBusy`] names the process that holds it; [`Code::IoWrite`] when the
    /// folder cannot be written.
    pub fn of_run(folder: &Path) -> Result<Self> {
        Self::acquire(&folder.join(RUN_FILE), |holder| {
            let message = format!("{holder} works in this run folder");
            Error::new(Code::RunBusy, folder.display(), message)
                .hint("wait for it, stop it, or choose another folder")
        })
    }
}

/// The process that has the lock; none for the instant between its lock and its note.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn words(holder: Option<u32>) -> String {
    match holder {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_by_the_pid_of_the_first_and_given_once_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let lock = FileLock::of_run(dir.path()).unwrap();
        let error = FileLock::of_run(dir.path()).unwrap_err();
        assert_eq!(error.code, Code::RunBusy);
        let holder = format!("process {}", std::process::id());
        assert!(error.message.contains(&holder), "{error}");
        assert!(error.about.contains(dir.path().to_str().unwrap()));
        drop(lock);
        FileLock::of_run(dir.path()).unwrap();
    }

    /// What a holder was about to start when it was killed has its files for a moment more.
    #[test]
    fn who_comes_after_a_holder_that_was_killed_waits_until_the_lock_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(RUN_FILE);
        let mut other = std::process::Command::new("true").spawn().unwrap();
        other.wait().unwrap();
        std::fs::write(&path, format!("{}\n", other.id())).unwrap();
        let held = File::open(&path).unwrap();
        held.lock().unwrap();
        let waits = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| FileLock::of_run(dir.path()).map(drop));
            std::thread::sleep(Duration::from_millis(100));
            let waits = !waiting.is_finished();
            drop(held);
            waiting.join().unwrap().unwrap();
            waits
        });
        assert!(waits);
        let note = std::fs::read_to_string(&path).unwrap();
        assert_eq!(note, format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = FileLock::of_run(Path::new("/no-such-folder")).unwrap_err();
        assert_eq!(error.code, Code::IoWrite);
        assert!(error.about.contains("/no-such-folder"));
    }
}

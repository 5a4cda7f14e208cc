//! One process at a time in a folder.
//!
//! The lock is the kernel's, so the death of its holder releases it, however it died. What
//! the file says is only there to name the holder to whoever is refused. The file stays
//! when the lock goes: removing it would let two processes lock two files of one name.

use crate::domain::{Code, Error, Result};
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

/// The name of the lock file in a run folder.
pub const RUN_FILE: &str = ".lock";

/// The right to work in a folder, until it is dropped or the process ends.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

impl FileLock {
    /// Takes the lock of the file `path`, without waiting.
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
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy(&holder(&mut file))),
            Err(TryLockError::Error(e)) => return Err(fail(e)),
        }
        file.set_len(0).map_err(fail)?;
        let note = format!("{}\n", std::process::id());
        file.write_all(note.as_bytes()).map_err(fail)?;
        Ok(Self { _file: file })
    }

    /// Takes the lock of a run folder, without waiting.
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

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    // Empty for the instant between the holder's lock and its note.
    let _ = file.read_to_string(&mut text);
    match text.trim().parse::<u32>() {
        Ok(pid) => format!("process {pid}"),
        Err(_) => "another process".to_owned(),
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

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = FileLock::of_run(Path::new("/no-such-folder")).unwrap_err();
        assert_eq!(error.code, Code::IoWrite);
        assert!(error.about.contains("/no-such-folder"));
    }
}

//! One process at a time on a state folder.
//!
//! The lock is the kernel's, so the death of its holder releases it, however it died. The
//! file's text only names the holder to whoever is refused. The file stays when the lock
//! goes: removing it would let two processes lock two files of one name.

use crate::domain::{Code, Error, Result};
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

/// The name of the lock file in the state folder.
const FILE_NAME: &str = "backpropd.lock";

/// The right to use a state folder, until it is dropped or the process ends.
#[derive(Debug)]
pub(super) struct StoreLock {
    _file: File,
}

impl StoreLock {
    /// Takes the lock of `dir`, without waiting.
    ///
    /// # Errors
    /// `store-busy` names the process that holds it.
    pub(super) fn acquire(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE_NAME);
        let fail = |e: std::io::Error| Error::write(&path, &e);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy(dir, &mut file)),
            Err(TryLockError::Error(e)) => return Err(fail(e)),
        }
        file.set_len(0).map_err(fail)?;
        let holder = format!("{}\n", std::process::id());
        file.write_all(holder.as_bytes()).map_err(fail)?;
        Ok(Self { _file: file })
    }
}

fn busy(dir: &Path, file: &mut File) -> Error {
    let mut text = String::new();
    // Empty for the instant between the holder's lock and its note.
    let _ = file.read_to_string(&mut text);
    let holder = match text.trim().parse::<u32>() {
        Ok(pid) => format!("process {pid}"),
        Err(_) => "another process".to_owned(),
    };
    Error::new(
        Code::StoreBusy,
        dir.display(),
        format_args!("{holder} works with this state folder"),
    )
    .hint("stop it, or give this one a state folder of its own")
}

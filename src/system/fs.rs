//! The calls to the operating system that a durable save consists of, one method each.
//!
//! They exist as a type, not as free functions, for one reason: a gate in front of every
//! call lets a test fail any one of them with any error, kill the process between two of
//! them, or record them to replay a power loss. Without a gate the calls are plain.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

/// A call that is about to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call<'a> {
    /// `mkdir`.
    CreateDir(&'a Path),
    /// `open` of a new file for writing.
    Create(&'a Path),
    /// `write` of these bytes at the end of a file.
    Write(&'a Path, &'a [u8]),
    /// `fsync` of a file.
    Sync(&'a Path),
    /// `fsync` of a folder.
    SyncDir(&'a Path),
    /// `rename`.
    Rename(&'a Path, &'a Path),
    /// `open` for reading.
    Open(&'a Path),
    /// `read` from a file.
    Read(&'a Path),
    /// Removal of a folder and the files in it.
    RemoveDir(&'a Path),
}

/// Sees every call before it is made; an error is returned in the call's place.
pub type Gate = dyn Fn(Call<'_>) -> io::Result<()> + Send + Sync;

/// The file system.
#[derive(Clone, Default)]
pub struct Fs {
    gate: Option<Arc<Gate>>,
}

impl Fs {
    /// A file system with `gate` in front of every call.
    pub fn gated(gate: Arc<Gate>) -> Self {
        Self { gate: Some(gate) }
    }

    fn pass(&self, call: Call<'_>) -> io::Result<()> {
        self.gate.as_ref().map_or(Ok(()), |gate| gate(call))
    }

    /// Creates the folder `path`; its parent must exist.
    pub fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.pass(Call::CreateDir(path))?;
        std::fs::create_dir(path)
    }

    /// Creates the file `path`, which must not exist: a file whose fsync failed is never
    /// written to again, because the kernel may have dropped its dirty pages.
    pub fn create(&self, path: &Path) -> io::Result<File> {
        self.pass(Call::Create(path))?;
        File::options().write(true).create_new(true).open(path)
    }

    /// Writes some of `bytes`, and says how many.
    pub fn write(&self, file: &mut File, path: &Path, bytes: &[u8]) -> io::Result<usize> {
        self.pass(Call::Write(path, bytes))?;
        file.write(bytes)
    }

    /// Makes the content of `file` durable.
    pub fn sync(&self, file: &File, path: &Path) -> io::Result<()> {
        self.pass(Call::Sync(path))?;
        file.sync_all()
    }

    /// Makes the entries of the folder `path` durable.
    pub fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.pass(Call::SyncDir(path))?;
        File::open(path)?.sync_all()
    }

    /// Moves `from` to `to` in one step.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.pass(Call::Rename(from, to))?;
        std::fs::rename(from, to)
    }

    /// Opens `path` for reading.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        self.pass(Call::Open(path))?;
        File::open(path)
    }

    /// Reads some bytes, and says how many; 0 is the end of the file.
    pub fn read(&self, file: &mut File, path: &Path, bytes: &mut [u8]) -> io::Result<usize> {
        self.pass(Call::Read(path))?;
        file.read(bytes)
    }

    /// Removes the folder `path` and the files in it. It does not go deeper: where there is
    /// a folder inside, nothing is removed.
    pub fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.pass(Call::RemoveDir(path))?;
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            files.push(entry.path());
        }
        files.iter().try_for_each(std::fs::remove_file)?;
        std::fs::remove_dir(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_a_folder_in_it_is_not_removed_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::create_dir_all(path.join("b")).unwrap();
        std::fs::write(path.join("file"), "x").unwrap();
        assert!(Fs::default().remove_dir(&path).is_err());
        assert!(path.join("file").exists());
        std::fs::remove_dir(path.join("b")).unwrap();
        Fs::default().remove_dir(&path).unwrap();
        assert!(!path.exists());
    }
}

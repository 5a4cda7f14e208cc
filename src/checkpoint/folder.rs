//! One checkpoint on the disk: reading it, and proving that it is whole.

use super::manifest::{self, Manifest};
use super::write::Digest;
use crate::domain::{Code, Error, Result};
use crate::system::fs::Fs;
use crate::tensorfile::{Codes, TensorFile};
use rustix::fs::{Advice, fadvise};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The tensors' file.
pub(super) const TENSORS: &str = "tensors.safetensors";
/// The file of everything that is not a tensor.
pub(super) const STATE: &str = "state.json";
/// No manifest of two files comes near this.
const MANIFEST_LIMIT: u64 = 1 << 16;

const CODES: Codes = Codes {
    missing: Code::CheckpointMissing,
    corrupt: Code::CheckpointCorrupt,
    mismatch: Code::CheckpointMismatch,
};

/// A checkpoint whose every byte was compared with its manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    path: PathBuf,
    manifest: Manifest,
}

/// A checkpoint that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its folder.
    pub path: PathBuf,
    /// Why, in words: `tensors.safetensors fails its checksum`.
    pub reason: String,
}

impl Checkpoint {
    /// Reads the checkpoint in folder `path` and verifies all of it.
    ///
    /// # Errors
    /// [`Code::CheckpointMissing`] when there is no such folder,
    /// [`Code::CheckpointCorrupt`] when a file is missing, cut short or altered.
    pub fn open(path: &Path) -> Result<Self> {
        Self::verify(&Fs::default(), path)
    }

    pub(super) fn verify(fs: &Fs, path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Err(Error::new(
                Code::CheckpointMissing,
                path.display(),
                "there is no checkpoint here",
            ));
        }
        check(fs, path)
            .map(|manifest| Self {
                path: path.to_owned(),
                manifest,
            })
            .map_err(|reason| {
                Error::new(Code::CheckpointCorrupt, path.display(), reason)
                    .hint("resume from another checkpoint of the run")
            })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Training steps done when it was saved.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// What was saved as tensors, mapped into memory.
    ///
    /// # Errors
    /// [`Code::CheckpointCorrupt`] when it is no safetensors file.
    pub fn tensors(&self) -> Result<TensorFile> {
        TensorFile::open(self.path.join(TENSORS), CODES)
    }

    /// What was saved beside the tensors.
    ///
    /// # Errors
    /// [`Code::CheckpointMismatch`] when it is not a `T`.
    pub fn state<T: DeserializeOwned>(&self) -> Result<T> {
        let path = self.path.join(STATE);
        let bytes = std::fs::read(&path).map_err(|e| Error::read(&path, &e))?;
        serde_json::from_slice(&bytes).map_err(|e| {
            Error::new(
                Code::CheckpointMismatch,
                path.display(),
                format_args!("holds another state than this program saves: {e}"),
            )
        })
    }
}

/// The manifest of the checkpoint in `dir`, by itself.
pub(super) fn read_manifest(fs: &Fs, dir: &Path) -> Result<Manifest, String> {
    let name = manifest::FILE_NAME;
    let mut bytes = Vec::new();
    read(fs, &dir.join(name), MANIFEST_LIMIT, |chunk| {
        bytes.extend_from_slice(chunk);
    })
    .map_err(|e| format!("{name} {}", in_words(&e)))?;
    Manifest::parse(&bytes).map_err(|reason| format!("{name} {reason}"))
}

fn check(fs: &Fs, dir: &Path) -> Result<Manifest, String> {
    let manifest = read_manifest(fs, dir)?;
    let names: Vec<&str> = manifest.files.iter().map(|f| f.name.as_str()).collect();
    if names != [TENSORS, STATE] {
        return Err(format!("{} lists {names:?}", manifest::FILE_NAME));
    }
    for file in &manifest.files {
        let name = &file.name;
        // One byte past the expected length is enough to see that a file is too long.
        let found = digest(fs, &dir.join(name), file.length.saturating_add(1))
            .map_err(|e| format!("{name} {}", in_words(&e)))?;
        if found.length != file.length {
            let more = if found.length > file.length {
                "more than "
            } else {
                ""
            };
            let has = found.length.min(file.length);
            return Err(format!("{name} holds {more}{has} of {} bytes", file.length));
        }
        if found.blake3.to_hex().as_str() != file.blake3 {
            return Err(format!("{name} fails its checksum"));
        }
    }
    Ok(manifest)
}

fn in_words(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::NotFound => "is missing".to_owned(),
        _ => format!("cannot be read: {e}"),
    }
}

fn digest(fs: &Fs, path: &Path, limit: u64) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let length = read(fs, path, limit, |chunk| {
        hasher.update(chunk);
    })?;
    Ok(Digest {
        length,
        blake3: hasher.finalize(),
    })
}

/// Hands the first `limit` bytes of a file to `each`, in pieces, and says how many there
/// were.
fn read(fs: &Fs, path: &Path, limit: u64, mut each: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut file = fs.open(path)?;
    forget_cached(&file);
    let mut chunk = vec![0; limit.min(1 << 20) as usize];
    let mut length = 0;
    while length < limit {
        let want = chunk.len().min((limit - length) as usize);
        match fs.read(&mut file, path, &mut chunk[..want]) {
            Ok(0) => break,
            Ok(n) => {
                each(&chunk[..n]);
                length += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(length)
}

/// Asks the kernel to read from the disk, not from memory, so that a check is of what the
/// disk holds. A file system that cannot do that checks what memory holds.
fn forget_cached(file: &File) {
    let _ = fadvise(file, 0, None, Advice::DontNeed);
}

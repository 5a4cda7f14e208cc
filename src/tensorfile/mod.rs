//! Safetensors files, read from a memory map with a bounded header.
//!
//! What a file says about itself is checked before anything is read: the header is at
//! most [`MAX_HEADER`] bytes, every tensor's bytes lie inside the file, they agree with its
//! shape and dtype, and no two tensors share a byte. Nothing is allocated by a number that
//! the file names.

mod header;
mod sharded;
mod tensor;
#[cfg(test)]
mod tests;
mod write;

pub use header::MAX_HEADER;
pub use safetensors::Dtype;
pub use sharded::TensorSet;
pub use tensor::Tensor;
pub use write::{TensorOut, encode_header, write};

use crate::domain::{Code, Error, Result};
use header::{Entry, Header};
use memmap2::Mmap;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The codes under which a kind of file reports its faults.
#[derive(Clone, Copy, Debug)]
pub struct Codes {
    /// The file is not there.
    pub missing: Code,
    /// The file is truncated or malformed.
    pub corrupt: Code,
    /// A tensor is missing, or has another shape or dtype than the caller expects.
    pub mismatch: Code,
}

impl Codes {
    /// Codes of language-model weights.
    pub const MODEL: Self = Self {
        missing: Code::ModelMissing,
        corrupt: Code::ModelFileCorrupt,
        mismatch: Code::ModelTensorMismatch,
    };
}

/// One safetensors file, memory-mapped.
pub struct TensorFile {
    path: PathBuf,
    codes: Codes,
    map: Mmap,
    data_at: usize,
    tensors: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// Maps `path` and checks its header.
    ///
    /// # Errors
    /// `codes.missing`, `codes.corrupt`, or `io-read`.
    pub fn open(path: impl Into<PathBuf>, codes: Codes) -> Result<Self> {
        let path = path.into();
        let map = map_file(&path, codes)?;
        let (
            data_at,
            Header {
                tensors, metadata, ..
            },
        ) = header::read(&map).map_err(|fault| {
            let about = match &fault.tensor {
                Some(name) => format!("{}: {name}", path.display()),
                None => path.display().to_string(),
            };
            Error::new(codes.corrupt, about, fault.message)
                .hint("the file is damaged or incomplete: fetch or write it again")
        })?;
        Ok(Self {
            path,
            codes,
            map,
            data_at,
            tensors,
            metadata,
        })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text pairs under `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Drops the pages that hold `bytes`, which are part of the map.
    fn release(&self, bytes: &[u8]) {
        #[cfg(unix)]
        {
            let start = bytes.as_ptr() as usize - self.map.as_ptr() as usize;
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is of a file and never written, so its pages only come back
            // as the file has them.
            let advised = unsafe { self.map.unchecked_advise_range(advice, start, bytes.len()) };
            // It is no more than advice.
            let _ = advised;
        }
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor `name`, where the file has it.
    pub fn get(&self, name: &str) -> Option<Tensor<'_>> {
        let (name, entry) = self.tensors.get_key_value(name)?;
        Some(Tensor {
            file: self,
            name,
            dtype: entry.dtype,
            shape: &entry.shape,
            bytes: &self.map[self.data_at + entry.start..self.data_at + entry.end],
        })
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// `codes.mismatch` where the file lacks it.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>> {
        self.get(name).ok_or_else(|| {
            Error::new(
                self.codes.mismatch,
                format_args!("{}: {}", self.path.display(), shown(name)),
                "the tensor is missing",
            )
        })
    }
}

impl std::fmt::Debug for TensorFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "TensorFile({}, {} tensors)",
            self.path.display(),
            self.tensors.len()
        )
    }
}

fn map_file(path: &Path, codes: Codes) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(codes.missing, path.display(), "there is no such file")
        }
        _ => Error::read(path, &e),
    })?;
    // SAFETY: the map is private to this process and only read. A file that another process
    // truncates while it is mapped would end this one by SIGBUS; every safetensors reader
    // accepts that, and the project itself only ever replaces such files by a rename.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::read(path, &e))
}

/// A name from a file, fit for one line of a message.
fn shown(name: &str) -> String {
    let mut text: String = name
        .chars()
        .take(120)
        .flat_map(|c| {
            c.is_control()
                .then(|| c.escape_default())
                .map_or_else(|| vec![c], Iterator::collect)
        })
        .collect();
    if name.chars().count() > 120 {
        text.push('…');
    }
    text
}

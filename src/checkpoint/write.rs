//! Files on their way to the disk: streamed, hashed, and durable when they are finished.

use crate::domain::{Error, Result};
use crate::system::fs::Fs;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// What a file holds, as a manifest records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Length in bytes.
    pub length: u64,
    /// BLAKE3 of the content.
    pub blake3: blake3::Hash,
}

/// Creates the file `path`, lets `fill` write it, and makes its content durable.
pub fn file(
    fs: &Fs,
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<Digest> {
    let written = || {
        let mut out = FileWriter::create(fs, path)?;
        fill(&mut out)?;
        out.finish()
    };
    written().map_err(|e| Error::write(path, &e))
}

/// Bytes that one call writes at the most: still in the cache when they are hashed.
const CHUNK: usize = 1 << 20;

/// A new file that gathers small writes and hashes what goes through it. What is still
/// gathered when a write fails is dropped: the file is not one to go on with.
struct FileWriter<'a> {
    fs: &'a Fs,
    path: &'a Path,
    file: File,
    gathered: Vec<u8>,
    length: u64,
    hasher: blake3::Hasher,
}

impl<'a> FileWriter<'a> {
    fn create(fs: &'a Fs, path: &'a Path) -> io::Result<Self> {
        Ok(Self {
            fs,
            path,
            file: fs.create(path)?,
            gathered: Vec::new(),
            length: 0,
            hasher: blake3::Hasher::new(),
        })
    }

    fn through(&mut self, bytes: &[u8]) -> io::Result<()> {
        for mut chunk in bytes.chunks(CHUNK) {
            while !chunk.is_empty() {
                match self.fs.write(&mut self.file, self.path, chunk) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        self.hasher.update(&chunk[..written]);
                        self.length += written as u64;
                        chunk = &chunk[written..];
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<Digest> {
        self.flush()?;
        self.fs.sync(&self.file, self.path)?;
        Ok(Digest {
            length: self.length,
            blake3: self.hasher.finalize(),
        })
    }
}

impl Write for FileWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gathered.len() + bytes.len() > CHUNK {
            self.flush()?;
        }
        if bytes.len() > CHUNK {
            self.through(bytes)?;
        } else {
            self.gathered.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        self.through(&gathered)?;
        // Its memory is used again.
        self.gathered = gathered;
        self.gathered.clear();
        Ok(())
    }
}

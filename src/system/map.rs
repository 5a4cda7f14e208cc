//! Files as memory.

use crate::domain::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::ops::Deref;
use std::path::Path;

/// A file that is read as a slice of bytes.
#[derive(Debug)]
pub struct Map(Mmap);

impl Map {
    /// Maps `path`, which must be a file that is only ever replaced, not rewritten.
    ///
    /// # Errors
    /// `io-read`.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::read(path, &e))?;
        // SAFETY: the map is private to this process and only read. The files that come
        // here are the project's own, which it replaces by a rename and never rewrites; one
        // that another program truncates while it is mapped ends this process by SIGBUS.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::read(path, &e))?;
        Ok(Self(map))
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_holds_the_file_also_after_it_was_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, b"before").unwrap();
        let map = Map::open(&path).unwrap();
        crate::system::files::write_atomic(&path, b"after").unwrap();
        assert_eq!(&map[..], b"before");
        assert_eq!(&Map::open(&path).unwrap()[..], b"after");
    }
}

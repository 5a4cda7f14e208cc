//! Compiled kernels on disk, so that only the first run on a host compiles.
//!
//! A file is named by the hash of all that its code depends on, and begins with the hash of the
//! code: one that was cut or damaged is compiled again. The cache is a convenience: where it
//! cannot be written, every start compiles.

use super::compile::{self, OPTIONS, Source, Target};
use super::kernels::HEADERS;
use crate::domain::Result;
use crate::system::files;
use std::cell::RefCell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Bytes of the hash in front.
const HASH: usize = blake3::OUT_LEN;

/// The folder, and what is wrong with it.
#[derive(Default)]
pub struct Cache {
    folder: Option<PathBuf>,
    /// Of the first file that was damaged.
    damaged: RefCell<Option<String>>,
    /// Why the first one could not be written.
    unwritable: RefCell<Option<String>>,
}

impl Cache {
    /// Files in `folder`; without one nothing is kept.
    pub fn new(folder: Option<&Path>) -> Self {
        Self {
            folder: folder.map(Path::to_owned),
            ..Self::default()
        }
    }

    /// What whoever started should know: a line for each thing that is wrong, however many files
    /// it concerns.
    pub fn warnings(self) -> Vec<String> {
        let all = [self.damaged, self.unwritable];
        all.into_iter().filter_map(RefCell::into_inner).collect()
    }

    /// The machine code of `source`.
    ///
    /// # Errors
    /// Those of the compiler.
    pub fn compiled(&self, source: &Source, target: &Target) -> Result<Vec<u8>> {
        let Some(folder) = &self.folder else {
            return Ok(compile::compile(source, &target.arch, &[])?.0);
        };
        let file = place(folder, source, target)?;
        match read(&file) {
            Ok(Some(code)) => return Ok(code),
            Ok(None) => {}
            Err(why) => note(&self.damaged, || {
                format!(
                    "the compiled kernels in {} are made again: {why}",
                    file.display()
                )
            }),
        }
        let (code, _) = compile::compile(source, &target.arch, &[])?;
        let sealed = [blake3::hash(&code).as_bytes().as_slice(), &code].concat();
        let kept = files::create_dir(folder).and_then(|()| files::write_atomic(&file, &sealed));
        if let Err(error) = kept {
            note(&self.unwritable, || {
                format!("compiled kernels cannot be kept, so that every start compiles: {error}")
            });
        }
        Ok(code)
    }
}

/// Of many warnings of a kind the first says it.
fn note(of: &RefCell<Option<String>>, say: impl FnOnce() -> String) {
    of.borrow_mut().get_or_insert_with(say);
}

fn place(folder: &Path, source: &Source, target: &Target) -> Result<PathBuf> {
    let mut hash = blake3::Hasher::new();
    let version = compile::version()?.to_string();
    let mut parts = vec![target.arch.as_str(), version.as_str()];
    parts.extend(OPTIONS);
    for file in HEADERS.iter().chain([source]) {
        parts.extend([file.name, file.text]);
    }
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let stem = source.name.trim_end_matches(".cu");
    let hash = &hash.finalize().to_hex()[..32];
    Ok(folder.join(format!("{stem}-{}-{hash}.cubin", target.arch)))
}

/// The code in a file; `None` where there is no file, and what is wrong with one that is not whole.
fn read(file: &Path) -> std::result::Result<Option<Vec<u8>>, String> {
    let mut sealed = match std::fs::read(file) {
        Ok(sealed) => sealed,
        // Nothing can be there where a part of the path is a file.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(format!("they cannot be read: {e}")),
    };
    if sealed.len() < HASH {
        return Err("they are cut off".into());
    }
    let code = sealed.split_off(HASH);
    match blake3::hash(&code).as_bytes().as_slice() == sealed {
        true => Ok(Some(code)),
        false => Err("they are damaged".into()),
    }
}

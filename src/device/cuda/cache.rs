//! Compiled kernels on disk, so that only the first run on a host compiles.
//!
//! A file is named by the hash of all that its code depends on, and begins with the hash of the
//! code: one that was cut or damaged is compiled again. The cache is a convenience: where it
//! cannot be written, every start compiles.

use super::compile::{self, OPTIONS, Source, Target};
use super::kernels::HEADERS;
use crate::domain::Result;
use crate::system::files;
use std::path::{Path, PathBuf};

/// Bytes of the hash in front.
const HASH: usize = blake3::OUT_LEN;

/// The machine code of `source`.
///
/// # Errors
/// Those of the compiler.
pub fn compiled(source: &Source, target: &Target, folder: Option<&Path>) -> Result<Vec<u8>> {
    let file = folder
        .map(|folder| place(folder, source, target))
        .transpose()?;
    if let Some(code) = file.as_deref().and_then(read) {
        return Ok(code);
    }
    let (code, _) = compile::compile(source, &target.arch, &[])?;
    if let Some(file) = file {
        let sealed = [blake3::hash(&code).as_bytes().as_slice(), &code].concat();
        let folder = file.parent().expect("a file in a folder");
        let kept = std::fs::create_dir_all(folder).map_err(|e| e.to_string());
        let kept =
            kept.and_then(|()| files::write_atomic(&file, &sealed).map_err(|e| e.to_string()));
        if let Err(error) = kept {
            tracing::warn!("compiled kernels cannot be kept: {error}");
        }
    }
    Ok(code)
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

/// The code in a file that is whole.
fn read(file: &Path) -> Option<Vec<u8>> {
    let mut sealed = std::fs::read(file).ok()?;
    if sealed.len() < HASH {
        return None;
    }
    let code = sealed.split_off(HASH);
    (blake3::hash(&code).as_bytes().as_slice() == sealed).then_some(code)
}

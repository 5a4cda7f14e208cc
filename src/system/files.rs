//! Writes that a crash, a full disk or a power loss cannot tear.

use crate::domain::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Makes the entries of folder `dir` durable.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|e| Error::write(dir, &e))
}

/// Creates `dir` and its parents.
pub fn create_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::write(dir, &e))
}

/// Where token sets and compiled kernels are kept for runs to come, created where it is missing:
/// `$BACKPROPD_CACHE`, else the user's cache folder, else `otherwise`.
pub fn cache_folder(otherwise: &Path) -> Result<PathBuf> {
    let set = |name: &str| {
        let value = std::env::var_os(name).filter(|v| !v.is_empty());
        value.map(PathBuf::from)
    };
    let folder = set("BACKPROPD_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("backpropd")))
        .or_else(|| Some(set("HOME")?.join(".cache/backpropd")))
        .unwrap_or_else(|| otherwise.to_owned());
    create_dir(&folder)?;
    Ok(folder)
}

/// Writes `bytes` to a new file `path` and makes its content durable. The folder's entry
/// is not: see [`sync_dir`].
pub fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    File::create(path)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .map_err(|e| Error::write(path, &e))
}

/// Replaces `path` by `bytes`: readers, and a machine that lost its power, see the old
/// content or the new one, never a mixture.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let fail = |e: std::io::Error| Error::write(path, &e);
    // As any other new file: what the umask leaves.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    let mut temp = tempfile::Builder::new()
        .prefix(".tmp-")
        .permissions(mode)
        .tempfile_in(dir)
        .map_err(fail)?;
    temp.write_all(bytes).map_err(fail)?;
    temp.as_file().sync_all().map_err(fail)?;
    temp.persist(path).map_err(|e| fail(e.error))?;
    sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Code;

    #[test]
    fn an_atomic_write_replaces_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = write_atomic(Path::new("/no-such-folder/a"), b"x").unwrap_err();
        assert_eq!(error.code, Code::IoWrite);
        assert!(error.about.contains("/no-such-folder/a"));
    }
}

//! Removal of a tree below a folder of this program's own, and of nothing else.

use crate::domain::{Code, Error, Result};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What a removal did.
#[derive(Debug, Default)]
pub struct Removed {
    /// Files and folders that are gone.
    pub files: u64,
    /// Bytes that they held.
    pub bytes: u64,
    /// What is still there, and why.
    pub left: Vec<(PathBuf, std::io::Error)>,
}

/// Checks that `path` lies below `root`, wherever links lead.
///
/// # Errors
/// `path-refused`.
pub fn expect_below(root: &Path, path: &Path) -> Result<()> {
    let refused = |why: &dyn std::fmt::Display| {
        Error::new(Code::PathRefused, path.display(), why)
            .hint("delete it without its files, and remove these yourself")
    };
    let outside = format!(
        "lies outside of {}, and nothing outside is removed",
        root.display()
    );
    let found = match path.canonicalize() {
        Ok(found) => found,
        // Nothing to remove. Where it would be is decided by its name alone.
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let plain = path
                .components()
                .all(|part| !matches!(part, std::path::Component::ParentDir));
            return match plain && path.starts_with(root) && path != root {
                true => Ok(()),
                false => Err(refused(&outside)),
            };
        }
        Err(e) => return Err(refused(&format_args!("cannot be looked at: {e}"))),
    };
    let is_below = root
        .canonicalize()
        .is_ok_and(|root| found.starts_with(&root) && found != root);
    match is_below {
        true => Ok(()),
        false => Err(refused(&outside)),
    }
}

/// Removes `path` and everything in it; links are removed and not followed. What is not there
/// is no error, and what cannot be removed does not keep the rest.
///
/// # Errors
/// `path-refused` where it does not lie below `root`.
pub fn remove(root: &Path, path: &Path) -> Result<Removed> {
    expect_below(root, path)?;
    let mut removed = Removed::default();
    walk(path, &mut removed);
    Ok(removed)
}

/// Removes one file, which the caller knows to be this program's own; as [`remove`] otherwise.
pub fn file(path: &Path, removed: &mut Removed) {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => walk(path, removed),
        _ => {}
    }
}

fn walk(path: &Path, removed: &mut Removed) {
    let gone = |e: &std::io::Error| e.kind() == ErrorKind::NotFound;
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if gone(&e) => return,
        Err(e) => return removed.left.push((path.to_owned(), e)),
    };
    let result = if meta.is_dir() {
        match std::fs::read_dir(path) {
            Ok(entries) => {
                let before = removed.left.len();
                for entry in entries.flatten() {
                    walk(&entry.path(), removed);
                }
                if removed.left.len() > before {
                    return;
                }
                std::fs::remove_dir(path)
            }
            Err(e) => Err(e),
        }
    } else {
        std::fs::remove_file(path)
    };
    match result {
        Ok(()) => {
            removed.files += 1;
            removed.bytes += if meta.is_file() { meta.len() } else { 0 };
        }
        Err(e) if gone(&e) => {}
        Err(e) => removed.left.push((path.to_owned(), e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// behaviour: model-10, model-11
    #[test]
    fn a_tree_below_the_root_is_removed_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("models");
        let model = root.join("gpt2");
        std::fs::create_dir_all(model.join("onnx")).unwrap();
        std::fs::write(model.join("model.safetensors"), [0; 1000]).unwrap();
        std::fs::write(model.join("onnx/a"), [0; 24]).unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("file"), "x").unwrap();
        symlink(&outside, model.join("link")).unwrap();
        let removed = remove(&root, &model).unwrap();
        assert_eq!((removed.files, removed.bytes), (5, 1024));
        assert!(removed.left.is_empty() && !model.exists());
        assert!(outside.join("file").exists());
        let again = remove(&root, &model).unwrap();
        assert_eq!(
            (again.files, again.left.len()),
            (0, 0),
            "nothing is no error"
        );
    }

    /// behaviour: model-11
    #[test]
    fn nothing_outside_of_the_root_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("models");
        std::fs::create_dir_all(root.join("a")).unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        symlink(&outside, root.join("escape")).unwrap();
        for path in [
            outside.clone(),
            root.clone(),
            root.join("escape"),
            root.join("a/../../outside"),
            root.join("gone/../../outside/gone"),
            dir.path().join("nowhere"),
            PathBuf::from("/"),
        ] {
            let error = remove(&root, &path).unwrap_err();
            assert_eq!(error.code, Code::PathRefused, "{}", path.display());
        }
        assert!(outside.exists() && root.join("a").exists());
    }

    /// behaviour: model-11
    #[test]
    fn what_cannot_be_removed_is_named_and_the_rest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("m");
        std::fs::create_dir(&model).unwrap();
        std::fs::write(model.join("a"), "x").unwrap();
        // A process's own folder in /proc cannot be emptied, whoever asks.
        let mut removed = Removed::default();
        walk(Path::new("/proc/self/fdinfo/0"), &mut removed);
        assert_eq!(removed.left.len(), 1);
        assert_eq!(removed.left[0].0, Path::new("/proc/self/fdinfo/0"));
        walk(&model, &mut removed);
        assert_eq!((removed.files, removed.left.len()), (2, 1));
    }
}

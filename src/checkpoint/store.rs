//! The `checkpoints/` folder of a run: saving, finding the newest, rotating.

use super::folder::{self, Checkpoint, Skipped};
use super::retention::{Known, Retention};
use super::save::{self, Snapshot};
use crate::domain::{Code, Error, Result};
use crate::system::fs::Fs;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const TEMPORARY: &str = ".tmp-step-";
const TRASH: &str = ".trash-step-";
const NAME: &str = "step-";

/// A checkpoint that is durable and was read back.
#[derive(Debug)]
pub struct Saved {
    /// The new checkpoint.
    pub checkpoint: Checkpoint,
    /// The folders that rotation removed.
    pub pruned: Vec<PathBuf>,
    /// Folders that rotation should have removed and could not.
    pub warnings: Vec<Error>,
}

/// The newest checkpoint that can be used, and those that cannot.
#[derive(Debug)]
pub struct Found {
    /// Verified.
    pub checkpoint: Checkpoint,
    /// Newer ones that failed verification, and all whose manifest cannot be read.
    pub skipped: Vec<Skipped>,
}

/// The `checkpoints/` folder of a run. Its user holds the run folder's lock.
pub struct Store {
    dir: PathBuf,
    retention: Retention,
    fs: Fs,
    /// The highest one given. The disk is asked only at the start: a manifest that cannot
    /// be read for a moment must not lead to the same number twice.
    sequence: u64,
}

impl Store {
    /// Opens the folder `dir`, creates it where it is missing, and removes what saves of
    /// killed processes left in it.
    ///
    /// # Errors
    /// [`Code::IoWrite`], [`Code::IoRead`], [`Code::DiskFull`].
    pub fn open(dir: &Path, retention: Retention) -> Result<Self> {
        Self::open_on(Fs::default(), dir, retention)
    }

    /// The newest checkpoint in `dir` that can be used, for a reader that is not the run
    /// itself: nothing is written, and no lock is needed.
    ///
    /// # Errors
    /// As [`Store::newest_valid`].
    pub fn newest_of(dir: &Path) -> Result<Found> {
        if !dir.is_dir() {
            let message = "there is no such folder of checkpoints";
            return Err(Error::new(Code::CheckpointMissing, dir.display(), message));
        }
        let reader = Self {
            dir: dir.to_owned(),
            retention: Retention {
                keep_last: 1,
                best: None,
            },
            fs: Fs::default(),
            sequence: 0,
        };
        reader.newest_valid()
    }

    /// [`Store::open`] on a file system of its own.
    pub fn open_on(fs: Fs, dir: &Path, retention: Retention) -> Result<Self> {
        if !dir.is_dir() {
            let parent = dir.parent().filter(|p| !p.as_os_str().is_empty());
            std::fs::create_dir_all(dir)
                .and_then(|()| fs.sync_dir(parent.unwrap_or(Path::new("."))))
                .map_err(|e| Error::write(dir, &e))?;
        }
        for name in names(dir)? {
            if name.starts_with(TEMPORARY) || name.starts_with(TRASH) {
                let path = dir.join(name);
                fs.remove_dir(&path).map_err(|e| Error::write(&path, &e))?;
            }
        }
        let mut store = Self {
            dir: dir.to_owned(),
            retention,
            fs,
            sequence: 0,
        };
        let (known, _) = store.scan()?;
        store.sequence = known.first().map_or(0, |(_, m)| m.sequence);
        Ok(store)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Saves a checkpoint, makes it durable, reads it back, and rotates the older ones.
    ///
    /// When it fails, every earlier checkpoint is as it was. Calling it again writes new
    /// files from the start; nothing is retried on a file that failed.
    ///
    /// # Errors
    /// [`Code::DiskFull`], [`Code::IoWrite`]; [`Code::CheckpointCorrupt`] when what was
    /// read back is not what was written; [`Code::Internal`] when `state` does not survive
    /// JSON (a NaN or an infinity does not: keep such values in tensors).
    pub fn save<S>(&mut self, snapshot: &Snapshot<'_>, state: &S) -> Result<Saved>
    where
        S: Serialize + DeserializeOwned,
    {
        let (known, _) = self.scan()?;
        self.sequence += 1;
        let temporary = self.free_name(&format!("{TEMPORARY}{:08}", snapshot.step))?;
        let describe = |manifest: &mut _| {
            self.retention.judge(manifest, snapshot.metric, &known);
        };
        let path = save::write_folder(
            &self.fs,
            &temporary,
            snapshot,
            state,
            self.sequence,
            describe,
        )
        .and_then(|()| {
            let path = self.free_name(&format!("{NAME}{:08}", snapshot.step))?;
            self.fs
                .rename(&temporary, &path)
                .map_err(|e| Error::write(&path, &e))?;
            Ok(path)
        })
        .inspect_err(|_| {
            // A full disk needs the space. What stays is removed at the next start.
            let _ = self.fs.remove_dir(&temporary);
        })?;
        self.fs
            .sync_dir(&self.dir)
            .map_err(|e| Error::write(&self.dir, &e))?;
        let checkpoint = Checkpoint::verify(&self.fs, &path)?;
        let (pruned, warnings) = self.prune();
        Ok(Saved {
            checkpoint,
            pruned,
            warnings,
        })
    }

    /// `name`, or `name.2`, `name.3` and so on where that is taken.
    fn free_name(&self, name: &str) -> Result<PathBuf> {
        let taken = names(&self.dir)?;
        let mut free = name.to_owned();
        for n in 2.. {
            if !taken.contains(&free) {
                break;
            }
            free = format!("{name}.{n}");
        }
        Ok(self.dir.join(free))
    }

    /// The checkpoints with a readable manifest, the newest first, and the others. Their
    /// other files are not read.
    ///
    /// # Errors
    /// [`Code::IoRead`] when the folder cannot be listed.
    pub fn scan(&self) -> Result<(Vec<Known>, Vec<Skipped>)> {
        let mut known = Vec::new();
        let mut skipped = Vec::new();
        for name in names(&self.dir)? {
            let path = self.dir.join(&name);
            if !name.starts_with(NAME) || !path.is_dir() {
                continue;
            }
            match folder::read_manifest(&self.fs, &path) {
                Ok(manifest) => known.push((path, manifest)),
                Err(reason) => skipped.push(Skipped { path, reason }),
            }
        }
        known.sort_by_key(|(_, m)| std::cmp::Reverse((m.sequence, m.step)));
        Ok((known, skipped))
    }

    /// The checkpoint that was saved last and passes verification.
    ///
    /// # Errors
    /// [`Code::CheckpointMissing`] when there is none at all; [`Code::CheckpointCorrupt`]
    /// names each one and what is wrong with it when none can be used.
    pub fn newest_valid(&self) -> Result<Found> {
        let (known, mut skipped) = self.scan()?;
        for (path, _) in known {
            match Checkpoint::verify(&self.fs, &path) {
                Ok(checkpoint) => {
                    return Ok(Found {
                        checkpoint,
                        skipped,
                    });
                }
                Err(error) => skipped.push(Skipped {
                    path,
                    reason: error.message,
                }),
            }
        }
        let dir = self.dir.display();
        if skipped.is_empty() {
            let message = "there is no checkpoint here";
            return Err(Error::new(Code::CheckpointMissing, dir, message)
                .hint("start the run without --resume"));
        }
        let reasons: Vec<String> = skipped
            .iter()
            .map(|s| format!("{}: {}", file_name(&s.path), s.reason))
            .collect();
        let message = format!("no checkpoint can be used: {}", reasons.join("; "));
        Err(Error::new(Code::CheckpointCorrupt, dir, message)
            .hint("restore one from a backup, or start the run anew"))
    }

    /// Removes what rotation does not keep, after the newest one was verified.
    fn prune(&self) -> (Vec<PathBuf>, Vec<Error>) {
        let mut pruned = Vec::new();
        let mut warnings = Vec::new();
        match self.scan() {
            Ok((known, _)) => {
                for path in self.retention.superfluous(&known) {
                    match self.remove(&path) {
                        Ok(()) => pruned.push(path),
                        Err(error) => warnings.push(error),
                    }
                }
            }
            Err(error) => warnings.push(error),
        }
        (pruned, warnings)
    }

    /// Takes the name away first, for good: half a removed checkpoint must not look like
    /// one, even after a power loss.
    fn remove(&self, path: &Path) -> Result<()> {
        let trash = self.free_name(&file_name(path).replacen(NAME, TRASH, 1))?;
        self.fs
            .rename(path, &trash)
            .and_then(|()| self.fs.sync_dir(&self.dir))
            .and_then(|()| self.fs.remove_dir(&trash))
            .map_err(|e| Error::write(path, &e))
    }
}

fn names(dir: &Path) -> Result<BTreeSet<String>> {
    let fail = |e: std::io::Error| Error::read(dir, &e);
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        names.insert(name.to_string_lossy().into_owned());
    }
    Ok(names)
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

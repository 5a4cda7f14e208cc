//! The folder of a run: who may write in it, and whether it goes on or starts anew.

use super::{Resume, same_run};
use crate::checkpoint::{Best, Checkpoint, Goal, Retention, Store};
use crate::config::RunConfig;
use crate::domain::{Code, Error, Result};
use crate::system::files;
use crate::system::lock::FileLock;
use std::path::{Path, PathBuf};

/// The measure that decides which checkpoint is the best.
pub const BEST_METRIC: &str = "held_out_explained_variance";

/// A run's folder, locked.
pub struct RunFolder {
    /// Its path.
    pub path: PathBuf,
    /// Its checkpoints.
    pub store: Store,
    /// The resolved run.toml.
    pub toml: String,
    _lock: FileLock,
}

/// What a resumed run goes on from.
pub struct Start {
    /// Verified.
    pub checkpoint: Checkpoint,
    /// What the reader should know: checkpoints that were skipped, settings that changed.
    pub warnings: Vec<String>,
}

impl RunFolder {
    /// Opens the folder of `config` for a new run, or one that goes on.
    ///
    /// # Errors
    /// `run-busy`, `run-exists`, `checkpoint-missing`, `checkpoint-corrupt`,
    /// `checkpoint-mismatch`, `io-write`, `disk-full`.
    pub fn open(config: &RunConfig, resume: Resume) -> Result<(Self, Option<Start>)> {
        let path = config.output.clone();
        let toml = config.to_toml()?;
        if resume == Resume::Yes && !path.join("run.toml").exists() {
            let message = "there is no run here to go on with";
            return Err(Error::new(Code::CheckpointMissing, path.display(), message)
                .hint("start it without --resume"));
        }
        files::create_dir(&path)?;
        let lock = FileLock::of_run(&path)?;
        let best = Best {
            metric: BEST_METRIC.into(),
            goal: Goal::Max,
        };
        let retention = Retention {
            keep_last: config.checkpoints.keep_last,
            best: Some(best),
        };
        let store = Store::open(&path.join("checkpoints"), retention)?;
        let start = match resume {
            Resume::IfAny if is_empty(&store)? => None,
            Resume::IfAny | Resume::Yes => Some(find_start(config, &path, &store)?),
            Resume::No if is_empty(&store)? => None,
            Resume::No => {
                let message = "already holds a run";
                let hint =
                    "go on with --resume, choose another folder with --out, or remove this one";
                return Err(Error::new(Code::RunExists, path.display(), message).hint(hint));
            }
        };
        files::write_atomic(&path.join("run.toml"), toml.as_bytes())?;
        let folder = Self {
            path,
            store,
            toml,
            _lock: lock,
        };
        Ok((folder, start))
    }
}

/// Whether no checkpoint, valid or not, was ever left here.
fn is_empty(store: &Store) -> Result<bool> {
    let (known, skipped) = store.scan()?;
    Ok(known.is_empty() && skipped.is_empty())
}

fn find_start(config: &RunConfig, path: &Path, store: &Store) -> Result<Start> {
    let mut warnings = Vec::new();
    if let Some(change) = same_run::check(&path.join("run.toml"), config)? {
        warnings.push(change);
    }
    let found = store.newest_valid()?;
    for skipped in &found.skipped {
        let path = skipped.path.display();
        warnings.push(format!("skipped {path}: {}", skipped.reason));
    }
    Ok(Start {
        checkpoint: found.checkpoint,
        warnings,
    })
}

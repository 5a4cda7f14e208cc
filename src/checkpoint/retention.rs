//! Which checkpoints rotation keeps.

use super::manifest::{Manifest, Metric};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Which checkpoints rotation keeps, beside the protected ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The newest so many; 0 counts as 1.
    pub keep_last: usize,
    /// The best one, too.
    pub best: Option<Best>,
}

/// What makes a checkpoint the best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Best {
    /// The measure's name.
    pub metric: String,
    /// Its good direction.
    pub goal: Goal,
}

/// The good direction of a measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Lower is better.
    Min,
    /// Higher is better.
    Max,
}

/// A checkpoint's folder and what it says about itself.
pub type Known = (PathBuf, Manifest);

impl Retention {
    /// The folders that rotation removes from `known`, which is sorted newest first.
    pub(super) fn superfluous(&self, known: &[Known]) -> Vec<PathBuf> {
        let best = self.best.as_ref().and_then(|best| best.of(known));
        let keep: BTreeSet<&Path> = known
            .iter()
            .take(self.keep_last.max(1))
            .chain(known.iter().filter(|(_, m)| m.protected))
            .map(|(path, _)| path.as_path())
            .chain(best.map(|(path, _)| path))
            .collect();
        known
            .iter()
            .filter(|(path, _)| !keep.contains(path.as_path()))
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// Writes into `manifest` what a save with this `value` of the measure says about it.
    /// A value that is not finite counts as not taken.
    pub(super) fn judge(&self, manifest: &mut Manifest, value: Option<f64>, known: &[Known]) {
        let value = value.filter(|v| v.is_finite());
        if let (Some(best), Some(value)) = (&self.best, value) {
            let name = best.metric.clone();
            manifest.metric = Some(Metric { name, value });
            manifest.best = best
                .of(known)
                .is_none_or(|(_, old)| best.better(value, old));
        }
    }
}

impl Best {
    fn better(&self, a: f64, b: f64) -> bool {
        match self.goal {
            Goal::Min => a < b,
            Goal::Max => a > b,
        }
    }

    /// The best of `known`, the earliest where several are equal.
    fn of<'m>(&self, known: &'m [Known]) -> Option<(&'m Path, f64)> {
        let mut measured: Vec<_> = known
            .iter()
            .filter_map(|(path, m)| Some((m.sequence, path.as_path(), m.metric.as_ref()?)))
            .filter(|(.., metric)| metric.name == self.metric)
            .collect();
        measured.sort_by_key(|(sequence, ..)| *sequence);
        let mut best = None;
        for (_, path, metric) in measured {
            if best.is_none_or(|(_, old)| self.better(metric.value, old)) {
                best = Some((path, metric.value));
            }
        }
        best
    }
}

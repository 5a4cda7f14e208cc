//! What a run has to do with GPUs: the one that it was given, and why it waits for one.

use super::sql::json;
use super::{Failure, Run, Tx, View};
use crate::domain::gpu::{GpuHold, Lease};
use crate::domain::{Result, RunId};

/// Which GPU a run was given, why it waits or ends though nobody asked for it, and the
/// temperature at which it pauses at the latest.
pub(super) const COLUMNS: &str = "
ALTER TABLE runs ADD COLUMN lease TEXT;
ALTER TABLE runs ADD COLUMN gpu_hold TEXT;
ALTER TABLE runs ADD COLUMN max_temperature REAL;
-- Looked at with every status of a GPU.
CREATE INDEX runs_with_gpu ON runs (id) WHERE lease IS NOT NULL OR gpu_hold IS NOT NULL;
";

impl View<'_> {
    /// The runs that were given a GPU, and those that wait or end because of one.
    pub fn runs_with_gpu(&self) -> Result<Vec<Run>> {
        self.some_runs("lease IS NOT NULL OR gpu_hold IS NOT NULL")
    }
}

impl Tx<'_> {
    /// Notes the GPU that a run is given with its worker.
    pub fn set_lease(&self, run: RunId, lease: &Lease) -> Result<()> {
        let sql = "UPDATE runs SET lease = ?2 WHERE id = ?1";
        self.execute(sql, (run, json(lease)?)).map(|_| ())
    }

    /// Notes why a run waits or ends though nobody asked for it, or that somebody did.
    pub fn set_hold(&self, run: RunId, hold: Option<&GpuHold>) -> Result<()> {
        let hold = hold.map(json).transpose()?;
        let sql = "UPDATE runs SET gpu_hold = ?2 WHERE id = ?1";
        self.execute(sql, (run, hold)).map(|_| ())
    }

    /// Notes why a run ended, where its own last word does not say it.
    pub fn set_failure(&self, run: RunId, failure: &Failure) -> Result<()> {
        let sql = "UPDATE runs SET error_code = ?2, error_message = ?3 WHERE id = ?1";
        self.execute(sql, (run, &failure.code, &failure.message))
            .map(|_| ())
    }
}

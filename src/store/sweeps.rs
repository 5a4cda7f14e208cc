//! Sweeps: many runs from one specification.

use super::sql::{Json, json, not_found};
use super::{Millis, NewRun, Tx, View};
use crate::domain::{Result, RunId, SweepId};
use rusqlite::Row;
use serde_json::Value;

/// A sweep that is to be begun.
#[derive(Clone, Debug, PartialEq)]
pub struct NewSweep {
    /// Shown to people.
    pub name: String,
    /// What it is made of, in the words of whoever runs it.
    pub spec: Value,
    /// Its first state, in the same words.
    pub state: String,
}

/// A sweep as the store knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep {
    /// Its number.
    pub id: SweepId,
    /// Shown to people.
    pub name: String,
    /// What it is made of.
    pub spec: Value,
    /// Where it stands.
    pub state: String,
    /// The index of its next run: 1, 2, 3, ….
    pub next_index: u64,
    /// When it was begun.
    pub created_at: Millis,
    /// When anything last changed.
    pub updated_at: Millis,
}

impl View<'_> {
    /// A sweep.
    ///
    /// # Errors
    /// `not-found`.
    pub fn sweep(&self, sweep: SweepId) -> Result<Sweep> {
        self.first("SELECT * FROM sweeps WHERE id = ?1", [sweep], read)?
            .ok_or_else(|| not_found("sweep", sweep))
    }

    /// At most `limit` sweeps before `before`, the newest first.
    pub fn sweeps(&self, before: Option<SweepId>, limit: u32) -> Result<Vec<Sweep>> {
        self.all(
            "SELECT * FROM sweeps WHERE ?1 IS NULL OR id < ?1 ORDER BY id DESC LIMIT ?2",
            (before, limit),
            read,
        )
    }
}

impl Tx<'_> {
    /// Begins a sweep.
    pub fn add_sweep(&self, new: &NewSweep, now: Millis) -> Result<SweepId> {
        self.insert(
            "INSERT INTO sweeps (name, spec, state, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?4)",
            (&new.name, json(&new.spec)?, &new.state, now),
        )
        .map(SweepId)
    }

    /// Submits the next run of a sweep and returns its index with it. The index is taken
    /// in the same transaction, so indices have no gap and no repeat, whatever dies in
    /// between.
    ///
    /// # Errors
    /// `not-found`.
    pub fn submit_next(&self, sweep: SweepId, new: &NewRun, now: Millis) -> Result<(RunId, u64)> {
        let index = self.sweep(sweep)?.next_index;
        let run = self.insert_run(new, None, Some((sweep, index)), now)?;
        self.execute(
            "UPDATE sweeps SET next_index = next_index + 1, updated_at = ?2 WHERE id = ?1",
            (sweep, now),
        )?;
        Ok((run, index))
    }

    /// Moves a sweep to another state.
    ///
    /// # Errors
    /// `not-found`.
    pub fn set_sweep_state(&self, sweep: SweepId, state: &str, now: Millis) -> Result<()> {
        let changed = self.execute(
            "UPDATE sweeps SET state = ?2, updated_at = ?3 WHERE id = ?1",
            (sweep, state, now),
        )?;
        if changed == 0 {
            return Err(not_found("sweep", sweep));
        }
        Ok(())
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Sweep> {
    Ok(Sweep {
        id: row.get("id")?,
        name: row.get("name")?,
        spec: row.get::<_, Json<_>>("spec")?.0,
        state: row.get("state")?,
        next_index: row.get("next_index")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
    })
}

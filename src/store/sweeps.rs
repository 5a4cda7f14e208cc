//! Sweeps: many runs from one specification.

use super::sql::{Json, json, not_found, value};
use super::{Appended, Millis, NewRun, Run, RunQuery, Tx, View};
use crate::domain::sweep::Phase;
use crate::domain::{Result, RunId, SweepId};
use rusqlite::Row;
use serde::Serialize;
use serde_json::Value;

/// A sweep that is to be begun.
#[derive(Clone, Debug, PartialEq)]
pub struct NewSweep {
    /// Shown to people.
    pub name: String,
    /// What it is made of, in the words of whoever runs it.
    pub spec: Value,
    /// What whoever runs it must remember, in the same words.
    pub session: Value,
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
    pub phase: Phase,
    /// What whoever runs it must remember.
    pub session: Value,
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

    /// The sweep that the submission named `key` made.
    pub fn sweep_of_key(&self, key: &str) -> Result<Option<SweepId>> {
        let sql = "SELECT id FROM sweeps WHERE submission = ?1";
        self.first(sql, [key], |row| row.get(0))
    }

    /// The sweeps that have not ended, the oldest first.
    pub fn live_sweeps(&self) -> Result<Vec<SweepId>> {
        let mut live = Vec::new();
        for &phase in Phase::ALL.iter().filter(|phase| !phase.has_ended()) {
            let sql = "SELECT id FROM sweeps WHERE state = ?1";
            live.extend(self.all(sql, [phase], |row| row.get::<_, SweepId>(0))?);
        }
        live.sort();
        Ok(live)
    }

    /// The runs of a sweep by their indices.
    pub fn sweep_runs(&self, sweep: SweepId) -> Result<Vec<Run>> {
        let of_sweep = RunQuery {
            sweep: Some(sweep),
            ..RunQuery::default()
        };
        let mut runs = self.runs(&of_sweep, u32::MAX)?;
        runs.sort_by_key(|run| run.sweep.map(|(_, index)| index));
        Ok(runs)
    }
}

impl Tx<'_> {
    /// Begins a sweep, and says whether it is new: a client that names its submission can
    /// send it again, as with [`Tx::submit`].
    pub fn add_sweep(
        &self,
        new: &NewSweep,
        submission: Option<&str>,
        now: Millis,
    ) -> Result<(SweepId, bool)> {
        if let Some(key) = submission
            && let Some(sweep) = self.sweep_of_key(key)?
        {
            return Ok((sweep, false));
        }
        let sweep = self.insert(
            "INSERT INTO sweeps (name, spec, state, session, submission, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
            (
                &new.name,
                json(&new.spec)?,
                Phase::Running,
                json(&new.session)?,
                submission,
                now,
            ),
        )?;
        Ok((SweepId(sweep), true))
    }

    /// Submits the next run of a sweep and returns its index with it. The index is taken
    /// in the same transaction, so indices have no gap and no repeat, whatever dies in
    /// between.
    ///
    /// # Errors
    /// `not-found`.
    pub fn submit_next(&self, sweep: SweepId, new: &NewRun, now: Millis) -> Result<(RunId, u64)> {
        let sql = "UPDATE sweeps SET next_index = next_index + 1, updated_at = ?2 WHERE id = ?1
                   RETURNING next_index - 1";
        let index: u64 = self
            .first(sql, (sweep, now), |row| row.get(0))?
            .ok_or_else(|| not_found("sweep", sweep))?;
        let run = self.insert_run(new, None, Some((sweep, index)), now)?;
        Ok((run, index))
    }

    /// Moves a sweep on.
    ///
    /// # Errors
    /// `not-found`.
    pub fn set_sweep(
        &self,
        sweep: SweepId,
        phase: Phase,
        session: &impl Serialize,
        now: Millis,
    ) -> Result<()> {
        let changed = self.execute(
            "UPDATE sweeps SET state = ?2, session = ?3, updated_at = ?4 WHERE id = ?1",
            (sweep, phase, json(session)?, now),
        )?;
        if changed == 0 {
            return Err(not_found("sweep", sweep));
        }
        Ok(())
    }

    /// Stores the specification of a sweep anew.
    ///
    /// # Errors
    /// `not-found`.
    pub fn set_sweep_spec(&self, sweep: SweepId, spec: &impl Serialize) -> Result<()> {
        let sql = "UPDATE sweeps SET spec = ?2 WHERE id = ?1";
        match self.execute(sql, (sweep, json(spec)?))? {
            0 => Err(not_found("sweep", sweep)),
            _ => Ok(()),
        }
    }

    /// Stores an event about a sweep as a whole.
    pub fn append_of_sweep(
        &self,
        sweep: SweepId,
        kind: &str,
        payload: &impl Serialize,
        now: Millis,
    ) -> Result<Appended> {
        self.append_value(None, Some(sweep), kind, value(payload)?, now)
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Sweep> {
    Ok(Sweep {
        id: row.get("id")?,
        name: row.get("name")?,
        spec: row.get::<_, Json<_>>("spec")?.0,
        phase: row.get("state")?,
        session: row.get::<_, Json<_>>("session")?.0,
        next_index: row.get("next_index")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
    })
}

//! Runs: submitting, reading, moving from state to state.

use super::sql::{Json, json, not_found};
use super::{Millis, Progress, Tx, View};
use crate::domain::gpu::{GpuHold, Lease};
use crate::domain::run_state::{Answer, Command, Input, Report, RunState};
use crate::domain::{Process, Result, RunId, SweepId};
use rusqlite::{Row, named_params};
use serde_json::Value;
use std::collections::BTreeMap;

/// A run that is to be submitted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewRun {
    /// Shown to people; need not be unique.
    pub name: String,
    /// Higher ones go first; 0 is usual.
    pub priority: i64,
    /// The resolved `run.toml`.
    pub toml: String,
    /// Keys that were set apart from the file, with their values in TOML.
    pub overrides: BTreeMap<String, String>,
    /// °C from which on it pauses, where that is to be less than what the host allows.
    pub max_temperature: Option<f64>,
}

impl NewRun {
    /// A run of usual priority, without overrides.
    pub fn new(name: impl Into<String>, toml: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            toml: toml.into(),
            ..Self::default()
        }
    }
}

/// What came of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The run.
    pub run: RunId,
    /// Whether it is new; else it was submitted before.
    pub new: bool,
}

/// A run as the store knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its number.
    pub id: RunId,
    /// Shown to people.
    pub name: String,
    /// Higher ones go first.
    pub priority: i64,
    /// Where it stands.
    pub state: RunState,
    /// The sweep that it belongs to, and its index in there: 1, 2, 3, ….
    pub sweep: Option<(SweepId, u64)>,
    /// Its folder, once a worker said so.
    pub folder: Option<String>,
    /// How far it is.
    pub progress: Progress,
    /// Counts the workers that it was given to.
    pub life: u64,
    /// Sequence number of its newest event.
    pub last_seq: u64,
    /// The worker's process, from its start to its end.
    pub worker: Option<Process>,
    /// The GPU that it was given, for as long as it has a worker.
    pub lease: Option<Lease>,
    /// Why it waits or ends though nobody asked for it.
    pub hold: Option<GpuHold>,
    /// °C from which on it pauses, where that is less than what the host allows.
    pub max_temperature: Option<f64>,
    /// When it was submitted.
    pub queued_at: Millis,
    /// When it first ran.
    pub started_at: Option<Millis>,
    /// When it ended; none while it can still move.
    pub ended_at: Option<Millis>,
    /// When anything last changed.
    pub updated_at: Millis,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// What its worker said at the end, as JSON: a later release must read what this one
    /// wrote, whatever an ending has become by then.
    pub ending: Option<Value>,
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The stable code.
    pub code: String,
    /// The error in one line.
    pub message: String,
}

/// What a run was submitted with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunConfig {
    /// The resolved `run.toml`.
    pub toml: String,
    /// Keys that were set apart from the file.
    pub overrides: BTreeMap<String, String>,
}

/// Which runs to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunQuery {
    /// Only those of this sweep.
    pub sweep: Option<SweepId>,
    /// Only those in this state.
    pub state: Option<RunState>,
    /// Only those with a smaller number, for the next page.
    pub before: Option<RunId>,
}

impl View<'_> {
    /// A run.
    ///
    /// # Errors
    /// `not-found`.
    pub fn run(&self, run: RunId) -> Result<Run> {
        self.first("SELECT * FROM runs WHERE id = ?1", [run], read)?
            .ok_or_else(|| not_found("run", run))
    }

    /// What a run was submitted with.
    ///
    /// # Errors
    /// `not-found`.
    pub fn run_config(&self, run: RunId) -> Result<RunConfig> {
        self.first(
            "SELECT toml, overrides FROM run_configs WHERE run = ?1",
            [run],
            |row| {
                Ok(RunConfig {
                    toml: row.get(0)?,
                    overrides: row.get::<_, Json<_>>(1)?.0,
                })
            },
        )?
        .ok_or_else(|| not_found("run", run))
    }

    /// At most `limit` runs, the newest first.
    pub fn runs(&self, query: &RunQuery, limit: u32) -> Result<Vec<Run>> {
        self.all(
            "SELECT * FROM runs
             WHERE (?1 IS NULL OR sweep = ?1) AND (?2 IS NULL OR state = ?2)
               AND (?3 IS NULL OR id < ?3)
             ORDER BY id DESC LIMIT ?4",
            (query.sweep, query.state, query.before, limit),
            read,
        )
    }

    /// At most `limit` queued runs in the order in which they are to run: by priority, and
    /// in the order of submission within one. What lost its worker keeps its old place.
    pub fn queue(&self, limit: u32) -> Result<Vec<Run>> {
        self.all(
            "SELECT * FROM runs WHERE state = 'queued' ORDER BY priority DESC, id LIMIT ?1",
            [limit],
            read,
        )
    }

    /// The runs that a condition on their columns holds for, the oldest first.
    pub(super) fn some_runs(&self, condition: &str) -> Result<Vec<Run>> {
        let sql = format!("SELECT * FROM runs WHERE {condition} ORDER BY id");
        self.all(&sql, [], read)
    }

    /// How many runs there are in each state that some are in.
    pub fn census(&self) -> Result<Vec<(RunState, u64)>> {
        let sql = "SELECT state, COUNT(*) FROM runs GROUP BY state";
        self.all(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// At most `limit` runs that have a worker or wait to be resumed, the newest first.
    pub fn active(&self, limit: u32) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        let is_active = |state: &RunState| state.has_worker() || *state == RunState::Held;
        for state in RunState::ALL.iter().copied().filter(is_active) {
            let sql = "SELECT * FROM runs WHERE state = ?1 ORDER BY id DESC LIMIT ?2";
            runs.extend(self.all(sql, (state, limit), read)?);
        }
        runs.sort_by_key(|run| std::cmp::Reverse(run.id));
        runs.truncate(limit as usize);
        Ok(runs)
    }

    /// At most `limit` runs that have ended, the newest first.
    pub fn ended(&self, limit: u32) -> Result<Vec<Run>> {
        let sql = "SELECT * FROM runs WHERE ended_at IS NOT NULL ORDER BY id DESC LIMIT ?1";
        self.all(sql, [limit], read)
    }

    /// The runs that have a worker or were about to get one, for a daemon that comes back.
    pub fn runs_with_worker(&self) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        for &state in RunState::ALL.iter().filter(|state| state.has_worker()) {
            let of_state = RunQuery {
                state: Some(state),
                ..RunQuery::default()
            };
            runs.extend(self.runs(&of_state, u32::MAX)?);
        }
        runs.sort_by_key(|run| run.id);
        Ok(runs)
    }
}

impl Tx<'_> {
    /// Puts a run into the queue. A client that names its submission can send it again
    /// when the answer was lost: it gets the run that it made, and no second one is made.
    pub fn submit(&self, new: &NewRun, submission: Option<&str>, now: Millis) -> Result<Submitted> {
        if let Some(submission) = submission {
            let sql = "SELECT id FROM runs WHERE submission = ?1";
            if let Some(run) = self.first(sql, [submission], |row| row.get(0))? {
                return Ok(Submitted { run, new: false });
            }
        }
        let run = self.insert_run(new, submission, None, now)?;
        Ok(Submitted { run, new: true })
    }

    pub(super) fn insert_run(
        &self,
        new: &NewRun,
        submission: Option<&str>,
        place: Option<(SweepId, u64)>,
        now: Millis,
    ) -> Result<RunId> {
        let overrides = json(&new.overrides)?;
        let run = RunId(self.insert(
            "INSERT INTO runs (name, submission, priority, state, sweep, sweep_index,
                               queued_at, updated_at, max_temperature)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8)",
            (
                &new.name,
                submission,
                new.priority,
                RunState::Queued,
                place.map(|p| p.0),
                place.map(|p| p.1),
                now,
                new.max_temperature,
            ),
        )?);
        self.execute(
            "INSERT INTO run_configs (run, toml, overrides) VALUES (?1, ?2, ?3)",
            (run, &new.toml, overrides),
        )?;
        Ok(run)
    }

    /// Gives an input to a run's state machine and stores the state that follows. A run
    /// that is given to a worker begins a new life; one that goes back into the queue
    /// loses its error and its ending.
    ///
    /// # Errors
    /// `not-found`.
    pub fn apply(&self, run: RunId, input: impl Into<Input>, now: Millis) -> Result<Answer> {
        let sql = "SELECT state FROM runs WHERE id = ?1";
        let state: RunState = self
            .first(sql, [run], |row| row.get(0))?
            .ok_or_else(|| not_found("run", run))?;
        let input = input.into();
        let answer = state.on(input);
        if let Answer::Applied(next) = answer {
            let again = matches!(input, Input::Command(Command::Resume | Command::Retry))
                && next == RunState::Queued;
            self.execute(
                "UPDATE runs SET
                     state = :state,
                     updated_at = :now,
                     started_at = iif(:state = 'running', coalesce(started_at, :now), started_at),
                     ended_at = iif(:ended, :now, NULL),
                     life = life + :given,
                     life_seq = iif(:given, 0, life_seq),
                     worker_pid = iif(:worker, worker_pid, NULL),
                     worker_started = iif(:worker, worker_started, NULL),
                     worker_boot = iif(:worker, worker_boot, NULL),
                     lease = iif(:worker, lease, NULL),
                     gpu_hold = iif(:ended OR :given, NULL, gpu_hold),
                     error_code = iif(:again, NULL, error_code),
                     error_message = iif(:again, NULL, error_message),
                     ending = iif(:again, NULL, ending)
                 WHERE id = :run",
                named_params! {
                    ":run": run,
                    ":state": next,
                    ":now": now,
                    ":ended": next.has_ended(),
                    ":given": input == Report::Given.into(),
                    ":worker": next.has_worker(),
                    ":again": again,
                },
            )?;
        }
        Ok(answer)
    }

    /// Fails a run that has not ended, with the reason.
    ///
    /// # Errors
    /// `not-found`.
    pub fn fail_run(&self, run: RunId, failure: &Failure, now: Millis) -> Result<Answer> {
        let answer = self.apply(run, Report::Failed, now)?;
        if let Answer::Applied(_) = answer {
            self.set_failure(run, failure)?;
        }
        Ok(answer)
    }

    /// Notes the process that works for a run in its life `life`. Returns whether it is
    /// noted: not for a life that is over.
    pub fn set_worker(&self, run: RunId, life: u64, worker: &Process) -> Result<bool> {
        let state = self.run(run)?.state;
        let changed = self.execute(
            "UPDATE runs SET worker_pid = ?3, worker_started = ?4, worker_boot = ?5
             WHERE id = ?1 AND life = ?2 AND ?6",
            (
                run,
                life,
                worker.pid,
                worker.started,
                &worker.boot,
                state.has_worker(),
            ),
        )?;
        Ok(changed == 1)
    }

    /// Replaces the `run.toml` that a run was submitted with.
    ///
    /// # Errors
    /// `not-found`.
    pub fn set_toml(&self, run: RunId, toml: &str) -> Result<()> {
        let sql = "UPDATE run_configs SET toml = ?2 WHERE run = ?1";
        match self.execute(sql, (run, toml))? {
            0 => Err(not_found("run", run)),
            _ => Ok(()),
        }
    }

    /// Moves a run within the queue.
    ///
    /// # Errors
    /// `not-found`.
    pub fn set_priority(&self, run: RunId, priority: i64, now: Millis) -> Result<()> {
        let changed = self.execute(
            "UPDATE runs SET priority = ?2, updated_at = ?3 WHERE id = ?1",
            (run, priority, now),
        )?;
        if changed == 0 {
            return Err(not_found("run", run));
        }
        Ok(())
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Run> {
    let sweep: Option<SweepId> = row.get("sweep")?;
    let index: Option<u64> = row.get("sweep_index")?;
    let pid: Option<u32> = row.get("worker_pid")?;
    let code: Option<String> = row.get("error_code")?;
    let worker = match pid {
        None => None,
        Some(pid) => Some(Process {
            pid,
            started: row.get("worker_started")?,
            boot: row.get("worker_boot")?,
        }),
    };
    let failure = match code {
        None => None,
        Some(code) => Some(Failure {
            code,
            message: row.get("error_message")?,
        }),
    };
    Ok(Run {
        id: row.get("id")?,
        name: row.get("name")?,
        priority: row.get("priority")?,
        state: row.get("state")?,
        sweep: sweep.zip(index),
        folder: row.get("folder")?,
        progress: Progress {
            step: row.get("step")?,
            steps: row.get("steps")?,
            epoch: row.get("epoch")?,
            tokens: row.get("tokens")?,
            loss: row.get("loss")?,
            l0: row.get("l0")?,
            tokens_per_second: row.get("tokens_s")?,
        },
        life: row.get("life")?,
        last_seq: row.get("last_seq")?,
        worker,
        lease: row.get::<_, Option<Json<_>>>("lease")?.map(|json| json.0),
        hold: row
            .get::<_, Option<Json<_>>>("gpu_hold")?
            .map(|json| json.0),
        max_temperature: row.get("max_temperature")?,
        queued_at: row.get("queued_at")?,
        started_at: row.get("started_at")?,
        ended_at: row.get("ended_at")?,
        updated_at: row.get("updated_at")?,
        failure,
        ending: row.get::<_, Option<Json<_>>>("ending")?.map(|json| json.0),
    })
}

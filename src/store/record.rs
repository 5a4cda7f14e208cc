//! What a worker says, stored in one piece: the event, the state, the progress and the
//! metrics of one fact are there together or not at all.

use super::metrics::points;
use super::progress::finite;
use super::sql::{json, not_found};
use super::{Appended, Millis, Progress, Tx};
use crate::domain::run_state::{Answer, Refusal, Report, RunState};
use crate::domain::{Code, Error, Result, RunId};
use crate::protocol::{Ending, Fact, Frame};
use serde::Serialize;
use serde_json::Value;

/// What came of a worker's fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Recorded {
    /// It is stored, and this is its event. The state of the run, where it changed.
    Stored(Appended, Option<RunState>),
    /// It was stored before: a worker repeats what it does not know to be stored.
    Replayed,
    /// It comes from another worker than the run has now. Nothing was stored.
    OtherLife,
    /// The run has ended or has no worker. Nothing was stored.
    Refused(Refusal),
}

/// What a fact means for the state of its run.
fn report_of(fact: &Fact) -> Report {
    match fact {
        Fact::RunStarted { .. } => Report::Started,
        Fact::Step(_) | Fact::NonFinite { .. } | Fact::LossScaled { .. } => Report::Stepped,
        Fact::Paused { .. } => Report::Paused,
        Fact::Resumed { .. } => Report::Resumed,
        Fact::RunCompleted(_) => Report::Completed,
        Fact::EarlyStopped(_) => Report::EarlyStopped,
        Fact::Stopped(_) => Report::Stopped,
        Fact::Aborted(_) => Report::Aborted,
        Fact::RunFailed { .. } => Report::Failed,
        Fact::Progress { .. }
        | Fact::Warning { .. }
        | Fact::Estimate { .. }
        | Fact::Epoch { .. }
        | Fact::Validation(_)
        | Fact::CheckpointSaved { .. }
        | Fact::Oom(_) => Report::Said,
    }
}

impl Tx<'_> {
    /// Stores what the worker of a run's life `life` said. Saying it again changes
    /// nothing, and neither does what comes too late.
    ///
    /// # Errors
    /// `not-found`: no run is made from the word of a worker; `protocol-invalid` for
    /// numbers that cannot be.
    pub fn record(&self, run: RunId, life: u64, frame: &Frame, now: Millis) -> Result<Recorded> {
        let sql = "SELECT life, life_seq FROM runs WHERE id = ?1";
        let (current, heard): (u64, u64) = self
            .first(sql, [run], |row| Ok((row.get(0)?, row.get(1)?)))?
            .ok_or_else(|| not_found("run", run))?;
        if life != current {
            return Ok(Recorded::OtherLife);
        }
        if frame.seq <= heard {
            return Ok(Recorded::Replayed);
        }
        self.whole(|| self.record_new(run, frame, now))
    }

    /// Stores a fact of the daemon's own, or one that it states in a worker's place, as
    /// [`Tx::append`] does.
    ///
    /// # Errors
    /// `not-found`.
    pub fn append_fact(
        &self,
        run: Option<RunId>,
        fact: &impl Serialize,
        now: Millis,
    ) -> Result<Appended> {
        let (kind, payload) = event_of(fact)?;
        self.append_value(run, None, &kind, payload, now)
    }

    fn record_new(&self, run: RunId, frame: &Frame, now: Millis) -> Result<Recorded> {
        let (kind, payload) = event_of(&frame.fact)?;
        let moved = match self.apply(run, report_of(&frame.fact), now)? {
            Answer::Applied(state) => Some(state),
            Answer::AlreadySo => None,
            Answer::NotPossible(refusal) => return Ok(Recorded::Refused(refusal)),
        };
        let sql = "UPDATE runs SET life_seq = ?2, updated_at = ?3 WHERE id = ?1";
        self.execute(sql, (run, frame.seq, now))?;
        self.keep(run, &frame.fact, now)?;
        let event = self.append_value(Some(run), None, &kind, payload, now)?;
        Ok(Recorded::Stored(event, moved))
    }

    /// What a fact says about its run.
    fn keep(&self, run: RunId, fact: &Fact, now: Millis) -> Result<()> {
        match fact {
            Fact::RunStarted {
                step,
                steps,
                folder,
                ..
            } => {
                self.rewind_metrics(run, *step)?;
                let sql = "UPDATE runs SET folder = ?2 WHERE id = ?1";
                self.execute(sql, (run, folder.to_string_lossy()))?;
                let progress = Progress {
                    step: *step,
                    steps: Some(*steps),
                    ..Progress::default()
                };
                self.set_progress(run, &progress, now)
            }
            Fact::Step(step) => {
                self.set_progress(run, &step.into(), now)?;
                self.log(run, &points(step).collect::<Vec<_>>())
            }
            Fact::RunCompleted(ending) | Fact::Stopped(ending) | Fact::Aborted(ending) => {
                self.keep_ending(run, ending, now)
            }
            Fact::EarlyStopped(stop) => self.keep_ending(run, &stop.ending, now),
            Fact::RunFailed { code, message, .. } => {
                let sql = "UPDATE runs SET error_code = ?2, error_message = ?3 WHERE id = ?1";
                self.execute(sql, (run, code, message)).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    fn keep_ending(&self, run: RunId, ending: &Ending, now: Millis) -> Result<()> {
        let sql = "UPDATE runs SET ending = ?2 WHERE id = ?1";
        self.execute(sql, (run, json(ending)?))?;
        let progress = Progress {
            step: ending.step,
            steps: Some(ending.steps),
            tokens: Some(ending.tokens),
            loss: ending.loss.and_then(finite),
            ..Progress::default()
        };
        self.set_progress(run, &progress, now)
    }
}

/// The kind of a fact and the rest of it.
fn event_of(fact: &impl Serialize) -> Result<(String, Value)> {
    let invalid = |message: String| Error::new(Code::ProtocolInvalid, "fact", message);
    let mut value = serde_json::to_value(fact).map_err(|e| invalid(e.to_string()))?;
    match value
        .as_object_mut()
        .and_then(|object| object.remove("kind"))
    {
        Some(Value::String(kind)) => Ok((kind, value)),
        _ => Err(invalid("has no kind".to_owned())),
    }
}

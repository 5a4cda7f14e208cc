//! What is told of a sweep.

use super::{Sweep, measures};
use crate::domain::sweep::{News, Phase};
use crate::domain::{Result, SweepId};
use crate::protocol::sweep::{RunResult, SweepFact, SweepResult, seconds};
use crate::store::Tx;
use crate::system::clock::now_millis;
use serde_json::Value;
use std::collections::BTreeMap;

/// Stores a fact as an event of the sweep.
pub fn tell(tx: &Tx<'_>, sweep: SweepId, fact: &SweepFact) -> Result<()> {
    let mut fields = super::json(fact)?;
    let kind = fields
        .as_object_mut()
        .and_then(|fields| fields.remove("kind"));
    // A tagged enum always has its tag.
    let kind = kind.as_ref().and_then(Value::as_str).unwrap_or_default();
    tx.append_of_sweep(sweep, kind, &fields, now_millis())
        .map(|_| ())
}

impl Sweep {
    /// News in full.
    pub(super) fn fact(&self, news: &News) -> Result<SweepFact> {
        Ok(match news {
            News::RunComplete(index) => SweepFact::RunComplete(self.run_result(*index)?),
            News::RungComplete {
                step,
                kept,
                dropped,
            } => SweepFact::RungCompleted {
                step: *step,
                kept: kept.clone(),
                dropped: dropped.clone(),
            },
            News::EarlyStop { run_idx, best } => SweepFact::MultiRunEarlyStop {
                run_idx: *run_idx,
                metric: self.plan().metric().0,
                best: best.value,
                best_run_idx: best.at,
                patience: self.plan().early_stopping.map_or(0, |rule| rule.patience),
            },
            News::Paused => SweepFact::MultiRunPaused {},
            News::Resumed => SweepFact::MultiRunResumed {},
            News::Ended(phase) => {
                let result = self.result();
                match phase {
                    Phase::Failed => SweepFact::MultiRunFailed(result),
                    Phase::Stopped => SweepFact::MultiRunStopped(result),
                    Phase::Aborted => SweepFact::MultiRunAborted(result),
                    _ => SweepFact::MultiRunCompleted(result),
                }
            }
        })
    }

    fn run_result(&self, index: u64) -> Result<RunResult> {
        let run = self.run_of(index)?;
        Ok(RunResult {
            run_idx: index,
            run_id: run.id,
            name: run.name.clone(),
            state: run.state,
            step: run.progress.step,
            steps: run.progress.steps,
            seconds: seconds(run.started_at, run.ended_at),
            measures: measures(run),
            error: run.failure.as_ref().map(|failure| failure.code.clone()),
        })
    }

    fn result(&self) -> SweepResult {
        let mut runs = BTreeMap::new();
        for run in &self.runs {
            *runs.entry(run.state.as_str().to_owned()).or_insert(0) += 1;
        }
        SweepResult {
            reason: self.reason().map(str::to_owned),
            runs,
            steps: self.runs.iter().map(|run| run.progress.step).sum(),
            best: self.best(),
            seconds: seconds(Some(self.created_at), Some(now_millis())),
        }
    }
}

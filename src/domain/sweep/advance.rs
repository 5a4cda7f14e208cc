//! What a sweep does next, as a function of its runs.

use super::{Act, Halving, News, Phase, Plan, Seen, Session};
use crate::domain::run_state::{self, RunState};

impl Session {
    /// What is to be done now; nothing where the session waits for a run. To be asked again
    /// after it was done.
    #[must_use]
    pub fn advance(&mut self, plan: &Plan, seen: &[Seen]) -> Vec<Act> {
        let mut acts = Vec::new();
        if self.phase.has_ended() {
            return acts;
        }
        self.report(plan, seen, &mut acts);
        if self.phase == Phase::Running {
            self.judge_rung(plan, seen, &mut acts);
            // What a rung decides is done before more is.
            if acts.iter().all(|act| !matches!(act, Act::Tell(..))) {
                self.fill(plan, seen, &mut acts);
            }
        }
        if acts.iter().all(|act| matches!(act, Act::Say(_))) {
            self.end(plan, seen, &mut acts);
        }
        acts
    }

    /// Tells what is over, in the order of the indices.
    fn report(&mut self, plan: &Plan, seen: &[Seen], acts: &mut Vec<Act>) {
        for (index, run) in indexed(seen) {
            if self.reported.contains(&index) || !self.is_over(plan, index, run) {
                continue;
            }
            self.reported.insert(index);
            acts.push(Act::Say(News::RunComplete(index)));
            if let (Some(rule), Some(stopper)) = (&plan.early_stopping, &mut self.stopper) {
                stopper.observe(rule, index, run.value.filter(|_| run.state.has_succeeded()));
                if self.spent_at.is_none() && stopper.is_spent(rule) {
                    self.spent_at = Some(index);
                }
            }
        }
    }

    /// Whether the sweep has nothing more to do with a run.
    fn is_over(&self, plan: &Plan, index: u64, run: &Seen) -> bool {
        let goes_on = run.state == RunState::Stopped
            && (self.held.contains(&index) || self.waits(plan, run) || self.is_done(plan, run));
        run.state.has_ended() && (self.phase == Phase::Aborting || !goes_on)
    }

    /// Whether a run has reached the present rung.
    pub(super) fn is_done(&self, plan: &Plan, run: &Seen) -> bool {
        run.state == RunState::Stopped && plan.rung_step(self.rung) == Some(run.step)
    }

    /// Whether a run waits at the rung before.
    pub(super) fn waits(&self, plan: &Plan, run: &Seen) -> bool {
        let before = self.rung.checked_sub(1).and_then(|r| plan.rung_step(r));
        run.state == RunState::Stopped && before == Some(run.step)
    }

    /// Once every run stands at the present rung, chooses those that go on.
    fn judge_rung(&mut self, plan: &Plan, seen: &[Seen], acts: &mut Vec<Act>) {
        let (Some(halving), Some(step)) = (&plan.halving, plan.rung_step(self.rung)) else {
            return;
        };
        let mut left: Vec<(u64, &Seen)> = indexed(seen)
            .filter(|(index, _)| !self.reported.contains(index))
            .collect();
        let all = seen.len() as u64 == plan.runs;
        if !all || left.is_empty() || !left.iter().all(|(_, run)| self.is_done(plan, run)) {
            return;
        }
        // A stable sort: among equals the earlier one goes on.
        left.sort_by(|(_, a), (_, b)| worth(halving, b).total_cmp(&worth(halving, a)));
        let kept = (left.len() as f64 * halving.keep).ceil() as usize;
        let mut indices: Vec<u64> = left.iter().map(|(index, _)| *index).collect();
        let dropped = indices.split_off(kept.clamp(1, left.len()));
        self.rung += 1;
        let drop = |index: &u64| Act::Tell(*index, run_state::Command::EndEarly);
        let dropping: Vec<Act> = dropped.iter().map(drop).collect();
        acts.push(Act::Say(News::RungComplete {
            step,
            kept: indices,
            dropped,
        }));
        acts.extend(dropping);
    }

    /// Begins runs, or lets them go on, where there is room.
    fn fill(&mut self, plan: &Plan, seen: &[Seen], acts: &mut Vec<Act>) {
        let active = indexed(seen)
            .filter(|(index, run)| !self.reported.contains(index) && !run.state.has_ended());
        let room = plan.parallel.saturating_sub(active.count() as u64) as usize;
        let waiting = indexed(seen)
            .filter(|(index, run)| !self.reported.contains(index) && self.waits(plan, run));
        let to = plan.rung_step(self.rung);
        let extended = waiting.map(|(index, _)| Act::Extend(index, to));
        let begun = seen.len() as u64;
        let last = match self.spent_at {
            Some(_) => begun,
            None => plan.runs,
        };
        let submitted = (begun + 1..=last).map(|index| Act::Submit(index, to));
        acts.extend(extended.chain(submitted).take(room));
    }

    /// Ends the sweep where nothing is left to wait for.
    fn end(&mut self, plan: &Plan, seen: &[Seen], acts: &mut Vec<Act>) {
        let begun = seen.len() as u64;
        let all = self.reported.len() as u64 == begun;
        let no_more = begun == plan.runs || self.spent_at.is_some();
        let idle = seen.iter().all(|run| run.state.has_ended());
        self.phase = match self.phase {
            Phase::Aborting if all => Phase::Aborted,
            Phase::Aborting => return,
            _ if all && no_more => {
                if seen.iter().any(|run| run.state.has_succeeded()) {
                    Phase::Completed
                } else {
                    self.reason.get_or_insert("no run succeeded".into());
                    Phase::Failed
                }
            }
            Phase::Stopping if idle => Phase::Stopped,
            _ => return,
        };
        if self.phase == Phase::Completed {
            self.reason = None;
            let best = self.stopper.and_then(|stopper| stopper.best());
            if let (Some(run_idx), Some(best)) = (self.spent_at, best) {
                acts.push(Act::Say(News::EarlyStop { run_idx, best }));
            }
        }
        acts.push(Act::Say(News::Ended(self.phase)));
    }
}

/// How good a run is; what is not known is worst.
fn worth(halving: &Halving, run: &Seen) -> f64 {
    let value = run.value.filter(|value| value.is_finite());
    value.map_or(f64::NEG_INFINITY, |value| halving.mode().gain(value, 0.0))
}

fn indexed(seen: &[Seen]) -> impl Iterator<Item = (u64, &Seen)> {
    (1..).zip(seen)
}

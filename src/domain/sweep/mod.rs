//! A sweep: many runs of one specification, one after another or side by side.
//!
//! ```text
//! running ─▶ completed | failed
//!
//! pause   running                    ─▶ paused
//! resume  paused, stopped            ─▶ running
//! stop    running, paused            ─▶ stopping ─▶ stopped
//! abort   all of these               ─▶ aborting ─▶ aborted
//! ```
//!
//! A [`Session`] looks at the runs as they are ([`Seen`]) and says what to do next
//! ([`Act`]). Whoever drives it does that, stores the session in the same transaction, and
//! lets it look again. It follows that nothing hangs on a message that could be lost: a
//! daemon that was killed at any instant looks again and goes on. What was said once is in
//! the session, so it is not said twice.
//!
//! Runs have the indices 1, 2, 3, …, in the order in which they are submitted.

mod advance;
mod command;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use command::{Answer, Command};

use super::early_stopping::{Best, EarlyStopping, Stopper};
use super::measure::{Measure, Mode};
use super::run_state::{self, RunState};
use super::{Code, Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What a sweep does, beside the settings of its runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Runs in all.
    pub runs: u64,
    /// Runs at once, at most.
    pub parallel: u64,
    /// Whether to go on after each run.
    pub early_stopping: Option<EarlyStopping>,
    /// Which runs to go on with.
    pub halving: Option<Halving>,
}

impl Plan {
    /// By what the runs are compared.
    pub fn metric(&self) -> (Measure, Mode) {
        match (&self.early_stopping, &self.halving) {
            (Some(rule), _) => (rule.metric, rule.mode()),
            (_, Some(halving)) => (halving.metric, halving.mode()),
            _ => (Measure::CeRecovered, Measure::CeRecovered.mode()),
        }
    }

    /// Rounds of [`Session::advance`] in a row that can have something to do, at most: in each
    /// a run begins, goes on from a rung or is over, a rung is judged, or the sweep ends.
    pub fn most_rounds(&self) -> u64 {
        let rungs = self.halving.as_ref().map_or(0, |h| h.rungs.len() as u64);
        self.runs
            .saturating_mul(rungs + 2)
            .saturating_add(rungs + 1)
    }

    /// The step at which the runs of rung `rung` wait; none past the last rung.
    fn rung_step(&self, rung: usize) -> Option<u64> {
        self.halving.as_ref()?.rungs.get(rung).copied()
    }
}

/// `[halving]` of `sweep.toml`: all runs train up to the first rung, the best of them up to
/// the next, and so on; those that are left train to their end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Halving {
    /// What is measured.
    pub metric: Measure,
    /// Which way is better; by default the measure's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Steps, ascending.
    pub rungs: Vec<u64>,
    /// Share of the runs that go on from each rung, rounded up.
    #[serde(default = "half")]
    pub keep: f64,
}

fn half() -> f64 {
    0.5
}

impl Halving {
    /// Whether the table can be used.
    ///
    /// # Errors
    /// `config-invalid` about the key.
    pub fn validate(&self) -> Result<()> {
        let bad = |key: &str, message: String| Err(Error::new(Code::ConfigInvalid, key, message));
        if self.rungs.is_empty() || self.rungs[0] == 0 {
            return bad("rungs", "must name at least one step above 0".into());
        }
        if self.rungs.windows(2).any(|pair| pair[0] >= pair[1]) {
            return bad("rungs", format!("{:?} does not ascend", self.rungs));
        }
        if !(self.keep > 0.0 && self.keep < 1.0) {
            return bad("keep", format!("{} is not between 0 and 1", self.keep));
        }
        Ok(())
    }

    /// Which way is better.
    pub fn mode(&self) -> Mode {
        self.mode.unwrap_or(self.metric.mode())
    }
}

macro_rules! phases {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// Where a sweep stands.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Phase { $($(#[$doc])* $name,)* }

        impl Phase {
            /// Every phase.
            pub const ALL: &'static [Phase] = &[$(Phase::$name,)*];

            /// The phase as users, scripts and the store see it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Phase::$name => $text,)* }
            }
        }
    };
}

phases! {
    /// Its runs are queued and train.
    Running = "running";
    /// Its runs wait, and no further one is begun.
    Paused = "paused";
    /// Its runs were told to save and end.
    Stopping = "stopping";
    /// Its runs were told to end.
    Aborting = "aborting";
    /// Every run that it was to begin has ended, and one at least as it was meant to.
    Completed = "completed";
    /// Every run has ended, and none as it was meant to.
    Failed = "failed";
    /// Ended because it was told to; can be resumed.
    Stopped = "stopped";
    /// Ended for good because it was told to.
    Aborted = "aborted";
}

impl Phase {
    /// Whether nothing but a command moves it again.
    pub const fn has_ended(self) -> bool {
        use Phase::*;
        matches!(self, Completed | Failed | Stopped | Aborted)
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Phase {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|phase| phase.as_str() == text);
        known
            .copied()
            .ok_or_else(|| format!("`{text}` is no phase of a sweep"))
    }
}

/// All that a sweep must remember beside its runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    phase: Phase,
    /// Why it was stopped or aborted.
    reason: Option<String>,
    /// Runs whose end was told.
    reported: BTreeSet<u64>,
    /// Runs that it paused or stopped itself, to go on with.
    held: BTreeSet<u64>,
    stopper: Option<Stopper>,
    /// The run after which early stopping ended it.
    spent_at: Option<u64>,
    /// The rung that the runs train up to.
    rung: usize,
}

/// A run as it is, when the session looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Where it stands.
    pub state: RunState,
    /// Steps done.
    pub step: u64,
    /// The plan's metric after its last step, where that was measured.
    pub value: Option<f64>,
    /// Whether a person paused it, and not the GPU monitor.
    pub asked_to_wait: bool,
}

/// What is to be done, in the order of the list.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Submit the next run, which has this index, to train up to this step, or to its end.
    Submit(u64, Option<u64>),
    /// Tell a run.
    Tell(u64, run_state::Command),
    /// Let a run that waits at a rung go on to this step, or to its end.
    Extend(u64, Option<u64>),
    /// Tell everybody.
    Say(News),
}

/// What everybody is told.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// A run is over.
    RunComplete(u64),
    /// All runs stand at a rung.
    RungComplete {
        /// Its step.
        step: u64,
        /// The runs that go on, the best first.
        kept: Vec<u64>,
        /// The others, the best first.
        dropped: Vec<u64>,
    },
    /// No further run is begun, because the last ones were no better.
    EarlyStop {
        /// The run after which that was clear.
        run_idx: u64,
        /// The best value, and the run of which it is.
        best: Best,
    },
    /// The runs wait.
    Paused,
    /// The runs go on.
    Resumed,
    /// The sweep has ended.
    Ended(Phase),
}

impl Session {
    /// A session that has not begun any run.
    pub fn new(plan: &Plan) -> Self {
        Self {
            phase: Phase::Running,
            reason: None,
            reported: BTreeSet::new(),
            held: BTreeSet::new(),
            stopper: plan.early_stopping.as_ref().map(Stopper::new),
            spent_at: None,
            rung: 0,
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Why it ended as it did, or is about to.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Whether the end of run `index` was told.
    pub fn has_reported(&self, index: u64) -> bool {
        self.reported.contains(&index)
    }
}

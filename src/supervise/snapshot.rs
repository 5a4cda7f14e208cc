//! What a supervisor tells: the state of each child, and facts as they happen.

use super::Cause;
use serde::{Deserialize, Serialize};

/// Where a child stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ChildState {
    /// It waits for siblings that it depends on.
    Waiting,
    /// A fresh instance was made and has not come through its `started` yet.
    Starting,
    /// It is up.
    Running,
    /// It was asked to stop.
    Stopping,
    /// It is restarted after a wait.
    BackingOff {
        /// Milliseconds left of the wait.
        remaining_ms: u64,
    },
    /// It failed too often; [`ReleaseChild`](super::ReleaseChild) brings it back.
    Quarantined,
    /// It ended and is not restarted.
    Stopped,
}

/// One child, as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildSnapshot {
    /// Its name, unique under its supervisor.
    pub name: String,
    /// Where it stands.
    #[serde(flatten)]
    pub state: ChildState,
    /// When it came to stand there: milliseconds of Unix time.
    pub since_unix_ms: u64,
    /// For how long it has stood there, whatever became of the time of day meanwhile.
    pub stands_ms: u64,
    /// Which instance is the current or was the last; 0 before the first.
    pub generation: u64,
    /// How often it was started again.
    pub restarts: u64,
    /// Why it ended last.
    pub last_cause: Option<Cause>,
    /// What began the present series of failures.
    pub first_cause: Option<Cause>,
    /// Messages that were accepted and not answered yet.
    pub mailbox_depth: usize,
    /// How many it may hold.
    pub mailbox_bound: usize,
    /// Messages that its generations took along when they ended.
    pub messages_lost: u64,
    /// Messages answered and progress reported by the current generation.
    pub progress: u64,
    /// For how long it has had work and made no progress.
    pub stalled_ms: u64,
    /// How long it may; absent where it is not watched.
    pub stall_limit_ms: Option<u64>,
    /// Abandoned generations that have not returned: threads that no one can end.
    pub abandoned: u64,
}

impl ChildSnapshot {
    /// Whether it is up and within its limit, or ended for good: what a watchdog asks of
    /// every child.
    pub fn is_well(&self) -> bool {
        match self.state {
            ChildState::Running => self
                .stall_limit_ms
                .is_none_or(|limit| self.stalled_ms < limit),
            state => state == ChildState::Stopped,
        }
    }
}

/// A fact about a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "notice", rename_all = "snake_case")]
pub enum Notice {
    /// A generation ended in a failure, or a permanent child stopped.
    Failed {
        /// The child.
        child: String,
        /// The generation that is gone.
        generation: u64,
        /// Why.
        cause: Cause,
        /// The wait before the next one; absent when none follows by itself.
        restart_in_ms: Option<u64>,
    },
    /// A fresh generation took over.
    Restarted {
        /// The child.
        child: String,
        /// The new generation.
        generation: u64,
        /// How often it was started again, this one included.
        restarts: u64,
    },
    /// The child failed too often and stays down until it is released; under
    /// [`Spent::Escalate`](super::Spent::Escalate) its supervisor fails next.
    Quarantined {
        /// The child.
        child: String,
        /// The generation that failed last.
        generation: u64,
        /// What began the series.
        first: Cause,
    },
}

//! One child as its supervisor's state machine sees it.

use super::super::policy::Window;
use super::super::{Cause, Policy};
use super::ChildId;
use std::sync::Arc;
use std::time::Duration;

/// Where a child stands. Times are counted from the supervisor's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Phase {
    /// For its turn to be started.
    Waiting,
    /// A generation was made and did not report yet.
    Starting,
    /// Its `started` went through.
    Running,
    /// It was asked to stop and is abandoned at `until`.
    Stopping { until: Duration },
    /// It is started again at `until`.
    BackingOff { until: Duration },
    /// It failed too often.
    Quarantined,
    /// It ended, or never is to run again.
    Stopped,
}

/// Why a living child is to go, the stronger the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doom {
    /// It returns once its siblings are ready for it.
    Restart,
    /// It does not return.
    Stop,
    /// It is forgotten.
    Remove,
}

/// One child.
#[derive(Debug)]
pub(in super::super) struct Member {
    pub id: ChildId,
    pub name: Arc<str>,
    pub policy: Policy,
    pub phase: Phase,
    /// When it entered its phase.
    pub since: Duration,
    pub generation: u64,
    /// Why it ended last.
    pub last: Option<Cause>,
    /// What began the present series of failures.
    pub first: Option<Cause>,
    pub(super) doom: Option<Doom>,
    pub(super) starts: u64,
    /// Restarts in a row, for the back-off.
    pub(super) attempts: u32,
    pub(super) window: Window,
}

impl Member {
    pub(super) fn new(
        id: ChildId,
        name: Arc<str>,
        policy: Policy,
        generation: u64,
        now: Duration,
    ) -> Self {
        Self {
            id,
            name,
            policy,
            phase: Phase::Waiting,
            since: now,
            generation,
            last: None,
            first: None,
            doom: None,
            starts: 0,
            attempts: 0,
            window: Window::default(),
        }
    }

    /// How often it was started again.
    pub fn restarts(&self) -> u64 {
        self.starts.saturating_sub(1)
    }

    /// Whether it has a generation that may still act.
    pub fn alive(&self) -> bool {
        matches!(
            self.phase,
            Phase::Starting | Phase::Running | Phase::Stopping { .. }
        )
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        match self.phase {
            Phase::Stopping { until } | Phase::BackingOff { until } => Some(until),
            _ => None,
        }
    }

    pub(super) fn enter(&mut self, phase: Phase, now: Duration) {
        self.phase = phase;
        self.since = now;
    }

    /// Notes why it ended; the first cause stays until the child ran well for a period.
    pub(super) fn begin_or_continue_series(&mut self, now: Duration, cause: &Cause) {
        let ran = now.saturating_sub(self.since);
        if self.phase == Phase::Running && ran >= self.policy.intensity.period {
            self.attempts = 0;
            self.first = None;
        }
        self.first.get_or_insert_with(|| cause.clone());
        self.last = Some(cause.clone());
    }

    /// Forgets its failures, but not the last cause, which a person may want to read.
    pub(super) fn pardon(&mut self) {
        self.attempts = 0;
        self.first = None;
        self.window.clear();
    }
}

//! The decisions of a supervisor: a pure state machine.
//!
//! No clock, no actor, no chance in here: time since the supervisor's start and facts go
//! in through [`Machine::step`], effects come out, and the same inputs give the same
//! effects.
//!
//! ```text
//! Waiting ──start──▶ Starting ──started──▶ Running
//!    ▲                  │ ended               │ ended            doomed by a sibling,
//!    │                  ▼                     ▼                  a removal, the close
//!    ├─────────── BackingOff ◀── failure ─────┤                        │
//!    │                        Quarantined ◀───┤ (spent)                ▼
//!    └── released ─────────────┘     Stopped ◀┘ (normal)            Stopping ─▶ …
//! ```
//!
//! `Waiting` waits for its turn: behind earlier siblings that are not up, where the
//! strategy says that it depends on them.

mod member;
#[cfg(test)]
mod tests;

pub(super) use member::{Member, Phase};

use super::cause::millis;
use super::policy::{Window, chance};
use super::{Absence, Cause, Notice, Policy, Restart, Spent, Strategy};
use member::Doom;
use std::sync::Arc;
use std::time::Duration;

/// Names a child for the life of its supervisor; never reused.
pub(super) type ChildId = u64;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Input {
    /// A child was added; its last generation so far is `generation`.
    Add {
        id: ChildId,
        name: Arc<str>,
        policy: Policy,
        generation: u64,
    },
    /// A generation ran its `started`.
    Started { id: ChildId, generation: u64 },
    /// A generation ended.
    Ended {
        id: ChildId,
        generation: u64,
        cause: Cause,
    },
    /// A generation makes no progress.
    Hung {
        id: ChildId,
        generation: u64,
        cause: Cause,
    },
    /// A person or a peer wants a quarantined or stopped child back.
    Release { id: ChildId },
    /// The child is to stop and be forgotten.
    Remove { id: ChildId },
    /// All children are to stop, for good.
    Close,
    /// A deadline of [`Machine::next_deadline`] has come.
    Tick,
}

/// What is to be done about it, in this order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Effect {
    /// Make a fresh instance.
    Start { id: ChildId, generation: u64 },
    /// Ask the current generation to stop.
    Stop { id: ChildId },
    /// Turn away from the current generation: it counts as ended, whatever it does.
    Abandon { id: ChildId, cause: Cause },
    /// Tell peers why nobody is there.
    Vacate { id: ChildId, absence: Absence },
    /// The child is gone for good.
    Forget { id: ChildId },
    /// Tell whoever listens.
    Notify(Notice),
    /// The last child is down after [`Input::Close`] or an escalation, which is the cause.
    Closed { escalated: Option<Cause> },
}

/// All children of one supervisor, in start order.
#[derive(Debug)]
pub(super) struct Machine {
    strategy: Strategy,
    spent: Spent,
    seed: u64,
    members: Vec<Member>,
    /// Counts for all members where they fall together; else each has its own.
    shared: Window,
    closing: Option<Option<Cause>>,
    closed: bool,
    effects: Vec<Effect>,
}

impl Machine {
    pub fn new(strategy: Strategy, spent: Spent, seed: u64) -> Self {
        Self {
            strategy,
            spent,
            seed,
            members: Vec::new(),
            shared: Window::default(),
            closing: None,
            closed: false,
            effects: Vec::new(),
        }
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn closing(&self) -> bool {
        self.closing.is_some()
    }

    /// When [`Input::Tick`] is due next.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.members.iter().filter_map(Member::deadline).min()
    }

    /// The one transition: what to do after `input` at `now`. Inputs about generations
    /// and children that are no more change nothing.
    pub fn step(&mut self, now: Duration, input: Input) -> Vec<Effect> {
        match input {
            Input::Add {
                id,
                name,
                policy,
                generation,
            } => self
                .members
                .push(Member::new(id, name, policy, generation, now)),
            Input::Started { id, generation } => {
                if let Some(i) = self.current(id, generation)
                    && self.members[i].phase == Phase::Starting
                {
                    self.members[i].enter(Phase::Running, now);
                }
            }
            Input::Ended {
                id,
                generation,
                cause,
            } => {
                if let Some(i) = self.current(id, generation) {
                    self.ended(i, now, cause);
                }
            }
            Input::Hung {
                id,
                generation,
                cause,
            } => {
                // A doomed one has its own deadline.
                if let Some(i) = self.current(id, generation)
                    && self.members[i].doom.is_none()
                {
                    self.abandon(i, now, cause);
                }
            }
            Input::Release { id } => {
                if let Some(i) = self.index(id)
                    && matches!(self.members[i].phase, Phase::Quarantined | Phase::Stopped)
                {
                    self.shared.clear();
                    self.members[i].pardon();
                    self.wait(i, now);
                }
            }
            Input::Remove { id } => {
                if let Some(i) = self.index(id) {
                    self.members[i].doom = Some(Doom::Remove);
                    if !self.members[i].alive() {
                        self.ended(i, now, Cause::Stopped);
                    }
                }
            }
            Input::Close => self.close(now, None),
            Input::Tick => self.tick(now),
        }
        self.settle(now);
        std::mem::take(&mut self.effects)
    }

    fn index(&self, id: ChildId) -> Option<usize> {
        self.members.iter().position(|m| m.id == id)
    }

    /// The member whose living generation this is.
    fn current(&self, id: ChildId, generation: u64) -> Option<usize> {
        self.index(id)
            .filter(|i| self.members[*i].alive() && self.members[*i].generation == generation)
    }

    fn tick(&mut self, now: Duration) {
        // From the end: what is removed on the way moves only members already seen.
        for i in (0..self.members.len()).rev() {
            match self.members[i].phase {
                Phase::BackingOff { until } if until <= now => self.wait(i, now),
                Phase::Stopping { until } if until <= now => {
                    let grace_ms = millis(self.members[i].policy.grace);
                    self.abandon(i, now, Cause::Overstayed { grace_ms });
                }
                _ => {}
            }
        }
    }

    fn abandon(&mut self, i: usize, now: Duration, cause: Cause) {
        let id = self.members[i].id;
        self.effects.push(Effect::Abandon {
            id,
            cause: cause.clone(),
        });
        self.ended(i, now, cause);
    }

    /// Member `i` has no living generation any more.
    fn ended(&mut self, i: usize, now: Duration, cause: Cause) {
        let doom = self.members[i].doom.take();
        if doom.is_none() {
            return self.ended_by_itself(i, now, cause);
        }
        if cause.is_failure() {
            // It was going anyway, so this starts no series and overwrites no first cause.
            self.members[i].last = Some(cause.clone());
            self.notify_failed(i, cause, None);
        }
        match doom {
            Some(Doom::Remove) => {
                let gone = self.members.remove(i);
                self.effects.push(Effect::Vacate {
                    id: gone.id,
                    absence: Absence::Stopped,
                });
                self.effects.push(Effect::Forget { id: gone.id });
            }
            Some(Doom::Restart) if self.members[i].policy.restart != Restart::Never => {
                self.wait(i, now);
            }
            _ => self.stop(i, now),
        }
    }

    fn ended_by_itself(&mut self, i: usize, now: Duration, cause: Cause) {
        let member = &mut self.members[i];
        let policy = member.policy;
        member.begin_or_continue_series(now, &cause);
        let again = match policy.restart {
            Restart::Permanent => true,
            Restart::Transient => cause.is_failure(),
            Restart::Never => false,
        };
        if !again {
            if cause.is_failure() {
                self.notify_failed(i, cause, None);
            }
            return self.stop(i, now);
        }
        let window = match self.strategy {
            Strategy::OneForOne => &mut self.members[i].window,
            Strategy::OneForAll | Strategy::RestForOne => &mut self.shared,
        };
        let admitted = window.admit(now, policy.intensity);
        if admitted {
            let member = &mut self.members[i];
            let delay = policy.backoff.delay(
                member.attempts,
                chance(self.seed, &member.name, member.restarts()),
            );
            member.attempts = member.attempts.saturating_add(1);
            self.notify_failed(i, cause, Some(delay));
            if delay.is_zero() {
                self.wait(i, now);
            } else {
                self.leave(i, now, Phase::BackingOff { until: now + delay });
            }
        } else {
            self.notify_failed(i, cause, None);
            self.give_up(i, now);
        }
        match self.strategy {
            Strategy::OneForOne => {}
            Strategy::OneForAll => self.doom(0, Doom::Restart),
            Strategy::RestForOne => self.doom(i + 1, Doom::Restart),
        }
    }

    fn give_up(&mut self, i: usize, now: Duration) {
        let member = &self.members[i];
        let first = member.first.clone().unwrap_or(Cause::Stopped);
        let child = member.name.clone();
        self.effects.push(Effect::Notify(Notice::Quarantined {
            child: child.to_string(),
            generation: member.generation,
            first: first.clone(),
        }));
        self.leave(i, now, Phase::Quarantined);
        if self.spent == Spent::Escalate {
            let escalated = Cause::Escalated {
                child: child.to_string(),
                first: Box::new(first),
            };
            self.close(now, Some(escalated));
        }
    }

    fn close(&mut self, now: Duration, escalated: Option<Cause>) {
        if self.closing.is_some() {
            return;
        }
        self.closing = Some(escalated);
        self.doom(0, Doom::Stop);
        for i in 0..self.members.len() {
            if matches!(
                self.members[i].phase,
                Phase::Waiting | Phase::BackingOff { .. }
            ) {
                self.stop(i, now);
            }
        }
    }

    /// Marks the living from index `from` on; a stronger doom is kept.
    fn doom(&mut self, from: usize, doom: Doom) {
        for member in self.members.iter_mut().skip(from).filter(|m| m.alive()) {
            member.doom = member.doom.max(Some(doom));
        }
    }

    /// Does what has become possible: one stop at a time, last started first; then starts.
    fn settle(&mut self, now: Duration) {
        let doomed = |m: &Member| m.alive() && m.doom.is_some();
        if let Some(last) = self.members.iter_mut().rev().find(|m| doomed(m)) {
            if !matches!(last.phase, Phase::Stopping { .. }) {
                let until = now + last.policy.grace;
                last.enter(Phase::Stopping { until }, now);
                self.effects.push(Effect::Stop { id: last.id });
            }
        } else if let (Some(escalated), false) = (&self.closing, self.closed) {
            let escalated = escalated.clone();
            self.closed = true;
            self.effects.push(Effect::Closed { escalated });
        }
        if self.closing.is_some() {
            return;
        }
        for i in 0..self.members.len() {
            if self.members[i].phase == Phase::Waiting && self.has_its_turn(i) {
                self.start(i, now);
            }
        }
    }

    /// Whether all that member `i` was built on is there.
    fn has_its_turn(&self, i: usize) -> bool {
        let settled = |m: &Member| matches!(m.phase, Phase::Running | Phase::Stopped);
        let doomed = |m: &Member| m.alive() && m.doom.is_some();
        let down = |m: &Member| matches!(m.phase, Phase::BackingOff { .. } | Phase::Quarantined);
        match self.strategy {
            Strategy::OneForOne => true,
            Strategy::RestForOne => {
                !self.members.iter().any(doomed) && self.members[..i].iter().all(settled)
            }
            Strategy::OneForAll => {
                !self.members.iter().any(|m| doomed(m) || down(m))
                    && self.members[..i].iter().all(settled)
            }
        }
    }

    fn start(&mut self, i: usize, now: Duration) {
        let member = &mut self.members[i];
        member.generation += 1;
        member.starts += 1;
        member.enter(Phase::Starting, now);
        let (id, generation) = (member.id, member.generation);
        self.effects.push(Effect::Start { id, generation });
        if member.starts > 1 {
            self.effects.push(Effect::Notify(Notice::Restarted {
                child: member.name.to_string(),
                generation,
                restarts: member.restarts(),
            }));
        }
    }

    fn wait(&mut self, i: usize, now: Duration) {
        self.leave(i, now, Phase::Waiting);
    }

    fn stop(&mut self, i: usize, now: Duration) {
        self.leave(i, now, Phase::Stopped);
    }

    /// Enters a phase without a living generation, and says so to the peers.
    fn leave(&mut self, i: usize, now: Duration, phase: Phase) {
        let member = &mut self.members[i];
        member.enter(phase, now);
        let absence = match phase {
            Phase::Quarantined => Absence::Quarantined {
                first: member.first.clone().unwrap_or(Cause::Stopped),
            },
            Phase::Stopped => Absence::Stopped,
            _ => Absence::Down {
                cause: member.last.clone(),
            },
        };
        let id = member.id;
        self.effects.push(Effect::Vacate { id, absence });
    }

    fn notify_failed(&mut self, i: usize, cause: Cause, restart_in: Option<Duration>) {
        let member = &self.members[i];
        self.effects.push(Effect::Notify(Notice::Failed {
            child: member.name.to_string(),
            generation: member.generation,
            cause,
            restart_in_ms: restart_in.map(millis),
        }));
    }
}

//! What a sweep is told, and the answer to each attempt.

use super::{Act, News, Phase, Plan, Seen, Session};
use crate::domain::run_state;
use crate::domain::{Code, Error};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a sweep can be told. Each is valid in every phase, and telling it twice changes
/// nothing the second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Let all runs wait and begin no other.
    Pause,
    /// Go on, also after a stop.
    Resume,
    /// Save all runs and end.
    Stop,
    /// End all runs without saving.
    Abort,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum Answer {
    /// It holds now, and this is to be done.
    Applied(Vec<Act>),
    /// It held already.
    AlreadySo,
    /// The phase does not allow it.
    NotPossible(Phase),
}

impl Session {
    /// Takes a command, with its reason for whoever looks at the end of the sweep.
    pub fn told(&mut self, command: Command, reason: &str, plan: &Plan, seen: &[Seen]) -> Answer {
        use Phase::*;
        let next = match (command, self.phase) {
            (Command::Pause, Running) => Paused,
            (Command::Resume, Paused | Stopped) => Running,
            (Command::Stop, Running | Paused) => Stopping,
            (Command::Abort, Running | Paused | Stopping | Stopped) => Aborting,
            (Command::Pause, Paused)
            | (Command::Resume, Running)
            | (Command::Stop, Stopping | Stopped)
            | (Command::Abort, Aborting | Aborted) => return Answer::AlreadySo,
            (_, phase) => return Answer::NotPossible(phase),
        };
        self.phase = next;
        self.reason = match next {
            Stopping | Aborting => Some(reason.to_owned()),
            _ => None,
        };
        Answer::Applied(match command {
            Command::Pause => {
                let mut acts = self.tell_active(run_state::Command::Pause, seen);
                acts.push(Act::Say(News::Paused));
                acts
            }
            Command::Stop => self.tell_active(run_state::Command::Stop, seen),
            Command::Abort => self.tell_active(run_state::Command::Abort, seen),
            Command::Resume => self.resume(plan, seen),
        })
    }

    /// Ends it where it stands, because it cannot go on; nothing where it has ended. Its runs
    /// are told to end, and it does not wait for them.
    #[must_use]
    pub fn fail(&mut self, reason: &str, seen: &[Seen]) -> Vec<Act> {
        if self.phase.has_ended() {
            return Vec::new();
        }
        let mut acts = self.tell_active(run_state::Command::Abort, seen);
        self.phase = Phase::Failed;
        self.reason = Some(reason.to_owned());
        acts.push(Act::Say(News::Ended(self.phase)));
        acts
    }

    /// Tells every run that can still move, and remembers which.
    fn tell_active(&mut self, command: run_state::Command, seen: &[Seen]) -> Vec<Act> {
        let mut acts = Vec::new();
        for (index, run) in (1..).zip(seen) {
            if !self.reported.contains(&index) && !run.state.has_ended() {
                // One that somebody paused goes on when they say so.
                if !(run.asked_to_wait && command == run_state::Command::Pause) {
                    self.held.insert(index);
                }
                acts.push(Act::Tell(index, command));
            }
        }
        acts
    }

    /// Goes on with what the sweep itself paused or stopped, but for what stands at a rung.
    fn resume(&mut self, plan: &Plan, seen: &[Seen]) -> Vec<Act> {
        let mut acts = vec![Act::Say(News::Resumed)];
        for index in std::mem::take(&mut self.held) {
            let run = usize::try_from(index - 1).ok().and_then(|at| seen.get(at));
            if run.is_some_and(|run| !self.waits(plan, run) && !self.is_done(plan, run)) {
                acts.push(Act::Tell(index, run_state::Command::Resume));
            }
        }
        acts
    }
}

impl Phase {
    /// The error of a command that this phase does not allow, about `sweep`.
    pub fn refusal(self, sweep: impl fmt::Display) -> Error {
        let error = Error::new(
            Code::NotPossible,
            sweep,
            format_args!("the sweep is {self}"),
        );
        match self {
            Phase::Stopped => error.hint("`resume` goes on from where it is"),
            Phase::Stopping | Phase::Aborting => error.hint("wait until it has ended"),
            _ => error.hint("submit it again for a new one"),
        }
    }
}

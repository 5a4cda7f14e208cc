//! The states of a run, and the one function that moves between them.
//!
//! ```text
//! queued ─▶ starting ─▶ running ─▶ completed | failed
//!
//! pause   a run with a worker   ─▶ pausing      ─▶ paused
//!         queued                ─▶ held
//! resume  pausing, paused       ─▶ resuming     ─▶ running
//!         held, stopped, early_stopped          ─▶ queued
//! stop    a run with a worker   ─▶ stopping     ─▶ stopped
//! end     a run with a worker   ─▶ ending_early ─▶ early_stopped
//! abort   a run with a worker   ─▶ aborting     ─▶ aborted
//! retry   failed, aborted                       ─▶ queued
//!
//! a worker is lost: starting, running, resuming ─▶ queued
//!                   pausing, paused             ─▶ held
//!                   stopping, …                 ─▶ stopped, …
//! ```
//!
//! A state that ends in *-ing*, `starting` and `running` aside, is a command that was
//! acknowledged and whose effect the worker has not reported. It is stored before the
//! acknowledgement goes out, so that a daemon that was killed in between still knows what
//! it promised: see [`RunState::unanswered`].
//!
//! Two principles settle what meets in the middle. What a worker says about its own end is
//! the truth, so `aborting` can still become `completed`. Anything else that a worker says
//! never undoes a command that came after it, so a late step leaves `paused` paused.

mod transition;

pub use transition::{Answer, Command, Input, Refusal, Report, Why};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// Where a run stands.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema,
        )]
        #[serde(rename_all = "snake_case")]
        pub enum RunState { $($(#[$doc])* $name,)* }

        impl RunState {
            /// Every state.
            pub const ALL: &'static [RunState] = &[$(RunState::$name,)*];

            /// The state as users, scripts and the store see it.
            pub const fn as_str(self) -> &'static str {
                match self { $(RunState::$name => $text,)* }
            }
        }
    };
}

states! {
    /// Waits for a worker.
    Queued = "queued";
    /// Has no worker and is passed over by the queue until it is resumed.
    Held = "held";
    /// A worker was given to it and prepares.
    Starting = "starting";
    /// Trains.
    Running = "running";
    /// Told to pause.
    Pausing = "pausing";
    /// Its worker waits, with everything in memory.
    Paused = "paused";
    /// Told to go on.
    Resuming = "resuming";
    /// Told to save and end.
    Stopping = "stopping";
    /// Told to save and end because going on is not worth it.
    EndingEarly = "ending_early";
    /// Told to end without saving.
    Aborting = "aborting";
    /// Did all its steps.
    Completed = "completed";
    /// Ended with success before its last step: early stopping, or a sweep's choice. A
    /// state and not a note beside `completed`, because it can be resumed.
    EarlyStopped = "early_stopped";
    /// Ended because it was told to; can be resumed.
    Stopped = "stopped";
    /// Ended by an error; can be retried.
    Failed = "failed";
    /// Ended because it was told to, without saving; can be retried.
    Aborted = "aborted";
}

impl RunState {
    /// Whether nothing but a command moves it again.
    pub const fn has_ended(self) -> bool {
        use RunState::*;
        matches!(self, Completed | EarlyStopped | Stopped | Failed | Aborted)
    }

    /// Whether a worker belongs to it, or is being started for it.
    pub const fn has_worker(self) -> bool {
        !self.has_ended() && !matches!(self, RunState::Queued | RunState::Held)
    }

    /// Whether it was told to wait.
    pub const fn is_waiting(self) -> bool {
        matches!(self, RunState::Held | RunState::Pausing | RunState::Paused)
    }

    /// Whether it ended as it was meant to.
    pub const fn has_succeeded(self) -> bool {
        matches!(self, RunState::Completed | RunState::EarlyStopped)
    }

    /// The command that was acknowledged and that the worker has not answered. A daemon
    /// that adopts a live worker says it again; workers take each command any number of
    /// times.
    pub const fn unanswered(self) -> Option<Command> {
        match self {
            RunState::Pausing => Some(Command::Pause),
            RunState::Resuming => Some(Command::Resume),
            RunState::Stopping => Some(Command::Stop),
            RunState::EndingEarly => Some(Command::EndEarly),
            RunState::Aborting => Some(Command::Abort),
            _ => None,
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for RunState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|state| state.as_str() == text);
        known
            .copied()
            .ok_or_else(|| format!("`{text}` is no state of a run"))
    }
}

#[cfg(test)]
mod tests;

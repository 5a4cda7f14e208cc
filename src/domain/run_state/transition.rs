//! What moves a run from state to state, and the answer to each attempt.

use super::RunState;
use crate::domain::{Code, Error};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a run can be told, by a person or by a policy. Each is valid in every state, and
/// telling it twice changes nothing the second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Wait, keeping the worker; without a worker, keep out of the queue.
    Pause,
    /// Go on.
    Resume,
    /// Save and end.
    Stop,
    /// Save and end with success: going on is not worth it.
    EndEarly,
    /// End without saving.
    Abort,
    /// Run again what failed or was aborted, from its newest checkpoint.
    Retry,
}

impl Command {
    /// Whether it ends the run.
    pub const fn ends(self) -> bool {
        matches!(self, Command::Stop | Command::EndEarly | Command::Abort)
    }
}

/// What is heard of a run's worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Report {
    /// The run was given to a worker that is about to be spawned.
    Given,
    /// Something that moves nothing: a warning, a checkpoint, a stage of the preparation.
    Said,
    /// The worker begins to train.
    Started,
    /// An optimiser step is done.
    Stepped,
    /// The worker waits.
    Paused,
    /// The worker goes on after waiting.
    Resumed,
    /// The worker did all steps.
    Completed,
    /// The worker ended by its own early stopping.
    EarlyStopped,
    /// The worker saved and ended.
    Stopped,
    /// The worker ended without saving.
    Aborted,
    /// The worker ended with an error, or no further worker will be tried.
    Failed,
    /// The worker is gone without a word, and another may be tried.
    Lost,
}

/// A command or a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// A command.
    Command(Command),
    /// A report.
    Report(Report),
}

impl From<Command> for Input {
    fn from(command: Command) -> Self {
        Input::Command(command)
    }
}

impl From<Report> for Input {
    fn from(report: Report) -> Self {
        Input::Report(report)
    }
}

/// What came of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Answer {
    /// The run is now in this state.
    Applied(RunState),
    /// The state is already, or still, the right one.
    AlreadySo,
    /// The state does not allow it; nothing changed.
    NotPossible(Refusal),
}

/// A state that does not allow an input, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The state.
    pub state: RunState,
    /// The reason.
    pub why: Why,
}

/// Why an input is not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The run has ended for good, or for this input.
    Ended,
    /// The run is about to end.
    Ending,
    /// The run waits or was stopped: `resume` is the command that goes on.
    NeedsResume,
    /// The run failed or was aborted: `retry` is the command that goes on.
    NeedsRetry,
    /// A worker that the run does not have is said to have done something.
    NoWorker,
    /// The run has a worker already.
    HasWorker,
}

impl Refusal {
    /// The refusal as an error about `run`.
    pub fn error(self, run: impl fmt::Display) -> Error {
        let error = Error::new(Code::NotPossible, run, self);
        match self.why {
            Why::NeedsResume => error.hint("`resume` goes on from where it is"),
            Why::NeedsRetry => error.hint("`retry` runs it from its newest checkpoint"),
            Why::Ending => error.hint("wait until it has ended"),
            Why::Ended | Why::NoWorker | Why::HasWorker => error,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the run is {}", self.state.as_str().replace('_', " "))?;
        match self.why {
            Why::NoWorker => f.write_str(" and has no worker"),
            Why::HasWorker => f.write_str(" and has a worker"),
            Why::Ended | Why::Ending | Why::NeedsResume | Why::NeedsRetry => Ok(()),
        }
    }
}

impl RunState {
    /// The transition function.
    pub fn on(self, input: impl Into<Input>) -> Answer {
        let next = match input.into() {
            Input::Command(command) => self.told(command),
            Input::Report(report) => self.heard(report),
        };
        match next {
            Ok(next) if next == self => Answer::AlreadySo,
            Ok(next) => Answer::Applied(next),
            Err(why) => Answer::NotPossible(Refusal { state: self, why }),
        }
    }

    fn told(self, command: Command) -> Result<RunState, Why> {
        use Command::{Abort, EndEarly, Pause, Resume, Retry, Stop};
        use RunState::*;
        Ok(match (command, self) {
            (Pause, Queued) => Held,
            (Pause, Starting | Running | Resuming) => Pausing,
            (Pause, Held | Pausing | Paused) => self,

            (Resume, Held | Stopped | EarlyStopped) => Queued,
            (Resume, Pausing | Paused) => Resuming,
            (Resume, Queued | Starting | Running | Resuming) => self,

            (Stop, Queued | Held) => Stopped,
            (Stop, Starting | Running | Pausing | Paused | Resuming) => Stopping,
            (Stop, Stopping | EndingEarly | Stopped | EarlyStopped) => self,

            // A sweep that halves stops its runs at a rung and then drops some of them.
            (EndEarly, Queued | Held | Stopped) => EarlyStopped,
            (EndEarly, Starting | Running | Pausing | Paused | Resuming) => EndingEarly,
            (EndEarly, EndingEarly | EarlyStopped) => self,

            (Abort, Queued | Held) => Aborted,
            (Abort, Aborting | Aborted) => self,
            (Abort, _) if self.has_worker() => Aborting,

            (Retry, Failed | Aborted) => Queued,
            // It is on its way: that is what a retry asks for.
            (Retry, Queued | Starting | Running | Resuming) => self,

            (Resume, Failed | Aborted) => return Err(Why::NeedsRetry),
            (Retry, Held | Pausing | Paused | Stopped | EarlyStopped) => {
                return Err(Why::NeedsResume);
            }
            (_, Stopping | EndingEarly | Aborting) => return Err(Why::Ending),
            (_, _) => return Err(Why::Ended),
        })
    }

    fn heard(self, report: Report) -> Result<RunState, Why> {
        use Report as R;
        use RunState::*;
        Ok(match (report, self) {
            (R::Given, Queued) => Starting,
            (R::Given, Starting) => self,
            (R::Given, Held) => return Err(Why::NeedsResume),
            (R::Given, _) if self.has_worker() => return Err(Why::HasWorker),

            // What waits for a worker can fail too: none can be spawned, or none any more.
            (R::Failed, _) if !self.has_ended() => Failed,
            (R::Failed, Failed)
            | (R::Completed, Completed)
            | (R::EarlyStopped, EarlyStopped)
            | (R::Stopped, Stopped | EarlyStopped)
            | (R::Aborted, Aborted) => self,

            (_, _) if self.has_ended() => return Err(Why::Ended),
            (_, Queued | Held) => return Err(Why::NoWorker),

            (R::Completed, _) => Completed,
            (R::EarlyStopped, _) => EarlyStopped,
            (R::Aborted, _) => Aborted,
            (R::Stopped | R::Lost, EndingEarly) => EarlyStopped,
            (R::Stopped | R::Lost, Aborting) => Aborted,
            (R::Stopped, _) | (R::Lost, Stopping) => Stopped,
            // A paused run must not take a device back when its worker dies.
            (R::Lost, Pausing | Paused) => Held,
            (R::Lost, _) => Queued,

            (R::Started | R::Stepped, Starting | Resuming) => Running,
            (R::Paused, Starting | Running | Pausing) => Paused,
            (R::Resumed, Starting | Paused | Resuming) => Running,
            (_, _) => self,
        })
    }
}

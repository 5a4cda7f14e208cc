//! How a worker process ended, told from what it said, how it exited, and what was done to
//! it.

use super::run_state::Report;
use super::{Code, Error};

/// What is known of a worker that is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Its last fact, where that was the end of a run.
    pub said: Option<Said>,
    /// The exit status, where it exited.
    pub exit: Option<i32>,
    /// The signal, where one ended it.
    pub signal: Option<i32>,
    /// The daemon killed it because it stood still.
    pub hung: bool,
    /// The daemon killed it because it did not end in time when told to.
    pub overdue: bool,
    /// The kernel counted a kill for memory in the meantime.
    pub memory_kill: bool,
    /// The end of what it wrote to standard error.
    pub last_words: String,
    /// What Rust says before it aborts for want of memory. A backtrace may follow.
    pub refused: Option<String>,
}

/// The last fact of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// All steps are done.
    Completed,
    /// Early stopping ended it.
    EarlyStopped,
    /// It saved and ended.
    Stopped,
    /// It ended without saving.
    Aborted,
    /// It failed with a stable code.
    Failed {
        /// The code's text.
        code: String,
        /// The error in one line.
        message: String,
    },
}

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerEnd {
    /// As it was meant to.
    Said(Said),
    /// Gone without a last word; another worker may go on from the newest checkpoint.
    Lost(Error),
}

const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;
/// What Rust's runtime writes before it gives up for want of memory.
pub const NO_MEMORY: &str = "memory allocation of";

/// The code of a failure that is the process's and not the run's: a fresh one may go on.
pub fn process_error(code: &str) -> Option<Code> {
    Code::of(code).filter(|code| code.is_of_the_process())
}

impl Remains {
    /// Which end it was. What the worker said itself is the truth.
    pub fn end(&self) -> WorkerEnd {
        match &self.said {
            Some(Said::Failed { code, message }) => match process_error(code) {
                Some(code) => WorkerEnd::Lost(Error::new(code, "worker", message)),
                None => WorkerEnd::Said(Said::Failed {
                    code: code.clone(),
                    message: message.clone(),
                }),
            },
            Some(said) => WorkerEnd::Said(said.clone()),
            None => WorkerEnd::Lost(self.loss()),
        }
    }

    fn loss(&self) -> Error {
        let lost = |code, message: &str| Error::new(code, "worker", message);
        let last = self.last_words.lines();
        let last = || last.clone().rfind(|line| !line.trim().is_empty());
        let words = self.refused.as_deref().or_else(last);
        let mut error = match (self.signal, self.exit) {
            _ if self.hung => lost(
                Code::WorkerHung,
                "showed no sign of work for workers.hang_seconds and was killed",
            ),
            _ if self.overdue => lost(
                Code::WorkerLost,
                "did not end within workers.stop_seconds and was killed",
            ),
            (Some(SIGKILL), _) if self.memory_kill => {
                lost(Code::OutOfMemory, "was killed because memory ran out")
                    .hint("lower training.micro_batch_size or workers.limit")
            }
            (Some(SIGABRT), _) if self.refused.is_some() || self.last_words.contains(NO_MEMORY) => {
                lost(Code::OutOfMemory, "asked for more memory than it is given")
                    .hint("lower training.micro_batch_size or raise workers.memory_mib")
            }
            (Some(signal), _) => lost(Code::WorkerLost, &format!("was killed by signal {signal}")),
            (None, Some(exit)) if exit == i32::from(Code::DevicePoisoned.exit_status()) => lost(
                Code::DevicePoisoned,
                "met an error of its GPU that no later work of a process survives",
            ),
            (None, Some(exit)) if exit == i32::from(Code::DeviceLost.exit_status()) => {
                lost(Code::DeviceLost, "lost its GPU")
            }
            (None, Some(exit)) => lost(
                Code::WorkerLost,
                &format!("exited with status {exit} without a last word"),
            ),
            (None, None) => lost(Code::WorkerLost, "went away without a trace"),
        };
        if let Some(words) = words {
            error.message += &format!("; it last wrote: {}", words.trim());
        }
        error
    }
}

impl WorkerEnd {
    /// What it means for the run, where another worker may be tried.
    pub fn report(&self) -> Report {
        match self {
            WorkerEnd::Said(Said::Completed) => Report::Completed,
            WorkerEnd::Said(Said::EarlyStopped) => Report::EarlyStopped,
            WorkerEnd::Said(Said::Stopped) => Report::Stopped,
            WorkerEnd::Said(Said::Aborted) => Report::Aborted,
            WorkerEnd::Said(Said::Failed { .. }) => Report::Failed,
            WorkerEnd::Lost(_) => Report::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// behaviour: train-12
    #[test]
    fn every_end_is_told_from_the_others() {
        let base = Remains::default;
        let failed = Said::Failed {
            code: "disk-full".into(),
            message: "no space".into(),
        };
        let cases = [
            (
                Remains {
                    said: Some(Said::Completed),
                    exit: Some(0),
                    ..base()
                },
                None,
            ),
            // It said its last word and was killed while it went.
            (
                Remains {
                    said: Some(failed),
                    signal: Some(9),
                    ..base()
                },
                None,
            ),
            (
                Remains {
                    hung: true,
                    signal: Some(9),
                    ..base()
                },
                Some((Code::WorkerHung, "hang_seconds")),
            ),
            (
                Remains {
                    overdue: true,
                    signal: Some(9),
                    ..base()
                },
                Some((Code::WorkerLost, "stop_seconds")),
            ),
            (
                Remains {
                    signal: Some(9),
                    memory_kill: true,
                    ..base()
                },
                Some((Code::OutOfMemory, "memory")),
            ),
            (
                Remains {
                    signal: Some(9),
                    ..base()
                },
                Some((Code::WorkerLost, "signal 9")),
            ),
            (
                Remains {
                    signal: Some(11),
                    memory_kill: true,
                    ..base()
                },
                Some((Code::WorkerLost, "signal 11")),
            ),
            (
                Remains {
                    signal: Some(6),
                    last_words: "memory allocation of 7 bytes failed\n".into(),
                    ..base()
                },
                Some((Code::OutOfMemory, "7 bytes")),
            ),
            (
                Remains {
                    exit: Some(99),
                    last_words: "a\nerror: b\n\n".into(),
                    ..base()
                },
                Some((
                    Code::WorkerLost,
                    "99 without a last word; it last wrote: error: b",
                )),
            ),
            (
                Remains {
                    signal: Some(6),
                    refused: Some("memory allocation of 4096 bytes failed".into()),
                    last_words: "a backtrace".into(),
                    ..base()
                },
                Some((Code::OutOfMemory, "allocation of 4096 bytes")),
            ),
            // A GPU's errors that a fresh process need not meet again, said or only shown.
            (
                Remains {
                    said: Some(Said::Failed {
                        code: "device-poisoned".into(),
                        message: "CUDA error 700".into(),
                    }),
                    exit: Some(64),
                    ..base()
                },
                Some((Code::DevicePoisoned, "CUDA error 700")),
            ),
            (
                Remains {
                    exit: Some(64),
                    ..base()
                },
                Some((Code::DevicePoisoned, "no later work")),
            ),
            (
                Remains {
                    exit: Some(65),
                    ..base()
                },
                Some((Code::DeviceLost, "GPU")),
            ),
            (base(), Some((Code::WorkerLost, "without a trace"))),
        ];
        for (remains, expected) in cases {
            match (remains.end(), expected) {
                (WorkerEnd::Said(said), None) => assert_eq!(Some(said), remains.said),
                (WorkerEnd::Lost(error), Some((code, part))) => {
                    assert_eq!(error.code, code, "{remains:?}");
                    assert!(error.message.contains(part), "{error}");
                }
                (end, expected) => panic!("{remains:?}: {end:?}, not {expected:?}"),
            }
        }
    }
}

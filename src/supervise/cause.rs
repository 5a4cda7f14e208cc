//! Why a generation of a child ended.

use super::Panicked;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Why a generation of a child ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// It stopped of its own accord, or was told to.
    Stopped,
    /// It gave up, through [`Context::fail`](super::Context::fail).
    Failed {
        /// What it said.
        message: String,
    },
    /// It panicked: in its factory, a handler, a future, a timer, `started` or `stopping`.
    Panicked(Panicked),
    /// It had work and made no progress for this long.
    Hung {
        /// Milliseconds since its last progress.
        stalled_ms: u64,
        /// Whether it held its thread meanwhile, instead of waiting for something.
        blocking: bool,
    },
    /// It was told to stop and did not within its grace.
    Overstayed {
        /// Milliseconds it was given.
        grace_ms: u64,
    },
    /// The thread or arbiter under it ended.
    Lost,
    /// Its supervisor ended without having stopped it.
    Orphaned,
    /// It is a supervisor, and one of its children failed too often.
    Escalated {
        /// That child.
        child: String,
        /// The first cause of that child's failures.
        first: Box<Cause>,
    },
}

impl Cause {
    /// Whether it is a failure, rather than a stop.
    pub fn is_failure(&self) -> bool {
        !matches!(self, Cause::Stopped)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Stopped => f.write_str("stopped"),
            Cause::Failed { message } => write!(f, "failed: {message}"),
            Cause::Panicked(panicked) => panicked.fmt(f),
            Cause::Hung {
                stalled_ms,
                blocking,
            } => {
                let how = if *blocking {
                    ", blocking its thread"
                } else {
                    ""
                };
                write!(f, "made no progress for {stalled_ms} ms{how}")
            }
            Cause::Overstayed { grace_ms } => {
                write!(f, "did not stop within {grace_ms} ms")
            }
            Cause::Lost => f.write_str("its thread ended"),
            Cause::Orphaned => f.write_str("its supervisor ended"),
            Cause::Escalated { child, first } => {
                write!(f, "its child {child} failed too often, first: {first}")
            }
        }
    }
}

/// Whole milliseconds, as snapshots and causes tell them.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

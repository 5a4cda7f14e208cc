//! What a peer learns instead of an answer.

use super::{Cause, Panicked};
use std::sync::Arc;

/// Why a message to a child got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The child panicked while it served this very message. Sending it again may do the
    /// same to the next generation.
    #[error(
        "{child} (generation {generation}) {panicked}; it is replaced, but this message may be why it failed"
    )]
    Panicked {
        /// The child.
        child: Arc<str>,
        /// The generation that is gone.
        generation: u64,
        /// What the panic said, and where.
        panicked: Panicked,
    },
    /// No generation is up, or the one that held this message ended before it answered.
    /// Whether it had begun is not known: repeat only what may be done twice.
    #[error("{child} is down: {}; try again in a moment", cause.as_ref().map_or_else(|| "waiting for its turn to start".to_owned(), ToString::to_string))]
    Down {
        /// The child.
        child: Arc<str>,
        /// The generation that is gone; 0 before the first.
        generation: u64,
        /// Why it ended; absent when it never failed and waits for its turn.
        cause: Option<Cause>,
    },
    /// The child failed too often and waits to be released.
    #[error("{child} is quarantined, first cause: {first}; remove the cause, then release it")]
    Quarantined {
        /// The child.
        child: Arc<str>,
        /// The cause that began the series of failures.
        first: Cause,
    },
    /// The child was stopped or removed and does not come back by itself.
    #[error("{child} is stopped; nothing restarts it")]
    Stopped {
        /// The child.
        child: Arc<str>,
    },
    /// The mailbox is full; only [`try_send`](super::ChildRef::try_send) says so, since
    /// [`send`](super::ChildRef::send) waits for room.
    #[error("{child} has {bound} messages waiting, its bound; slow down or drop the message")]
    Full {
        /// The child.
        child: Arc<str>,
        /// How many messages it may hold.
        bound: usize,
    },
    /// The child lives and let go of the message without an answer: a future that it had
    /// detached from itself panicked or was cancelled.
    #[error("{child} dropped the message without an answer; its log says more")]
    Unanswered {
        /// The child.
        child: Arc<str>,
    },
}

impl CallError {
    /// A stable word for the kind of failure.
    pub fn code(&self) -> &'static str {
        match self {
            CallError::Panicked { .. } => "actor-panicked",
            CallError::Down { .. } => "actor-down",
            CallError::Quarantined { .. } => "actor-quarantined",
            CallError::Stopped { .. } => "actor-stopped",
            CallError::Full { .. } => "actor-busy",
            CallError::Unanswered { .. } => "actor-unanswered",
        }
    }
}

/// Why a supervisor refused a command about a child.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// There is no child of this name.
    #[error("there is no child {name}; the snapshot lists them")]
    UnknownChild {
        /// The name that was asked for.
        name: String,
    },
    /// A child of this name exists already.
    #[error("a child {name} exists already; remove it first and wait until it is gone")]
    DuplicateChild {
        /// The name.
        name: String,
    },
    /// The supervisor is shutting down.
    #[error("the supervisor is shutting down; {name} was not added")]
    Closing {
        /// The child that was to be added.
        name: String,
    },
}

//! What the daemon itself says, beside what its workers and its GPU monitor say.

use crate::domain::gpu::{Action, GpuName};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A fact of the daemon's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DaemonFact {
    /// A run was submitted.
    RunQueued {
        /// One line.
        message: String,
    },
    /// A run was saved because the daemon ends; it goes on with the next one.
    Suspended {
        /// One line.
        message: String,
    },
    /// A worker process ended without a last word.
    WorkerLost {
        /// One line: why, and what follows.
        message: String,
    },
    /// A run was stopped before it had begun: it has no ending to tell.
    Stopped {
        /// One line.
        message: String,
    },
    /// A run was aborted before it had begun.
    Aborted {
        /// One line.
        message: String,
    },
    /// The GPU monitor pauses a run, lets it go on, or ends it.
    GpuAction {
        /// One line: why, and what follows.
        message: String,
        /// Which of them: `pause`, `resume`, `abort`.
        action: Action,
        /// The GPU.
        gpu: GpuName,
    },
    /// An event handler failed, panicked, or missed its deadline.
    HandlerFailed {
        /// The handler's name.
        handler: String,
        /// The event that it worked on: its id.
        event: Option<u64>,
        /// … and its kind.
        event_kind: Option<String>,
        /// Why, in one line.
        cause: String,
        /// Milliseconds before it is restarted; none where it is not.
        restart_in_ms: Option<u64>,
    },
    /// An event handler was started again.
    HandlerRestarted {
        /// The handler's name.
        handler: String,
        /// How often so far.
        restarts: u64,
    },
    /// An event handler failed too often and stays down until it is released.
    HandlerQuarantined {
        /// The handler's name.
        handler: String,
        /// What began it.
        first: String,
    },
    /// A part of the daemon failed and was started again.
    ActorRestarted {
        /// Its name.
        actor: String,
        /// How often so far.
        restarts: u64,
        /// Why, in one line.
        cause: String,
    },
}

/// What happened to a model or a dataset: the kinds `model_…` and `dataset_…`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AssetFact {
    /// Its name.
    pub name: String,
    /// One line.
    pub message: String,
    /// What a kind says besides: how far it is, a code.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl DaemonFact {
    /// The event handler that it is about.
    pub fn handler(&self) -> Option<&str> {
        match self {
            DaemonFact::HandlerFailed { handler, .. }
            | DaemonFact::HandlerRestarted { handler, .. }
            | DaemonFact::HandlerQuarantined { handler, .. } => Some(handler),
            _ => None,
        }
    }
}

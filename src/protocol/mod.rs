//! What a worker says and hears: facts up, commands down.
//!
//! Invariant: a serialisable type here crosses a process boundary; everything else stays
//! inside. Numbers that are not known are absent or null, never 0.

pub mod api;
pub mod asset;
mod fact;
pub mod gpus;
pub mod handlers;
pub mod kinds;
mod nullable;
mod own;
pub mod service;
pub mod sweep;
pub mod wire;

pub use fact::{
    EarlyStop, Ending, Fact, Frame, GpuEstimate, OutOfMemory, SiteStep, SiteValidation, Stage,
    Step, Validation,
};
pub use own::{AssetFact, DaemonFact};

use serde::{Deserialize, Serialize};

/// Version of [`Frame`] and [`Command`] as JSON.
pub const VERSION: u32 = 1;

/// What a worker can be told. Each is valid at any time and idempotent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "command")]
pub enum Command {
    /// Stop after the step under way; keep everything in memory.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Save a checkpoint after the step under way and go on.
    Checkpoint,
    /// Save a checkpoint after the step under way and end.
    Stop,
    /// End after the step under way without saving; earlier checkpoints stay.
    Abort,
}

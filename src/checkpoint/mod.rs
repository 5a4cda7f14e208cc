//! Checkpoints of a run: atomic save, verification, retention, exact resume; and
//! [`export`] of a trained SAE for other programs.
//!
//! It knows nothing of training. Named tensors and one serialisable value go in, and
//! come out again bit for bit, or not at all.
//!
//! A run's `checkpoints/` folder holds a folder for each checkpoint:
//!
//! ```text
//! checkpoints/
//!   step-00001200/
//!     tensors.safetensors   weights, moments, counters
//!     state.json            cursor, schedules, RNG, metrics
//!     manifest.json         lengths and BLAKE3 of both, and of itself; written last
//!   step-00001200.2/        the same step, saved again
//!   .tmp-step-…, .trash-step-…  what a killed process left; removed at the next start
//! ```
//!
//! Invariants: a folder called `step-…` was durable before it got that name; a checkpoint
//! is deleted only after a newer one was read back from the disk and verified; one that
//! fails verification is named and left alone.

pub mod export;
mod folder;
pub mod manifest;
mod retention;
mod save;
mod store;
#[cfg(test)]
mod tests;
mod write;

pub use folder::{Checkpoint, Skipped};
pub use retention::{Best, Goal, Known, Retention};
pub use save::Snapshot;
pub use store::{Found, Saved, Store};

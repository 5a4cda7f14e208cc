//! What a GPU's readings mean: its condition, what is said about it, and what is to be
//! done with the runs on it.
//!
//! [`Watch`] is the whole of it: one state machine a GPU with one transition function,
//! [`Watch::step`], from an observation to notices. It knows no clock and no driver, so a
//! trace of readings is all that a test needs.
//!
//! Three rules decide its details:
//! - What cannot be read is unknown: null, never 0, and never a sign of recovery.
//! - A condition is entered at its limit and left below the limit minus a hysteresis, so a
//!   value that trembles around a limit says so once.
//! - Only what a pause can cure leads to one. A run that waits cools its card, but keeps
//!   its memory: memory alone would hold it for ever, so it pauses only where the settings
//!   ask for that. A card at its power limit is slowed by its own firmware and in no
//!   danger: power warns.
//!
//! What is wanted of the runs is told twice: as an [`Action`] with the change that caused
//! it, for people, and as a [`Hold`] with every status, for whoever acts: what holds can be
//! heard late or again, and nothing is missed by it.

mod condition;
mod fact;
mod health;
mod lease;
mod metric;
mod settings;
mod status;
mod thresholds;
mod visible;
mod watch;
mod xid;

pub use condition::{Action, Condition, Hold};
pub use fact::{Driver, GpuFact, GpuName, Notice};
pub use health::{Health, Throttle};
pub use lease::{GpuHold, Lease, Stance, free_places, leasable};
pub use settings::GpuSettings;
pub use status::{GpuStatus, MigInstance, Reading};
pub use thresholds::{LimitOverrides, Thresholds};
pub use watch::{Observation, Watch};
pub use xid::{Xid, XidAdvice};

#[cfg(test)]
mod tests;

//! How bad it is, and what follows for the runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The condition of a GPU, or of one of its measures. The order is that of severity.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// The temperature cannot be read, and nothing worse is known.
    #[default]
    Unknown,
    /// All that can be read is below its limits.
    Ok,
    /// Somebody should know.
    Warning,
    /// Runs on this GPU wait.
    Critical,
    /// Runs on this GPU end, with a checkpoint.
    Emergency,
}

impl Condition {
    /// The word that events and tables show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Condition::Unknown => "unknown",
            Condition::Ok => "ok",
            Condition::Warning => "warning",
            Condition::Critical => "critical",
            Condition::Emergency => "emergency",
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What is wanted of the runs on a GPU for as long as it lasts.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// Nothing was seen yet that decides it: what runs may go on, what waits may not.
    #[default]
    Unknown,
    /// They may run, and those that were paused go on.
    Run,
    /// They wait, with a checkpoint.
    Pause,
    /// They end, with a checkpoint.
    Abort,
}

impl Hold {
    /// Whether a run may begin here. Unknown readings forbid nothing: a card without a
    /// sensor is no reason not to train.
    pub fn may_begin(self) -> bool {
        self < Hold::Pause
    }
}

/// What is to be done with the runs on a GPU. Each is a change of what is wanted, said
/// once, and idempotent where it arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing changes.
    #[default]
    None,
    /// Pause after the step under way, with a checkpoint.
    Pause,
    /// Go on after a pause.
    Resume,
    /// End after the step under way, with a checkpoint.
    AbortWithCheckpoint,
}

//! Which process.

use serde::{Deserialize, Serialize};

/// Names a process for good: pids come round again, and so do start times after a boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since the boot.
    pub started: u64,
    /// The boot's random id.
    pub boot: String,
}

//! What touches the operating system: files that survive a crash, locks, signals.

pub mod claim;
pub mod clock;
pub mod files;
pub mod fs;
pub mod limits;
pub mod lock;
pub mod log;
pub mod map;
pub mod memory;
pub mod process;
pub mod remove;
pub mod users;

//! What touches the operating system: files that survive a crash, locks, signals.

pub mod files;
pub mod fs;
pub mod lock;
pub mod memory;
pub mod map;

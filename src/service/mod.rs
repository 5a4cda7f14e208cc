//! The daemon as its service manager sees it: ready, reloading, alive, stopping.

mod manager;
pub mod reload;
pub mod status;
pub mod watchdog;

pub use manager::Manager;

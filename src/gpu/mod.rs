//! The GPU monitor: asks the driver at its interval, keeps the answers, and tells a sink
//! what [`crate::domain::gpu`] makes of them.
//!
//! ```text
//!  MonitorHandle ──pause, settings, stop──▶ core ◀──answers, XIDs── nvml, nvml-events
//!        ▲                                   │ ▲                        ▲
//!        └────────snapshot, history──────────┘ │ time       questions   │
//!                                     gpu-monitor ──────────────────────┘
//!                                              └──notices──▶ outbox ──▶ sink
//! ```
//!
//! Three threads, so that nobody waits for a driver: `gpu-monitor` keeps the time and never
//! blocks; `nvml` asks the driver and may hang; `nvml-events` waits for the driver's
//! errors, which must not be told late. What is decided is decided in `core`, which knows
//! neither threads nor a clock.

mod clock;
mod core;
mod monitor;
mod nvml;
mod outbox;
mod raw;
mod reader;
mod xids;

pub use clock::{Clock, ManualClock, SystemClock, Wake};
pub use monitor::{Monitor, MonitorHandle, Snapshot};
pub use nvml::LIBRARY_VARIABLE;
pub use outbox::Sink;

//! Pure types and state machines. No I/O and no clock stands here.

pub mod error;
pub mod gpu;
pub mod ids;
pub mod micro_batch;
pub mod random;
pub mod run_state;
pub mod schedule;
pub mod worker_end;

pub use error::{Code, Error, Result};
pub use ids::{RunId, SweepId};

//! Pure types and state machines. No I/O and no clock stands here.

pub mod error;
pub mod micro_batch;
pub mod random;
pub mod schedule;

pub use error::{Code, Error, Result};

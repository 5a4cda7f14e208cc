//! Pure types and state machines. No I/O and no clock stands here.

pub mod error;
pub mod random;
pub mod schedule;

pub use error::{Code, Error, Result};

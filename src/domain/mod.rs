//! Pure types and state machines. No I/O and no clock stands here.

mod amp;
pub mod asset;
mod device_name;
pub mod early_stopping;
pub mod error;
pub mod gpu;
pub mod ids;
pub mod loss_scale;
pub mod measure;
pub mod micro_batch;
mod precision;
mod printable;
mod process;
pub mod random;
pub mod run_state;
pub mod schedule;
pub mod sweep;
pub mod worker_end;

pub use amp::Amp;
pub use device_name::DeviceName;
pub use error::{Code, Error, Result};
pub use ids::{RunId, SweepId};
pub use precision::Precision;
pub use printable::Printable;
pub use process::Process;

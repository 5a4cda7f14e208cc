//! HTTP over the control socket: requests to the actors, answers as JSON, events as a
//! stream.

mod answer;
mod events;
mod listen;
mod router;
mod serve;
mod view;

pub use listen::bind;
pub use router::{Daemon, router};
pub use serve::serve;

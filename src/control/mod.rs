//! HTTP over the control socket: requests to the actors, answers as JSON, events as a
//! stream.

mod answer;
mod datasets;
mod events;
mod extract;
mod follow;
mod gpus;
mod handlers;
mod listen;
mod models;
mod openapi;
mod router;
mod runs;
mod serve;
mod service;
mod sweeps;
mod view;

pub use listen::bind;
pub use router::{Daemon, router};
pub use serve::serve;

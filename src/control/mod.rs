//! HTTP over the control socket and, where it is configured, TCP: requests to the actors,
//! answers as JSON, events as a stream.

mod access;
mod actors;
mod answer;
mod assets;
mod datasets;
mod events;
mod extract;
mod failures;
mod follow;
mod gpus;
mod handlers;
mod listen;
mod metrics;
mod models;
mod openapi;
mod router;
mod runs;
mod serve;
mod service;
mod settings;
mod sweeps;
mod view;

pub use access::{Access, Rules};
pub use listen::{Socket, listen_tcp};
pub use router::{Daemon, Reload, router};
pub use serve::{Listener, Server};

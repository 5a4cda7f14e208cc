//! Event handlers: what is done with an event outside of the daemon.
//!
//! Each handler works on a thread of its own, behind a bounded queue, under supervision: it
//! may block until its deadline, fail or panic, and neither training nor another handler
//! notices. One that fails is made anew, with a growing wait; one that fails too often stays
//! down until it is released. Lossy kinds of events (`step`, `gpu_status`, `progress` and its
//! like) give way to newer ones where it is slow; all others reach it at least once, in order, also
//! after a restart of the daemon.
//!
//! A handler cannot touch a run. It can send [`Orders`] to the supervisor of the runs, as a
//! person can.
//!
//! A kind of your own is a type with [`EventHandler`] and a program that knows it:
//!
//! ```
//! use backpropd::domain::Result;
//! use backpropd::domain::run_state::Command;
//! use backpropd::handlers::{EventHandler, Kinds, Orders};
//! use backpropd::protocol::Fact;
//! use backpropd::protocol::api::Event;
//! use serde::Deserialize;
//!
//! /// Stops runs whose loss is good enough.
//! struct GoodEnough {
//!     loss: f64,
//!     orders: Orders,
//! }
//!
//! impl EventHandler for GoodEnough {
//!     fn handle(&mut self, event: &Event) -> Result<()> {
//!         if let (Some(Fact::Step(step)), Some(run)) = (event.fact(), event.run)
//!             && step.loss < self.loss
//!         {
//!             self.orders.send(run, Command::Stop)?;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! /// Its own keys of a `[[handlers]]` table.
//! #[derive(Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Keys {
//!     loss: f64,
//! }
//!
//! fn kinds() -> Kinds {
//!     Kinds::builtin().with("good_enough", |settings| {
//!         let keys: Keys = settings.decode()?;
//!         let orders = settings.host.orders.clone();
//!         // Called before each start of the handler.
//!         Ok(move || {
//!             Ok(GoodEnough {
//!                 loss: keys.loss,
//!                 orders: orders.clone(),
//!             })
//!         })
//!     })
//! }
//!
//! // The whole program: everything that `backpropd` does, with one kind of handler more.
//! fn main() -> std::process::ExitCode {
//!     # if true { let _ = kinds(); return std::process::ExitCode::SUCCESS; }
//!     backpropd::cli::main_with(kinds())
//! }
//! ```

mod exec;
mod jsonl;
mod kinds;
mod line;
mod log;
mod orders;
mod prometheus;
mod queue;
mod tensorboard;
mod webhook;

pub use kinds::{Ending, Host, Kinds, Make, Settings};
pub use orders::Orders;
pub use prometheus::Metrics;
pub use queue::{Lost, Next, Queue};

use crate::domain::Result;
use crate::protocol::api::Event;

/// A sink of events.
pub trait EventHandler: Send {
    /// Handles one event. The next one follows when this returns.
    ///
    /// It may block, for as long as the handler's deadline; what goes on after that is
    /// ignored. An error, like a panic, ends this instance: another one is made, and gets
    /// the event again unless its kind is lossy.
    ///
    /// # Errors
    /// Whatever kept the event from being handled; `handler-failed` where no other code
    /// fits.
    fn handle(&mut self, event: &Event) -> Result<()>;
}

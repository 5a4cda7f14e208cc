//! Supervision for [actix] actors: a panic, a hang or a failed start costs one actor its
//! state and its peers an error, never the program.
//!
//! Actix's own supervisor does not restart an actor that panicked. This one does:
//!
//! * **Guard.** An actor with this module's [`Context`] has every handler, future, stream
//!   and timer guarded. A panic stops the actor; its torn state is dropped without running
//!   again. The sender of the message gets [`CallError::Panicked`] with what the panic said
//!   and where; the senders of all other messages that went down with it get
//!   [`CallError::Down`].
//! * **Restart.** A [`Child`] is a factory with rules: which ends lead to a restart, how
//!   soon, how often ([`Policy`]). Each instance is a *generation*; what a former
//!   generation still says is ignored. A child that fails too often is quarantined, or its
//!   supervisor escalates by failing itself. The first cause of a series is kept.
//! * **Health.** A child that has work and makes no progress within its limit is replaced
//!   ([`Child::progress_within`]).
//! * **Handles.** Peers hold a [`ChildRef`]. It finds the generation that is up, or says
//!   why none is, and its mailbox has one bound however many peers there are.
//! * **Snapshots.** [`GetChildren`] tells all of this about every child, serialisable, and
//!   [`Supervisor::on_notice`] the facts as they happen.
//!
//! An actor's author names the context; whoever composes the program adds the child and
//! hands out its handle:
//!
//! ```
//! # use backpropd::supervise;
//! use actix::prelude::*;
//! use supervise::{Child, GetChildren, Supervisor};
//!
//! struct Counter(u32);
//!
//! impl Actor for Counter {
//!     type Context = supervise::Context<Self>; // instead of actix::Context
//! }
//!
//! #[derive(Message)]
//! #[rtype(result = "u32")]
//! struct Divide(u32);
//!
//! impl Handler<Divide> for Counter {
//!     type Result = u32;
//!     fn handle(&mut self, by: Divide, _: &mut Self::Context) -> u32 {
//!         self.0 += 1;
//!         100 / by.0
//!     }
//! }
//!
//! # actix::System::new().block_on(async {
//! let mut tree = Supervisor::new("program");
//! let counter = tree.add(Child::new("counter", || Counter(0)));
//! let tree = tree.start().await.unwrap();
//!
//! assert_eq!(counter.send(Divide(5)).await, Ok(20));
//! let error = counter.send(Divide(0)).await.unwrap_err();
//! assert_eq!(error.code(), "actor-panicked");
//! assert!(error.to_string().contains("attempt to divide by zero"));
//!
//! counter.up().await.unwrap();
//! assert_eq!(counter.send(Divide(4)).await, Ok(25));
//! assert_eq!(tree.send(GetChildren).await.unwrap()[0].restarts, 1);
//! tree.shut_down().await.unwrap();
//! # });
//! ```
//!
//! # Hangs
//!
//! A child with a limit ([`Child::progress_within`]) is found when it has work, that is
//! messages not answered or work declared through [`Pulse`], and its progress counter
//! stands still for that long: whether it waits for something that never comes, or blocks
//! its thread. Its peers hear so at once, a fresh generation takes its place, and whatever
//! the old one still does is ignored. What is possible then depends on the thread:
//!
//! * A thread cannot be ended from outside. A child with its own ([`Child::own_thread`])
//!   leaves it behind; it ends once the child yields, and the snapshot counts those that
//!   have not ([`ChildSnapshot::abandoned`]).
//! * On a shared arbiter the fresh generation waits until that is free. It stays
//!   `starting`, is not replaced again, and so does not spend its intensity.
//! * Whoever shares a thread with a blocking child is not blamed: its clock stands still
//!   meanwhile. This needs both under one supervisor; a task that no supervisor knows and
//!   that blocks an arbiter is blamed on the children that wait behind it, once.
//! * A supervisor on a blocked arbiter is blocked too. Give it one of its own
//!   ([`Supervisor::start_on`]), and let whoever feeds a watchdog ask it for its snapshot,
//!   so that its silence counts.
//!
//! # What it cannot do
//!
//! * A panic inside a destructor while another panic unwinds aborts the process: that is
//!   the language. So does `panic = "abort"`.
//! * A [`ResponseFuture`](actix::ResponseFuture) runs detached from its actor. When it
//!   panics, the actor lives and the sender gets [`CallError::Unanswered`]; nor does it
//!   count as work in the mailbox. Prefer
//!   [`ResponseActFuture`](actix::ResponseActFuture).
//! * Messages sent to a bare [`Addr`](actix::Addr), such as
//!   [`AsyncContext::address`](actix::AsyncContext::address) gives, bypass the bound, and
//!   their senders learn nothing but actix's `Closed`.
//! * Panics of guarded code are not printed; [`Supervisor::on_notice`] is where to log
//!   them. A panic hook that the program installs later than its first supervisor replaces
//!   the one that keeps their locations.

mod cause;
mod charge;
mod child;
mod context;
mod driver;
mod error;
mod health;
mod life;
mod machine;
mod panics;
mod policy;
mod reference;
mod snapshot;
mod supervisor;

pub use cause::Cause;
pub use child::{Child, MAILBOX};
pub use context::Context;
pub use error::{CallError, TreeError};
pub use health::{Pulse, Work};
pub use panics::Panicked;
pub use policy::{Backoff, Intensity, Policy, Restart, Spent, Strategy};
use reference::Absence;
pub use reference::ChildRef;
pub use snapshot::{ChildSnapshot, ChildState, Notice};
pub use supervisor::{AddChild, GetChildren, ReleaseChild, RemoveChild, ShutDown, Supervisor};

//! Supervision on the real actix runtime: panics, hangs, restarts, mailboxes, shutdown.

mod health;
mod mailbox;
mod panics;
mod probe;
mod restarts;
mod shutdown;
mod storm;

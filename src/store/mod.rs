//! What the daemon remembers: runs, sweeps, metrics, events, models and datasets.
//!
//! One SQLite database in the daemon's state folder, with one writer. The type [`Store`]
//! is synchronous and belongs on a thread of its own. Everything that changes it happens
//! in [`Store::write`]: one transaction, durable when the call returns, so that what
//! several senders asked for shares one fsync.
//!
//! ```
//! use backpropd::store::{NewRun, Store};
//!
//! # fn main() -> backpropd::domain::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! let (mut store, _) = Store::open(dir.path(), 0)?;
//! let run = store.write(|tx| {
//!     let submitted = tx.submit(&NewRun::new("pythia", "[model]\n…"), None, 0)?;
//!     tx.append(Some(submitted.run), "run_queued", &(), 0)?;
//!     Ok(submitted.run)
//! })?;
//! assert_eq!(store.view().run(run)?.name, "pythia");
//! # Ok(())
//! # }
//! ```
//!
//! Invariants: nothing is acknowledged before it is durable; a damaged database is moved
//! aside and never wiped; numbers that are not known are null, never 0. The store has no
//! clock: the caller says what time it is.

mod assets;
mod events;
mod gpus;
mod handlers;
mod metrics;
mod open;
mod progress;
mod quarantine;
mod record;
mod runs;
mod schema;
mod sql;
mod sweeps;

pub use assets::Asset;
pub use events::{Appended, Event, Gap, Page, Retention};
pub use handlers::StoredHandler;
pub use metrics::MetricQuery;
pub use open::{DATABASE, Opened};
pub use progress::Progress;
pub use quarantine::Quarantine;
pub use record::Recorded;
pub use runs::{Failure, NewRun, Run, RunConfig, RunQuery, Submitted};
pub use sql::{Tx, View};
pub use sweeps::{NewSweep, Sweep};

use crate::domain::Result;
use crate::protocol::api;
use crate::system::lock::FileLock;
use rusqlite::{Connection, TransactionBehavior};
use std::path::{Path, PathBuf};

/// Milliseconds since 1970. Only ever shown and compared with a retention's age; order
/// comes from ids and sequence numbers.
pub type Millis = i64;

/// The daemon's database, locked against other processes until it is dropped.
#[derive(Debug)]
pub struct Store {
    // The connection closes before the lock goes: fields drop in this order.
    conn: Connection,
    path: PathBuf,
    _lock: FileLock,
}

impl Store {
    /// Does `work` in one transaction. What it did is durable when this returns `Ok`, and
    /// none of it happened when this returns an error, be it the error of `work` or one
    /// of the disk. After a full disk the store works again as soon as there is space.
    ///
    /// A caller that serves several senders in one transaction keeps the answer of each
    /// inside `T`: an error such as `not-found` harms no other part. An error of the
    /// database fails the whole transaction, even where `work` passed over it.
    ///
    /// # Errors
    /// Those of `work`; `disk-full`, `io-write`, `store-corrupt`.
    pub fn write<T>(&mut self, work: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        self.write_and_tell(work, |_| {})
    }

    /// As [`Store::write`], and hands what was appended to `tell`, in order, once it is
    /// durable. There is one writer, so whoever is told hears all events in the order of
    /// their numbers.
    ///
    /// # Errors
    /// As [`Store::write`]; nothing was told then.
    pub fn write_and_tell<T>(
        &mut self,
        work: impl FnOnce(&Tx<'_>) -> Result<T>,
        tell: impl FnMut(api::Event),
    ) -> Result<T> {
        let path = &self.path;
        let fail = |e| sql::error(path, e);
        let transaction = self
            .conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fail)?;
        let tx = Tx::new(&transaction, path);
        let done = work(&tx);
        let events = tx.into_events()?;
        let done = done?;
        transaction.commit().map_err(fail)?;
        events.into_iter().for_each(tell);
        Ok(done)
    }

    /// Reads.
    pub fn view(&self) -> View<'_> {
        View::new(&self.conn, &self.path)
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests;

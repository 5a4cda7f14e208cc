//! The store on a thread of its own: SQLite waits for the disk.
//!
//! Whoever writes, this actor tells: an event goes out when it is durable, in the order of
//! its number, and nobody else sends to [`Live`] but what is kept nowhere and has no number.

use crate::domain::{Code, Error, Result};
use crate::protocol::api::Event;
use crate::store::{Store, Tx, View};
use crate::supervise::{CallError, ChildRef, Context};
use crate::system::clock::now_millis;
use actix::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::broadcast;

/// Events as they become durable. A reader that is further behind than the channel is long
/// finds them in the store.
pub type Live = broadcast::Sender<Arc<Event>>;

/// Events that a reader of [`Live`] may be behind: some MiB, and more than a tenth of a second
/// of all that the bus can carry, for which a busy host may keep a thread waiting.
const BEHIND: usize = 16_384;

/// A stream of events that nobody listens to yet.
pub fn live() -> Live {
    broadcast::Sender::new(BEHIND)
}

/// The actor that owns the database.
pub struct StoreActor {
    dir: PathBuf,
    store: Option<Store>,
    live: Live,
}

/// Requests under way at once: each is answered before its sender goes on.
pub const MAILBOX: usize = 1024;

/// A handle to the store that is up.
pub type StoreRef = ChildRef<StoreActor>;

impl StoreActor {
    /// The actor of the store in `dir`: `open`, or else opened when the actor starts. What
    /// happens goes to `live`.
    pub fn new(dir: PathBuf, open: Option<Store>, live: Live) -> Self {
        Self {
            dir,
            store: open,
            live,
        }
    }

    fn store(&mut self) -> Result<&mut Store> {
        let closed = || Error::new(Code::DaemonUnavailable, "store", "is not open");
        self.store.as_mut().ok_or_else(closed)
    }
}

impl Actor for StoreActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if self.store.is_none() {
            match Store::open(&self.dir, now_millis()) {
                Ok((store, _)) => self.store = Some(store),
                Err(error) => ctx.fail(error),
            }
        }
    }
}

/// Work of one transaction, durable when it is answered.
#[derive(Message)]
#[rtype(result = "Result<T>")]
pub struct Write<T: Send + 'static>(WriteWork<T>);

type WriteWork<T> = Box<dyn FnOnce(&Tx<'_>) -> Result<T> + Send>;

impl<T: Send + 'static> Write<T> {
    /// As [`Store::write`].
    pub fn new(work: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static) -> Self {
        Self(Box::new(work))
    }
}

impl<T: Send + 'static> Handler<Write<T>> for StoreActor {
    type Result = Result<T>;

    fn handle(&mut self, Write(work): Write<T>, _: &mut Self::Context) -> Self::Result {
        let live = self.live.clone();
        self.store()?.write_and_tell(work, |event| {
            // Nobody needs to listen.
            let _ = live.send(Arc::new(event));
        })
    }
}

/// A question.
#[derive(Message)]
#[rtype(result = "Result<T>")]
pub struct Read<T: Send + 'static>(ReadWork<T>);

type ReadWork<T> = Box<dyn FnOnce(&View<'_>) -> Result<T> + Send>;

impl<T: Send + 'static> Read<T> {
    /// As [`Store::view`].
    pub fn new(work: impl FnOnce(&View<'_>) -> Result<T> + Send + 'static) -> Self {
        Self(Box::new(work))
    }
}

impl<T: Send + 'static> Handler<Read<T>> for StoreActor {
    type Result = Result<T>;

    fn handle(&mut self, Read(work): Read<T>, _: &mut Self::Context) -> Self::Result {
        work(&self.store()?.view())
    }
}

/// Writes through the actor.
///
/// # Errors
/// Those of `work` and of the disk; `daemon-unavailable` while the store is not at work.
pub async fn write<T: Send + 'static>(
    store: &StoreRef,
    work: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
) -> Result<T> {
    store.send(Write::new(work)).await.map_err(down)?
}

/// Reads through the actor.
///
/// # Errors
/// As [`write()`].
pub async fn read<T: Send + 'static>(
    store: &StoreRef,
    work: impl FnOnce(&View<'_>) -> Result<T> + Send + 'static,
) -> Result<T> {
    store.send(Read::new(work)).await.map_err(down)?
}

fn down(e: CallError) -> Error {
    Error::new(Code::DaemonUnavailable, "store", e).hint("it is being restarted: ask again")
}

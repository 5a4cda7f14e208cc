//! The store on a thread of its own: SQLite waits for the disk.

use crate::domain::{Code, Error, Result};
use crate::store::{Store, Tx, View};
use actix::prelude::*;

/// The actor that owns the database.
pub struct StoreActor(pub Store);

/// Requests under way at once: each is answered before its sender goes on.
const MAILBOX: usize = 1024;

impl Actor for StoreActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
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
        self.0.write(work)
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
        work(&self.0.view())
    }
}

/// Writes through the actor.
///
/// # Errors
/// Those of `work` and of the disk; `daemon-unavailable` while the store is not at work.
pub async fn write<T: Send + 'static>(
    store: &Addr<StoreActor>,
    work: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
) -> Result<T> {
    store.send(Write::new(work)).await.map_err(down)?
}

/// Reads through the actor.
///
/// # Errors
/// As [`write`].
pub async fn read<T: Send + 'static>(
    store: &Addr<StoreActor>,
    work: impl FnOnce(&View<'_>) -> Result<T> + Send + 'static,
) -> Result<T> {
    store.send(Read::new(work)).await.map_err(down)?
}

fn down(e: MailboxError) -> Error {
    Error::new(Code::DaemonUnavailable, "store", e).hint("it is being restarted: ask again")
}

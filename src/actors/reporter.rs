//! What the daemon has to say of itself, into the store, and from there to everybody.

use super::store::{StoreRef, write};
use crate::protocol::DaemonFact;
use crate::supervise::{ChildRef, Context, Notice};
use crate::system::clock::now_millis;
use actix::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Facts that wait for the store. It is away for moments; one that fails again and again
/// says little new.
pub const MAILBOX: usize = 256;
/// Between two attempts to write what could not be written.
const AGAIN: Duration = Duration::from_secs(1);
/// Attempts: a fact is logged as well, and must not hold up all others for ever.
const ATTEMPTS: u32 = 60;

/// The actor.
pub struct Reporter {
    store: StoreRef,
}

impl Reporter {
    /// A reporter that writes to `store`.
    pub fn new(store: StoreRef) -> Self {
        Self { store }
    }
}

impl Actor for Reporter {
    type Context = Context<Self>;
}

/// Store this fact, which is about no run.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Report(pub DaemonFact);

impl Handler<Report> for Reporter {
    type Result = ();

    fn handle(&mut self, Report(fact): Report, ctx: &mut Self::Context) {
        let (store, fact) = (self.store.clone(), Arc::new(fact));
        let written = async move {
            for _ in 0..ATTEMPTS {
                let fact = fact.clone();
                let done = write(&store, move |tx| {
                    tx.append_fact(None, &*fact, now_millis()).map(|_| ())
                });
                match done.await {
                    Ok(()) => return,
                    Err(error) => tracing::warn!("an event cannot be stored yet: {error}"),
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        // One after the other, in their order.
        ctx.wait(written.into_actor(self));
    }
}

/// Sends a fact on its way, from any thread. It was logged already.
pub fn report(reporter: &ChildRef<Reporter>, fact: DaemonFact) {
    if let Err(error) = reporter.try_send(Report(fact)) {
        tracing::warn!("an event is not stored: {error}");
    }
}

/// What a supervisor says of the parts of the daemon: logged, and restarts stored.
pub fn notices(reporter: ChildRef<Reporter>) -> impl Fn(Notice) + Send {
    let causes = Mutex::new(BTreeMap::new());
    move |notice| {
        let mut causes = causes.lock().unwrap_or_else(PoisonError::into_inner);
        match notice {
            Notice::Failed { child, cause, .. } => {
                tracing::error!("{child} failed: {cause}");
                causes.insert(child, cause.to_string());
            }
            Notice::Restarted {
                child, restarts, ..
            } => {
                tracing::warn!("{child} was restarted, {restarts} times so far");
                let cause = causes.remove(&child).unwrap_or_default();
                let fact = DaemonFact::ActorRestarted {
                    actor: child,
                    restarts,
                    cause,
                };
                report(&reporter, fact);
            }
            Notice::Quarantined { child, first, .. } => {
                tracing::error!("{child} failed too often and stays down; it began with: {first}");
            }
        }
    }
}

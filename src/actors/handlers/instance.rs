//! One instance of an event handler, on a thread of its own.

use crate::actors::store::{StoreRef, read};
use crate::domain::{Error, Result};
use crate::handlers::{EventHandler, Make, Next, Queue};
use crate::protocol::api::Event;
use crate::store::Page;
use crate::supervise::{Context, Pulse};
use actix::prelude::*;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Events that are read from the store at once.
const PAGE: u32 = 256;
/// How long an instance keeps its thread without looking whether it was told to stop.
const TURN: Duration = Duration::from_millis(10);
/// Between two attempts to read what cannot be read.
const AGAIN: Duration = Duration::from_secs(1);

/// The actor.
pub struct Instance {
    make: Make,
    queue: Arc<Queue>,
    store: StoreRef,
}

impl Instance {
    /// An instance that `make` makes, for the events of `queue`, and for those in `store`
    /// that the queue had no room for.
    pub fn new(make: Make, queue: Arc<Queue>, store: StoreRef) -> Self {
        Self { make, queue, store }
    }
}

impl Actor for Instance {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let life = self.queue.open();
        let handler = match (self.make)() {
            Ok(handler) => handler,
            Err(error) => return ctx.fail(error),
        };
        let work = serve(
            handler,
            self.queue.clone(),
            life,
            self.store.clone(),
            ctx.pulse(),
        );
        ctx.spawn(work.into_actor(self).map(|error, _, ctx| {
            if let Some(error) = error {
                ctx.fail(error);
            }
        }));
    }
}

/// Works until the handler fails, or until another instance takes its place.
async fn serve(
    mut handler: Box<dyn EventHandler>,
    queue: Arc<Queue>,
    life: u64,
    store: StoreRef,
    pulse: Pulse,
) -> Option<Error> {
    let mut turn = Instant::now();
    loop {
        match queue.next(life) {
            Next::Event(event) => {
                let work = pulse.work();
                if let Err(error) = handler.handle(&event) {
                    return Some(error);
                }
                queue.done(life);
                drop(work);
                if turn.elapsed() >= TURN {
                    tokio::task::yield_now().await;
                    turn = Instant::now();
                }
            }
            Next::Nothing => {
                queue.news().await;
                turn = Instant::now();
            }
            Next::Behind(after) => {
                match catch_up(&queue, &store, after).await {
                    Ok(()) => {}
                    Err(error) => {
                        tracing::warn!("events cannot be read again: {error}");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
                turn = Instant::now();
            }
            Next::Replaced => return None,
        }
    }
}

async fn catch_up(queue: &Queue, store: &StoreRef, after: u64) -> Result<()> {
    let page: Page = read(store, move |view| view.events(after, None, PAGE)).await?;
    let gap = page.gap.map(|gap| {
        let fields = json!(gap);
        Arc::new(Event::new(after, None, None, 0, "gap", fields))
    });
    let events = page.events.into_iter().map(|event| Arc::new(event.into()));
    queue.refill(gap.into_iter().chain(events), page.next, page.end);
    Ok(())
}

//! The bus: takes every event to the event handlers that want it, and never waits for one.
//!
//! Each handler is an actor of its own under a supervisor of theirs, with a queue that
//! outlives its instances. How far each is stands in the store, so that a daemon that comes
//! back goes on where it was.

mod command;
mod hear;
mod instance;
mod notice;
mod start;

pub use command::{
    AddHandler, Configured, Drain, GetHandlers, ReleaseHandler, RemoveHandler, ReplaceHandler,
};

use super::reporter::Reporter;
use super::runs::{Order, Runs};
use super::store::{Live, StoreRef, read, write};
use crate::config::daemon::EventsTable;
use crate::domain::{Code, Error, Result};
use crate::handlers::{Ending, Host, Kinds, Orders, Queue};
use crate::protocol::api::Event;
use crate::protocol::handlers::{HandlerSource, HandlerSpec};
use crate::store::Gap;
use crate::supervise::{CallError, ChildRef, Context, ShutDown, Supervisor};
use actix::prelude::*;
use futures_util::FutureExt;
use hear::{Heard, batches};
use instance::Instance;
use notice::Roster;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// Events that are read from the store at once.
const PAGE: u32 = 500;
/// How often it is noted how far the handlers are.
const NOTE: Duration = Duration::from_secs(2);

/// What the actor is made from.
#[derive(Clone)]
pub struct Parts {
    /// The database.
    pub store: StoreRef,
    /// Events as they become durable.
    pub live: Live,
    /// Who stores what happens to handlers.
    pub reporter: ChildRef<Reporter>,
    /// The kinds of handlers that there are.
    pub kinds: Kinds,
    /// What they are offered.
    pub host: Host,
    /// Those of daemon.toml.
    pub configured: Vec<HandlerSpec>,
    /// What others may do.
    pub over_control: OverControl,
}

/// What handlers may do that are added over the control socket: whoever may write to it may
/// not become the daemon's user, nor reach what only the daemon's host can.
#[derive(Clone, Copy, Debug)]
pub struct OverControl {
    exec: bool,
    private: bool,
}

impl From<&EventsTable> for OverControl {
    fn from(events: &EventsTable) -> Self {
        Self {
            exec: events.exec_over_control,
            private: events.private_over_control,
        }
    }
}

impl OverControl {
    fn check(self, spec: &HandlerSpec) -> Result<()> {
        let private = spec.settings.get("allow_private");
        let key = if spec.kind == "exec" && !self.exec {
            "exec_over_control"
        } else if private.is_some_and(|private| private != false) && !self.private {
            "private_over_control"
        } else {
            return Ok(());
        };
        let about = format!("handler {}", spec.name);
        let message = format!("events.{key} of daemon.toml does not allow it");
        let error = Error::new(Code::NotPossible, about, message);
        Err(error.hint("set that, or put the handler into daemon.toml"))
    }
}

impl Parts {
    /// Checks handlers of daemon.toml.
    ///
    /// # Errors
    /// `config-invalid`, `address-refused`.
    pub fn check(&self, configured: &[HandlerSpec]) -> Result<()> {
        let prepared = |spec| self.kinds.prepare(spec, &self.host).map(drop);
        configured.iter().try_for_each(prepared)
    }
}

/// The actor.
pub struct Handlers {
    parts: Parts,
    tree: Option<Tree>,
    roster: Roster,
    entries: BTreeMap<String, Entry>,
    /// The newest event that the queues have seen.
    last: u64,
    /// Who waits for [`Heard::All`], and how it is asked for.
    waiting: Vec<oneshot::Sender<()>>,
    asked: Arc<Notify>,
    /// Numbers the actors: one that is being stopped keeps its name until it is gone.
    actors: u64,
}

/// A handler.
struct Entry {
    spec: HandlerSpec,
    source: HandlerSource,
    queue: Arc<Queue>,
    child: ChildRef<Instance>,
    ending: Ends,
    /// How far it is as the store knows it.
    noted: u64,
}

/// What a handler has started ends when this goes.
struct Ends(Ending);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// The supervisor of the handlers. Where this actor is lost, so are they: the next one makes
/// its own.
struct Tree(ChildRef<Supervisor>);

impl Drop for Tree {
    fn drop(&mut self) {
        // It is gone already where this fails.
        let _ = self.0.try_send(ShutDown);
    }
}

impl Handlers {
    /// A bus without handlers, until it has started.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            tree: None,
            roster: Roster::default(),
            entries: BTreeMap::new(),
            last: 0,
            waiting: Vec::new(),
            asked: Arc::default(),
            actors: 0,
        }
    }

    fn tree(&self) -> Result<ChildRef<Supervisor>> {
        let tree = self.tree.as_ref().map(|tree| tree.0.clone());
        tree.ok_or_else(|| Error::new(Code::DaemonUnavailable, "handlers", "are being started"))
    }

    fn push(&mut self, mut events: Vec<Arc<Event>>) {
        events.retain(|event| {
            // What is kept nowhere has no number, and comes once.
            let is_news = event.is_passing() || event.id > self.last;
            self.last = self.last.max(event.id);
            is_news
        });
        for entry in self.entries.values() {
            entry.queue.push(&events);
        }
    }

    /// Resolves when the queues have all that went over the live stream until now.
    fn caught_up(&mut self) -> impl Future<Output = ()> + use<> {
        let (waiting, all) = oneshot::channel();
        self.waiting.push(waiting);
        self.asked.notify_one();
        // An actor that is lost has nobody to answer.
        all.map(|_| ())
    }

    /// Reads what the live stream had no room for.
    fn catch_up(&mut self, ctx: &mut Context<Self>) {
        let (store, after) = (self.parts.store.clone(), self.last);
        let page = async move { read(&store, move |view| view.events(after, None, PAGE)).await };
        ctx.wait(page.into_actor(self).map(|page, this, ctx| match page {
            Ok(page) => {
                if let Some(Gap::Pruned { .. }) = page.gap {
                    // Each is told of it where it reads for itself.
                    this.entries.values().for_each(|e| e.queue.fall_behind());
                }
                let events = page.events.into_iter();
                this.push(events.map(|event| Arc::new(event.into())).collect());
                this.last = this.last.max(page.next);
                if !page.end {
                    this.catch_up(ctx);
                }
            }
            Err(error) => {
                tracing::warn!("events cannot be read yet: {error}");
                let later = tokio::time::sleep(start::AGAIN).into_actor(this);
                ctx.wait(later.map(|(), this, ctx| this.catch_up(ctx)));
            }
        }));
    }

    /// Notes how far the handlers are.
    fn note(&mut self) -> impl Future<Output = ()> + use<> {
        let mut moved = Vec::new();
        for (name, entry) in &mut self.entries {
            let cursor = entry.queue.cursor();
            if cursor != entry.noted {
                entry.noted = cursor;
                moved.push((name.clone(), cursor));
            }
        }
        let store = self.parts.store.clone();
        async move {
            if moved.is_empty() {
                return;
            }
            if let Err(error) = write(&store, move |tx| tx.set_cursors(&moved)).await {
                tracing::warn!("how far event handlers are cannot be stored: {error}");
            }
        }
    }
}

impl Actor for Handlers {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Before it is looked what there is already.
        ctx.add_stream(batches(self.parts.live.subscribe(), self.asked.clone()));
        self.begin(ctx);
        ctx.run_interval(NOTE, |this, ctx| {
            let noted = this.note();
            ctx.spawn(noted.into_actor(this));
        });
    }
}

impl StreamHandler<Heard> for Handlers {
    fn handle(&mut self, heard: Heard, ctx: &mut Self::Context) {
        match heard {
            Heard::Events(events) => self.push(events),
            Heard::Lagged(events) => {
                tracing::warn!(events, "the bus was behind: what is stored is read again");
                self.catch_up(ctx);
            }
            Heard::All => self
                .waiting
                .drain(..)
                .for_each(|waiting| _ = waiting.send(())),
        }
    }

    /// The live stream lives as long as the daemon.
    fn finished(&mut self, _: &mut Self::Context) {}
}

/// Commands of handlers to `runs`, carried by the arbiter of the caller.
pub fn orders(runs: ChildRef<Runs>) -> Orders {
    let arbiter = Arbiter::current();
    Orders::new(move |run, command, reply| {
        let runs = runs.clone();
        arbiter.spawn(async move {
            let told = runs.send(Order { run, command }).await;
            let told = told.map_err(down).and_then(|told| told);
            // Nobody waits any more where this fails.
            let _ = reply.try_send(told.map(|told| told.changed));
        });
    })
}

fn down(e: CallError) -> Error {
    Error::new(Code::DaemonUnavailable, "runs", e).hint("it is being restarted: ask again")
}

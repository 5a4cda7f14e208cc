//! How handlers begin.

use super::{Ends, Entry, Handlers, Instance, Tree};
use crate::actors::store::{read, write};
use crate::domain::Result;
use crate::handlers::{Host, Queue};
use crate::protocol::handlers::{HandlerSource, HandlerSpec};
use crate::store::{StoredHandler, Tx, View};
use crate::supervise::{AddChild, Backoff, Child, Context, Supervisor};
use actix::prelude::*;
use std::sync::Arc;
use std::time::Duration;

/// Between two attempts to reach the store.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked for handlers that are past their deadline.
const CHECK: Duration = Duration::from_millis(100);
/// How long after its deadline a handler is given up: those that keep the deadline
/// themselves can say more about it.
const MARGIN: Duration = Duration::from_millis(200);
/// How long a handler that is removed may take to finish its event: for half of it in peace,
/// and then what it has started is ended.
pub(super) const GRACE: Duration = Duration::from_secs(2);
/// Waits between the restarts of a handler: from the second on.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(100),
    max: Duration::from_secs(5),
    jitter: 0.2,
};

impl Handlers {
    /// Starts the supervisor and all handlers. Nothing is taken before.
    pub(super) fn begin(&mut self, ctx: &mut Context<Self>) {
        let store = self.parts.store.clone();
        let (roster, reporter) = (self.roster.clone(), self.parts.reporter.clone());
        let tree = Supervisor::new("handlers")
            .check_every(CHECK)
            .on_notice(move |notice| roster.hear(notice, &reporter));
        let begun = async move {
            let tree = tree.start().await;
            loop {
                let known =
                    |view: &View<'_>| -> Result<_> { Ok((view.newest_event()?, view.handlers()?)) };
                match read(&store, known).await {
                    Ok(known) => return (tree, known),
                    Err(error) => tracing::warn!("event handlers cannot start yet: {error}"),
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        ctx.wait(begun.into_actor(self).map(|(tree, known), this, ctx| {
            match tree {
                Ok(tree) => this.tree = Some(Tree(tree)),
                Err(error) => return ctx.fail(error),
            }
            this.last = known.0;
            this.start_all(known.1, ctx);
        }));
    }

    fn start_all(&mut self, stored: Vec<StoredHandler>, ctx: &mut Context<Self>) {
        let mut wanted: Vec<_> = self.parts.configured.clone();
        let configured = wanted.len();
        for handler in &stored {
            let Some(spec) = &handler.spec else { continue };
            match serde_json::from_str::<HandlerSpec>(spec) {
                Ok(spec) if wanted.iter().any(|other| other.name == spec.name) => {
                    let name = spec.name;
                    tracing::warn!(%name, "an event handler of daemon.toml has the name of one that was added; the latter does not run");
                }
                Ok(spec) => wanted.push(spec),
                Err(e) => {
                    tracing::error!(name = %handler.name, "an event handler cannot be read: {e}")
                }
            }
        }
        let unused = |handler: &&StoredHandler| {
            handler.spec.is_none() && !wanted.iter().any(|spec| spec.name == handler.name)
        };
        self.forget(
            stored
                .iter()
                .filter(unused)
                .map(|h| h.name.clone())
                .collect(),
            ctx,
        );
        for (n, spec) in wanted.into_iter().enumerate() {
            let known = stored.iter().find(|handler| handler.name == spec.name);
            let cursor = known.map(|handler| handler.cursor);
            if n < configured {
                self.start_configured(spec, cursor, ctx);
            } else if let Err(error) =
                self.start_one(spec, HandlerSource::Added, cursor.unwrap_or(self.last), ctx)
            {
                // Its kind is of another program, or was checked by another release.
                tracing::error!("an event handler cannot start: {error}");
            }
        }
    }

    /// Starts a handler of daemon.toml; one that is new hears what happens from now on.
    pub(super) fn start_configured(
        &mut self,
        spec: HandlerSpec,
        cursor: Option<u64>,
        ctx: &mut Context<Self>,
    ) {
        let stored = StoredHandler {
            name: spec.name.clone(),
            spec: None,
            cursor: cursor.unwrap_or(self.last),
        };
        let at = stored.cursor;
        if let Err(error) = self.start_one(spec, HandlerSource::File, at, ctx) {
            return tracing::error!("an event handler cannot start: {error}");
        }
        if cursor.is_none() {
            self.change(move |tx| tx.put_handler(&stored), ctx);
        }
    }

    /// Handlers that daemon.toml no longer has begin anew where they come back.
    fn forget(&self, names: Vec<String>, ctx: &mut Context<Self>) {
        if !names.is_empty() {
            let all = move |tx: &Tx<'_>| names.iter().try_for_each(|name| tx.remove_handler(name));
            self.change(all, ctx);
        }
    }

    fn change(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<()> + Send + 'static,
        ctx: &mut Context<Self>,
    ) {
        let store = self.parts.store.clone();
        let noted = async move {
            if let Err(error) = write(&store, work).await {
                tracing::warn!("event handlers cannot be noted: {error}");
            }
        };
        ctx.spawn(noted.into_actor(self));
    }

    /// Starts a handler that goes on after event `cursor`.
    pub(super) fn start_one(
        &mut self,
        mut spec: HandlerSpec,
        source: HandlerSource,
        cursor: u64,
        ctx: &mut Context<Self>,
    ) -> Result<()> {
        let tree = self.tree()?;
        let ending = self.parts.host.ending.within();
        let host = Host {
            ending: ending.clone(),
            ..self.parts.host.clone()
        };
        let make = self.parts.kinds.prepare(&spec, &host)?;
        // The same handler may stand on another line of the file later.
        spec.origin.clear();
        let queue = Queue::new(&spec.name, &spec.events, spec.queue, cursor, self.last);
        let queue = Arc::new(queue);
        self.actors += 1;
        let actor = format!("{}/{}", spec.name, self.actors);
        self.roster.add(&actor, &spec.name, queue.clone());
        let deadline = Duration::try_from_secs_f64(spec.deadline_seconds).unwrap_or_default();
        let parts = (make, queue.clone(), self.parts.store.clone());
        let child = Child::new(&actor, move || {
            let (make, queue, store) = parts.clone();
            Instance::new(make, queue, store)
        })
        .own_thread()
        .progress_within(deadline + MARGIN)
        .intensity(
            spec.restarts,
            Duration::from_secs(spec.restart_period_seconds),
        )
        .backoff(BACKOFF)
        .grace(GRACE);
        let entry = Entry {
            source,
            queue,
            ending: Ends(ending),
            child: child.handle(),
            noted: 0,
            spec,
        };
        self.entries.insert(entry.spec.name.clone(), entry);
        let added = async move { tree.send(AddChild::new(child)).await };
        ctx.spawn(added.into_actor(self).map(|added, _, _| match added {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!("an event handler was not started: {error}"),
            Err(error) => tracing::error!("an event handler was not started: {error}"),
        }));
        Ok(())
    }
}

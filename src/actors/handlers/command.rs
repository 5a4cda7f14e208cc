//! What can be asked and told about event handlers.

use super::start::GRACE;
use super::{Entry, Handlers, Instance, down};
use crate::actors::store::write;
use crate::domain::{Code, Error, Result};
use crate::protocol::handlers::{HandlerSource, HandlerSpec, HandlerView};
use crate::store::StoredHandler;
use crate::supervise::{
    ChildRef, ChildSnapshot, ChildState, GetChildren, ReleaseChild, RemoveChild,
};
use actix::fut::ready;
use actix::prelude::*;
use futures_util::FutureExt;
use std::time::{Duration, Instant};

/// How long the end of the daemon waits for handlers.
const DRAIN: Duration = Duration::from_secs(5);

/// … and then for them to let go of what they have started.
const LEAVE: Duration = Duration::from_secs(3);

/// What a command is answered with, later.
type Later<T> = ResponseActFuture<Handlers, Result<T>>;

fn at_once<T: 'static>(answer: Result<T>) -> Later<T> {
    Box::pin(ready(answer))
}

fn unknown(name: &str) -> Error {
    Error::new(
        Code::NotFound,
        format_args!("handler {name}"),
        "is not known",
    )
    .hint("`backpropd ctl handlers` lists them")
}

/// All handlers, by name.
#[derive(Message)]
#[rtype(result = "Result<Vec<HandlerView>>")]
pub struct GetHandlers;

impl Handler<GetHandlers> for Handlers {
    type Result = Later<Vec<HandlerView>>;

    fn handle(&mut self, _: GetHandlers, _: &mut Self::Context) -> Self::Result {
        let tree = match self.tree() {
            Ok(tree) => tree,
            Err(error) => return at_once(Err(error)),
        };
        let children = async move { tree.send(GetChildren).await.map_err(down) };
        Box::pin(children.into_actor(self).map(|children, this, _| {
            let children = children?;
            let view = |entry: &Entry| {
                let child = children.iter().find(|c| c.name == entry.child.name());
                view(entry, child)
            };
            Ok(this.entries.values().map(view).collect())
        }))
    }
}

fn view(entry: &Entry, child: Option<&ChildSnapshot>) -> HandlerView {
    let state = match child.map(|child| child.state) {
        Some(ChildState::Running) => "running",
        Some(ChildState::BackingOff { .. }) => "backing_off",
        Some(ChildState::Quarantined) => "quarantined",
        Some(ChildState::Stopping | ChildState::Stopped) => "stopping",
        Some(ChildState::Starting | ChildState::Waiting) | None => "starting",
    };
    let (counters, waiting) = entry.queue.counts();
    let cause = child.and_then(|child| child.last_cause.as_ref());
    HandlerView {
        spec: entry.spec.clone(),
        source: entry.source,
        state: state.to_owned(),
        counters,
        waiting,
        last_event: entry.queue.cursor(),
        last_cause: cause.map(ToString::to_string),
    }
}

/// Add a handler, and keep it for later daemons. Answered when that is durable.
#[derive(Message)]
#[rtype(result = "Result<()>")]
pub struct AddHandler(pub HandlerSpec);

impl Handler<AddHandler> for Handlers {
    type Result = Later<()>;

    fn handle(&mut self, AddHandler(spec): AddHandler, _: &mut Self::Context) -> Self::Result {
        if self.entries.contains_key(&spec.name) {
            let about = format!("handler {}", spec.name);
            let error = Error::new(Code::HandlerExists, about, "exists already");
            return at_once(Err(error.hint("replace it, or remove it first")));
        }
        self.put(spec)
    }
}

/// Put a handler in the place of the one of its name, where there is one.
#[derive(Message)]
#[rtype(result = "Result<()>")]
pub struct ReplaceHandler(pub HandlerSpec);

impl Handler<ReplaceHandler> for Handlers {
    type Result = Later<()>;

    fn handle(&mut self, message: ReplaceHandler, _: &mut Self::Context) -> Self::Result {
        let ReplaceHandler(spec) = message;
        match self.changeable(&spec.name) {
            Err(error) if error.code != Code::NotFound => at_once(Err(error)),
            _ => self.put(spec),
        }
    }
}

/// Remove a handler for good. Answered when it gets nothing more.
#[derive(Message)]
#[rtype(result = "Result<()>")]
pub struct RemoveHandler(pub String);

impl Handler<RemoveHandler> for Handlers {
    type Result = Later<()>;

    fn handle(
        &mut self,
        RemoveHandler(name): RemoveHandler,
        _: &mut Self::Context,
    ) -> Self::Result {
        if let Err(error) = self.changeable(&name) {
            return at_once(Err(error));
        }
        let (store, forgotten) = (self.parts.store.clone(), name.clone());
        let removed = async move { write(&store, move |tx| tx.remove_handler(&forgotten)).await };
        Box::pin(removed.into_actor(self).then(move |removed, this, _| {
            let stopped = removed.map(|()| this.stop_one(&name));
            async move {
                if let Some(stopped) = stopped? {
                    stopped.await;
                }
                Ok(())
            }
            .into_actor(this)
        }))
    }
}

/// Start a quarantined handler again. One that is well stays as it is.
#[derive(Message)]
#[rtype(result = "Result<()>")]
pub struct ReleaseHandler(pub String);

impl Handler<ReleaseHandler> for Handlers {
    type Result = Later<()>;

    fn handle(&mut self, message: ReleaseHandler, _: &mut Self::Context) -> Self::Result {
        let ReleaseHandler(name) = message;
        let (Some(entry), Ok(tree)) = (self.entries.get(&name), self.tree()) else {
            return at_once(Err(unknown(&name)));
        };
        let child = entry.child.name().to_owned();
        let released = async move { tree.send(ReleaseChild { name: child }).await };
        Box::pin(
            released
                .into_actor(self)
                .map(move |released, _, _| released.map_err(down)?.map_err(|_| unknown(&name))),
        )
    }
}

/// daemon.toml has these handlers now. Others of daemon.toml end, and what differs is
/// replaced; those that were added stay.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Configured(pub Vec<HandlerSpec>);

impl Handler<Configured> for Handlers {
    type Result = ();

    fn handle(&mut self, Configured(mut specs): Configured, ctx: &mut Self::Context) {
        self.parts.configured.clone_from(&specs);
        specs.iter_mut().for_each(|spec| spec.origin.clear());
        let of_file = self
            .entries
            .values()
            .filter(|e| e.source == HandlerSource::File);
        let ending = of_file.filter(|entry| !specs.contains(&entry.spec));
        let ending: Vec<String> = ending.map(|entry| entry.spec.name.clone()).collect();
        for name in ending {
            let Some(stopped) = self.stop_one(&name) else {
                continue;
            };
            let next = specs.iter().find(|spec| spec.name == name).cloned();
            ctx.spawn(stopped.into_actor(self).map(|cursor, this, ctx| {
                if let Some(spec) = next {
                    this.start_configured(spec, Some(cursor), ctx);
                }
            }));
            specs.retain(|spec| spec.name != name);
        }
        for spec in specs {
            if !self.entries.contains_key(&spec.name) {
                self.start_configured(spec, None, ctx);
            }
        }
    }
}

/// Let the handlers finish what waits for them, for some seconds at most, and note how far
/// they are.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Drain;

impl Handler<Drain> for Handlers {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Drain, _: &mut Self::Context) -> Self::Result {
        let until = Instant::now() + DRAIN;
        let caught_up = tokio::time::timeout_at(until.into(), self.caught_up());
        let drained = caught_up.into_actor(self).then(move |_, this, _| {
            let entries = this.entries.values();
            let queues: Vec<_> = entries
                .map(|e| (e.queue.clone(), e.child.clone()))
                .collect();
            async move {
                // One that is down does not get far before the end.
                let busy = || {
                    queues
                        .iter()
                        .any(|(queue, child)| is_up(child) && !queue.is_idle())
                };
                while busy() && Instant::now() < until {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            .into_actor(this)
        });
        Box::pin(
            drained
                .then(|(), this, _| this.note().into_actor(this))
                .then(|(), this, _| this.let_go().into_actor(this)),
        )
    }
}

fn is_up(child: &ChildRef<Instance>) -> bool {
    child.up().now_or_never().is_some_and(|up| up.is_ok())
}

impl Handlers {
    /// Nothing more is given to any handler, and nothing is said of how they end. What they
    /// have started is not left behind, if they can help it.
    fn let_go(&mut self) -> impl Future<Output = ()> + use<> {
        self.parts.host.ending.set();
        for entry in self.entries.values() {
            entry.queue.close();
            self.roster.remove(entry.child.name());
        }
        let tree = self.tree();
        async move {
            if let Ok(tree) = tree {
                let _ = tokio::time::timeout(LEAVE, tree.shut_down()).await;
            }
        }
    }

    /// Whether the handler may be changed over the control socket.
    fn changeable(&self, name: &str) -> Result<()> {
        let entry = self.entries.get(name).ok_or_else(|| unknown(name))?;
        match entry.source {
            HandlerSource::Added => Ok(()),
            HandlerSource::File => {
                let message = "is one of daemon.toml";
                let error = Error::new(Code::NotPossible, format_args!("handler {name}"), message);
                Err(error.hint("change it there, then reload or restart the daemon"))
            }
        }
    }

    /// Keeps a handler in the store and starts it, in the place of the one of its name.
    fn put(&mut self, spec: HandlerSpec) -> Later<()> {
        let allowed = self.parts.over_control.check(&spec);
        let usable = allowed.and_then(|()| self.parts.kinds.prepare(&spec, &self.parts.host));
        if let Err(error) = usable {
            return at_once(Err(error));
        }
        let old = self.entries.get(&spec.name);
        let cursor = old.map_or(self.last, |entry| entry.queue.cursor());
        let stored = StoredHandler {
            name: spec.name.clone(),
            spec: Some(serde_json::json!(spec).to_string()),
            cursor,
        };
        let (store, name) = (self.parts.store.clone(), spec.name.clone());
        let kept = async move { write(&store, move |tx| tx.put_handler(&stored)).await };
        let stopped = kept.into_actor(self).then(move |kept, this, _| {
            // Both may work on the same file: one after the other.
            let stopped = kept.map(|()| this.stop_one(&name));
            async move {
                Ok(match stopped? {
                    Some(stopped) => stopped.await,
                    None => cursor,
                })
            }
            .into_actor(this)
        });
        Box::pin(stopped.map(|cursor: Result<u64>, this, ctx| {
            this.start_one(spec, HandlerSource::Added, cursor?, ctx)
        }))
    }

    /// Stops a handler: it gets nothing more when the answer is there, which is how far it
    /// came.
    fn stop_one(&mut self, name: &str) -> Option<impl Future<Output = u64> + use<>> {
        let entry = self.entries.remove(name)?;
        let tree = self.tree().ok()?;
        self.roster.remove(entry.child.name());
        Some(async move {
            let name = entry.child.name().to_owned();
            if let Ok(Ok(())) = tree.send(RemoveChild { name }).await {
                let gone = |patience| tokio::time::timeout(patience, entry.child.gone());
                if gone(GRACE / 2).await.is_err() {
                    entry.ending.0.set();
                    let _ = gone(GRACE * 2).await;
                }
            }
            entry.queue.close();
            entry.queue.cursor()
        })
    }
}

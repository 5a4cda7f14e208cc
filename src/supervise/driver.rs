//! The task that runs one generation: its factory, its context, its end.
//!
//! Actix would run `stopping` on a torn actor while its panic unwinds, which aborts the
//! process when that panics too, and lets the actor handle mail in between. Here the
//! panic is caught outside of actix's own future, which is then dropped without another
//! poll: a torn actor never runs again.

use super::context::Context;
use super::life::Life;
use super::panics::{catch, contain, discard};
use super::supervisor::{ChildEnded, ChildStarted, Supervisor};
use super::{Cause, machine::ChildId};
use actix::dev::channel::AddressReceiver;
use actix::dev::{AsyncContextParts, ContextFut, ContextParts, Mailbox};
use actix::{Actor, Addr};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::task::{self, Poll};

/// Makes the instance, on the thread where it is to live.
pub(super) type Make<A> = Box<dyn FnOnce() -> A + Send>;

/// Tells supervisor and peers that a generation ended, however that came about: it speaks
/// when it is dropped.
pub(super) struct Lifeline {
    /// Absent above the root.
    pub supervisor: Option<Addr<Supervisor>>,
    pub id: ChildId,
    pub life: Arc<Life>,
    /// What to tell, if anything better is known than that the driver is gone.
    cause: Option<Cause>,
}

impl Lifeline {
    pub fn new(supervisor: Option<Addr<Supervisor>>, id: ChildId, life: Arc<Life>) -> Self {
        Self {
            supervisor,
            id,
            life,
            cause: None,
        }
    }

    fn started(&self) {
        if let Some(supervisor) = &self.supervisor {
            supervisor.do_send(ChildStarted {
                id: self.id,
                generation: self.life.generation,
            });
        }
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        let cause = self.cause.take().unwrap_or(Cause::Lost);
        self.life.end(cause.clone());
        // `do_send`, since a drop cannot wait. The queue stays bounded all the same: a
        // generation sends two such facts at most.
        if let Some(supervisor) = &self.supervisor {
            supervisor.do_send(ChildEnded {
                id: self.id,
                generation: self.life.generation,
                cause,
            });
        }
    }
}

/// A generation on its way to its thread.
pub(super) struct Launch<A: Actor<Context = Context<A>>> {
    // First, so that peers hear the cause before the mailbox closes, should the thread be
    // gone.
    pub lifeline: Lifeline,
    pub make: Make<A>,
    pub receiver: AddressReceiver<A>,
}

enum Stage<A: Actor<Context = Context<A>>> {
    Fresh {
        make: Option<Make<A>>,
        mailbox: Mailbox<A>,
    },
    Live {
        actor: Box<ContextFut<A, Context<A>>>,
        told_to_stop: bool,
    },
    Gone,
}

/// Runs one generation.
pub(super) struct Driver<A: Actor<Context = Context<A>>> {
    stage: Stage<A>,
    lifeline: Lifeline,
    /// What the actor logs says whose it is.
    span: tracing::Span,
}

impl<A: Actor<Context = Context<A>>> Driver<A> {
    pub fn new(launch: Launch<A>) -> Self {
        let life = &launch.lifeline.life;
        let (name, generation) = (&life.child, life.generation);
        Self {
            span: tracing::info_span!("actor", %name, generation),
            stage: Stage::Fresh {
                make: Some(launch.make),
                mailbox: Mailbox::new(launch.receiver),
            },
            lifeline: launch.lifeline,
        }
    }

    /// Makes the actor, or lets it go on. Ready with the cause when it ended by itself.
    fn advance(&mut self, cx: &mut task::Context<'_>) -> Poll<Cause> {
        let Stage::Fresh { make, .. } = &mut self.stage else {
            return self.poll_actor(cx);
        };
        let Some(make) = make.take() else {
            return Poll::Ready(Cause::Lost);
        };
        if self.lifeline.life.told_to_stop() {
            return Poll::Ready(Cause::Stopped);
        }
        // The mailbox stays in the stage meanwhile: should this panic, it is to be
        // dropped in `finish`.
        let actor = make();
        if let Stage::Fresh { mailbox, .. } = std::mem::replace(&mut self.stage, Stage::Gone) {
            let parts = ContextParts::new(mailbox.sender_producer());
            let context = Context::new(parts, self.lifeline.life.clone());
            self.stage = Stage::Live {
                actor: Box::new(ContextFut::new(context, actor, mailbox)),
                told_to_stop: false,
            };
        }
        let polled = self.poll_actor(cx);
        if polled.is_pending() {
            self.lifeline.started();
        }
        polled
    }

    fn poll_actor(&mut self, cx: &mut task::Context<'_>) -> Poll<Cause> {
        let Stage::Live {
            actor,
            told_to_stop,
        } = &mut self.stage
        else {
            return Poll::Ready(Cause::Lost);
        };
        if self.lifeline.life.told_to_stop() && !*told_to_stop {
            // Once: an actor that answers `Continue` stops in its own time.
            *told_to_stop = true;
            actor.ctx().parts().stop();
        }
        Pin::new(&mut *actor)
            .poll(cx)
            .map(|()| actor.ctx().take_fault().unwrap_or(Cause::Stopped))
    }

    /// Tells peers, discards the actor, and lets the lifeline tell the supervisor.
    fn finish(&mut self, cause: Cause) {
        // Before the mailbox is dropped: who waits for an answer is to hear the cause.
        self.lifeline.life.seal(cause.clone());
        self.lifeline.cause.get_or_insert(cause);
        let mut stage = std::mem::replace(&mut self.stage, Stage::Gone);
        if let Stage::Live { actor, .. } = &mut stage {
            // Or dropping it would run it once more.
            actor.ctx().parts().terminate();
        }
        contain(move || drop(stage));
    }
}

impl<A: Actor<Context = Context<A>>> Future for Driver<A> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let life = this.lifeline.life.clone();
        let span = this.span.clone();
        let _entered = span.enter();
        life.thread.get_or_init(|| std::thread::current().id());
        // Before the orders are read, so that none is missed.
        life.wake_by(cx.waker());
        let polled = if life.abandoned() {
            Ok(Poll::Pending)
        } else {
            life.polls.fetch_add(1, Relaxed);
            life.polling.store(true, Release);
            let polled = catch(|| this.advance(cx));
            life.polling.store(false, Release);
            polled
        };
        let cause = match polled {
            Ok(Poll::Ready(cause)) => cause,
            Ok(Poll::Pending) if life.abandoned() => Cause::Lost,
            Ok(Poll::Pending) => return Poll::Pending,
            Err((panicked, payload)) => {
                discard(payload);
                let noted = match &mut this.stage {
                    Stage::Live { actor, .. } => actor.ctx().take_fault(),
                    _ => None,
                };
                noted.unwrap_or(Cause::Panicked(panicked))
            }
        };
        this.finish(cause);
        Poll::Ready(())
    }
}

impl<A: Actor<Context = Context<A>>> Drop for Driver<A> {
    fn drop(&mut self) {
        if !matches!(self.stage, Stage::Gone) {
            self.finish(Cause::Lost);
        }
    }
}

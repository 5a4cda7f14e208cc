//! The context of a supervised actor: actix's own, with a guard around everything that
//! runs in it.

use super::charge::{self, Charge, Verdict};
use super::life::Life;
use super::panics::catch;
use super::{Cause, Pulse};
use actix::dev::{
    AsyncContextParts, ContextParts, Envelope, EnvelopeProxy, MessageResponse, OneshotSender,
    ToEnvelope,
};
use actix::{
    Actor, ActorContext, ActorFuture, ActorState, Addr, AsyncContext, Handler, Message, SpawnHandle,
};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

/// The execution context of a supervised actor.
///
/// It offers all that [`actix::Context`] does, through [`actix::AsyncContext`] and
/// [`actix::ActorContext`]. What runs in it is guarded: handlers, futures, streams, timers.
pub struct Context<A: Actor<Context = Context<A>>> {
    parts: ContextParts<A>,
    /// Keeps actix from stopping the actor because nobody can write to it: it is there
    /// until its supervisor says otherwise, and one that was abandoned is not to run its
    /// `stopping`.
    _self: Addr<A>,
    life: Arc<Life>,
    /// The sender of the message that is being served, directly or by a future of it.
    serving: Option<Verdict>,
    /// The charge of a message whose answer is being arranged; a future that is to
    /// produce the answer takes it.
    unanswered: Option<Charge>,
    fault: Option<Cause>,
}

impl<A: Actor<Context = Context<A>>> Context<A> {
    pub(super) fn new(parts: ContextParts<A>, life: Arc<Life>) -> Self {
        Self {
            _self: parts.address(),
            parts,
            life,
            serving: None,
            unanswered: None,
            fault: None,
        }
    }

    /// Gives up: the actor stops, and its supervisor treats that as a failure with this
    /// message. The first failure is the one that counts.
    pub fn fail(&mut self, message: impl ToString) {
        self.fail_with(Cause::Failed {
            message: message.to_string(),
        });
    }

    pub(super) fn fail_with(&mut self, cause: Cause) {
        self.fault.get_or_insert(cause);
        self.parts.stop();
    }

    pub(super) fn take_fault(&mut self) -> Option<Cause> {
        self.fault.take()
    }

    /// Which instance of the child this is, from 1.
    pub fn generation(&self) -> u64 {
        self.life.generation
    }

    /// A handle to report work and progress with, from any thread.
    pub fn pulse(&self) -> Pulse {
        Pulse::new(self.life.clone())
    }

    /// Runs a part of the actor. A panic is told to the sender concerned, then goes on to
    /// the driver, which discards the actor: nothing on the way may touch it.
    fn guard<T>(&mut self, verdict: Option<Verdict>, f: impl FnOnce(&mut Self) -> T) -> T {
        let outer = std::mem::replace(&mut self.serving, verdict);
        match catch(|| f(self)) {
            Ok(value) => {
                self.serving = outer;
                value
            }
            Err((panicked, payload)) => {
                if let Some(verdict) = &self.serving {
                    // Already set when this message panicked the actor before.
                    let _ = verdict.set(panicked.clone());
                }
                self.fault.get_or_insert(Cause::Panicked(panicked));
                resume_unwind(payload)
            }
        }
    }

    fn wrap<F>(&mut self, future: F) -> Guarded<A>
    where
        F: ActorFuture<A, Output = ()> + 'static,
    {
        Guarded {
            verdict: self.serving.clone(),
            charge: self.unanswered.take(),
            future: Box::pin(future),
        }
    }
}

/// A future of the actor, with the sender that it serves.
struct Guarded<A: Actor<Context = Context<A>>> {
    verdict: Option<Verdict>,
    charge: Option<Charge>,
    future: Pin<Box<dyn ActorFuture<A, Output = ()>>>,
}

impl<A: Actor<Context = Context<A>>> ActorFuture<A> for Guarded<A> {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        actor: &mut A,
        ctx: &mut Context<A>,
        task: &mut task::Context<'_>,
    ) -> Poll<()> {
        if ctx.life.abandoned() {
            return Poll::Pending;
        }
        let this = &mut *self;
        let done = ctx.guard(this.verdict.clone(), |ctx| {
            this.future.as_mut().poll(actor, ctx, task)
        });
        if done.is_ready()
            && let Some(charge) = this.charge.take()
        {
            charge.answered();
        }
        done
    }
}

/// A message on its way.
struct Letter<M: Message> {
    message: Option<M>,
    reply: Option<OneshotSender<M::Result>>,
    charge: Option<Charge>,
}

impl<A, M> EnvelopeProxy<A> for Letter<M>
where
    A: Actor<Context = Context<A>> + Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn handle(&mut self, actor: &mut A, ctx: &mut Context<A>) {
        let Some(message) = self.message.take() else {
            return;
        };
        if self.reply.as_ref().is_some_and(|reply| reply.is_closed()) {
            // As everywhere in actix, who drops the request takes it back.
            return self.charge.take().map_or((), Charge::answered);
        }
        let verdict = self.charge.as_ref().map(|charge| charge.verdict.clone());
        ctx.guard(verdict, |ctx| {
            let response = actor.handle(message, ctx);
            // From here on a spawned future is the one that answers.
            ctx.unanswered = self.charge.take();
            response.handle(ctx, self.reply.take());
            if let Some(charge) = ctx.unanswered.take() {
                charge.answered();
            }
        });
    }
}

impl<A, M> ToEnvelope<A, M> for Context<A>
where
    A: Actor<Context = Context<A>> + Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn pack(message: M, reply: Option<OneshotSender<M::Result>>) -> Envelope<A> {
        Envelope::with_proxy(Box::new(Letter {
            message: Some(message),
            reply,
            charge: charge::take(),
        }))
    }
}

impl<A: Actor<Context = Context<A>>> ActorContext for Context<A> {
    fn stop(&mut self) {
        self.parts.stop();
    }

    fn terminate(&mut self) {
        self.parts.terminate();
    }

    fn state(&self) -> ActorState {
        self.parts.state()
    }
}

impl<A: Actor<Context = Context<A>>> AsyncContext<A> for Context<A> {
    fn spawn<F>(&mut self, future: F) -> SpawnHandle
    where
        F: ActorFuture<A, Output = ()> + 'static,
    {
        let guarded = self.wrap(future);
        self.parts.spawn(guarded)
    }

    fn wait<F>(&mut self, future: F)
    where
        F: ActorFuture<A, Output = ()> + 'static,
    {
        let guarded = self.wrap(future);
        self.parts.wait(guarded);
    }

    /// Also true once the actor was abandoned, so that it takes no more mail.
    fn waiting(&self) -> bool {
        self.parts.waiting() || self.life.abandoned()
    }

    fn cancel_future(&mut self, handle: SpawnHandle) -> bool {
        self.parts.cancel_future(handle)
    }

    fn address(&self) -> Addr<A> {
        self.parts.address()
    }
}

impl<A: Actor<Context = Context<A>>> AsyncContextParts<A> for Context<A> {
    fn parts(&mut self) -> &mut ContextParts<A> {
        &mut self.parts
    }
}

//! How peers reach a child: by a handle that outlives its generations.

use super::charge::{Charge, Verdict, deliver};
use super::context::Context;
use super::life::Life;
use super::{CallError, Cause};
use actix::dev::channel::AddressSender;
use actix::{Actor, Handler, Message};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError, oneshot, watch};

/// Why nobody is there.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Absence {
    /// Somebody is to come.
    Down { cause: Option<Cause> },
    /// Nobody comes until it is released.
    Quarantined { first: Cause },
    /// Nobody comes.
    Stopped,
}

/// One generation as its peers reach it.
pub(super) struct Line<A: Actor<Context = Context<A>>> {
    /// The one sender that all peers share: actix gives each clone a slot of its own
    /// beyond any bound. Unbounded itself, since [`Life::room`] is the bound.
    pub sender: AddressSender<A>,
    pub life: Arc<Life>,
}

/// Who sits where peers look for the child.
pub(super) enum Seat<A: Actor<Context = Context<A>>> {
    Taken(Arc<Line<A>>),
    Vacant { generation: u64, absence: Absence },
}

/// What supervisor and peers share about a child.
pub(super) struct Slot<A: Actor<Context = Context<A>>> {
    pub name: Arc<str>,
    pub bound: usize,
    pub seat: watch::Sender<Seat<A>>,
}

/// A handle to a child, whichever generation is up: cheap to clone, usable from any
/// thread, and never stale.
pub struct ChildRef<A: Actor<Context = Context<A>>>(pub(super) Arc<Slot<A>>);

impl<A: Actor<Context = Context<A>>> Clone for ChildRef<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A: Actor<Context = Context<A>>> std::fmt::Debug for ChildRef<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ChildRef").field(&self.0.name).finish()
    }
}

impl<A: Actor<Context = Context<A>>> ChildRef<A> {
    /// The name of the child.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Sends a message to the generation that is up, waits for room in its mailbox, and
    /// for its answer.
    ///
    /// The wait ends at the latest when that generation does. Dropping the future takes
    /// back a message that is still in the mailbox.
    ///
    /// # Errors
    /// [`CallError`] says why there is no answer; never [`CallError::Full`].
    pub async fn send<M>(&self, message: M) -> Result<M::Result, CallError>
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let line = self.line()?;
        let Ok(permit) = line.life.room.clone().acquire_owned().await else {
            return Err(line.life.down());
        };
        let verdict = Verdict::default();
        let charge = Charge::new(verdict.clone(), line.life.clone(), permit);
        let (sent, _refused) = deliver(charge, || line.sender.send(message));
        match sent {
            Ok(reply) => line.answer(reply, &verdict).await,
            // Closed, in the instant before its fate is known.
            Err(_) => {
                line.life.ended().await;
                Err(line.life.down())
            }
        }
    }

    /// Sends a message without waiting for room or an answer: for facts whose loss, when
    /// the generation ends before it gets to them, is harmless.
    ///
    /// # Errors
    /// [`CallError::Full`] when the mailbox has no room; otherwise why nobody is there.
    pub fn try_send<M>(&self, message: M) -> Result<(), CallError>
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let line = self.line()?;
        let permit = self.room(&line)?;
        let charge = Charge::new(Verdict::default(), line.life.clone(), permit);
        let (sent, _refused) = deliver(charge, || line.sender.try_send(message, false));
        sent.map_err(|_| line.life.down())
    }

    /// Waits until a generation is up; its `started` may still be under way.
    ///
    /// # Errors
    /// When none comes by itself: [`CallError::Quarantined`], [`CallError::Stopped`].
    pub async fn up(&self) -> Result<u64, CallError> {
        let mut seat = self.0.seat.subscribe();
        loop {
            match self.line() {
                Ok(line) => return Ok(line.life.generation),
                Err(CallError::Down { .. }) => {}
                Err(error) => return Err(error),
            }
            // Fails only when the sender is gone, and that is in `self`. A generation that
            // has ended is still seated until the supervisor hears of it.
            let _ = seat.changed().await;
        }
    }

    /// Waits until the child is stopped or removed for good.
    pub async fn gone(&self) {
        let stopped = |seat: &Seat<A>| {
            matches!(
                seat,
                Seat::Vacant {
                    absence: Absence::Stopped,
                    ..
                }
            )
        };
        let _ = self.0.seat.subscribe().wait_for(stopped).await;
    }

    /// The generation that is up.
    pub(super) fn line(&self) -> Result<Arc<Line<A>>, CallError> {
        let child = self.0.name.clone();
        match &*self.0.seat.borrow() {
            Seat::Taken(line) if line.life.fate().is_some() => Err(line.life.down()),
            Seat::Taken(line) => Ok(line.clone()),
            Seat::Vacant {
                generation,
                absence,
            } => Err(match absence.clone() {
                Absence::Down { cause } => CallError::Down {
                    child,
                    generation: *generation,
                    cause,
                },
                Absence::Quarantined { first } => CallError::Quarantined { child, first },
                Absence::Stopped => CallError::Stopped { child },
            }),
        }
    }

    fn room(&self, line: &Line<A>) -> Result<OwnedSemaphorePermit, CallError> {
        match line.life.room.clone().try_acquire_owned() {
            Ok(permit) => Ok(permit),
            Err(TryAcquireError::Closed) => Err(line.life.down()),
            Err(TryAcquireError::NoPermits) => Err(CallError::Full {
                child: self.0.name.clone(),
                bound: self.0.bound,
            }),
        }
    }
}

impl<A: Actor<Context = Context<A>>> Line<A> {
    /// Waits for the answer, or for the end of the generation: one that was abandoned may
    /// sit on the message for ever.
    async fn answer<T>(
        &self,
        mut reply: oneshot::Receiver<T>,
        verdict: &Verdict,
    ) -> Result<T, CallError> {
        let mut ended = pin!(self.life.ended());
        let answered = std::future::poll_fn(|cx| match Pin::new(&mut reply).poll(cx) {
            Poll::Ready(answer) => Poll::Ready(answer.ok()),
            Poll::Pending => ended.as_mut().poll(cx).map(|()| reply.try_recv().ok()),
        })
        .await;
        if let Some(answer) = answered {
            return Ok(answer);
        }
        let life = &self.life;
        if let Some(panicked) = verdict.get() {
            // The panic is still on its way to the driver, on another thread perhaps: who
            // tries again at once is not to meet the same generation.
            life.ended().await;
            return Err(CallError::Panicked {
                child: life.child.clone(),
                generation: life.generation,
                panicked: panicked.clone(),
            });
        }
        Err(match life.fate() {
            Some(_) => life.down(),
            None => CallError::Unanswered {
                child: life.child.clone(),
            },
        })
    }
}

//! What a child is made of: a name, a factory, and the rules for it.

use super::context::Context;
use super::driver::{Driver, Launch, Lifeline};
use super::life::{Life, Tally};
use super::machine::ChildId;
use super::reference::{Absence, Line, Seat, Slot};
use super::supervisor::Supervisor;
use super::{Backoff, Cause, ChildRef, Intensity, Policy, Restart};
use actix::dev::channel::channel;
use actix::{Actor, Addr, Arbiter, ArbiterHandle};

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// Where a child runs.
#[derive(Clone, Debug)]
enum Place {
    Beside,
    On(ArbiterHandle),
    OwnThread,
}

/// An actor to be supervised: how it is made, and the rules for it.
///
/// Clones share the seat that [`Child::handle`] points to, so that the factory of a
/// supervisor can make its children anew while their peers' handles stay good.
pub struct Child<A: Actor<Context = Context<A>>> {
    slot: Arc<Slot<A>>,
    factory: Arc<dyn Fn() -> A + Send + Sync>,
    tally: Arc<Tally>,
    policy: Policy,
    stall_limit: Option<Duration>,
    place: Place,
}

/// How many messages a child holds unless [`Child::mailbox`] says otherwise: enough to
/// ride out a burst, few enough that a stuck child is noticed by its senders.
pub const MAILBOX: usize = 64;

impl<A: Actor<Context = Context<A>>> Child<A> {
    /// A permanent child with the default [`Policy`], beside its supervisor.
    ///
    /// `factory` runs before each start, on the thread where the actor is to live. It may
    /// panic: that is a failed start like any other.
    pub fn new(name: &str, factory: impl Fn() -> A + Send + Sync + 'static) -> Self {
        Self {
            slot: slot(name, MAILBOX),
            factory: Arc::new(factory),
            tally: Arc::default(),
            policy: Policy::default(),
            stall_limit: None,
            place: Place::Beside,
        }
    }

    /// The handle for its peers, good before its first start and after each restart.
    pub fn handle(&self) -> ChildRef<A> {
        ChildRef(self.slot.clone())
    }

    /// All rules at once, as from a configuration.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Which ends lead to a restart.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.policy.restart = restart;
        self
    }

    /// At most this many restarts within this time.
    #[must_use]
    pub fn intensity(mut self, restarts: u32, period: Duration) -> Self {
        self.policy.intensity = Intensity { restarts, period };
        self
    }

    /// How long to wait before a restart.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.policy.backoff = backoff;
        self
    }

    /// How long it may take to stop when it is told to.
    ///
    /// Told to stop, an actor takes no more mail and its futures are dropped, unless its
    /// `stopping` answers `Continue`: then it goes on until it stops itself, or until this
    /// time is over and it is abandoned.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.policy.grace = grace;
        self
    }

    /// How long it may have work and make no progress before it is replaced. Without this
    /// it is not watched: only its author knows how long an answer may take.
    #[must_use]
    pub fn progress_within(mut self, limit: Duration) -> Self {
        self.stall_limit = Some(limit);
        self
    }

    /// How many messages it may hold, those included that it works on.
    ///
    /// Call it before [`Child::handle`]: it makes a new seat.
    #[must_use]
    pub fn mailbox(mut self, bound: usize) -> Self {
        self.slot = slot(&self.slot.name, bound);
        self
    }

    /// Runs it on an arbiter that somebody else owns.
    #[must_use]
    pub fn on(mut self, arbiter: ArbiterHandle) -> Self {
        self.place = Place::On(arbiter);
        self
    }

    /// Runs it on a thread of its own, which is left behind when the actor blocks it.
    #[must_use]
    pub fn own_thread(mut self) -> Self {
        self.place = Place::OwnThread;
        self
    }
}

fn slot<A: Actor<Context = Context<A>>>(name: &str, bound: usize) -> Arc<Slot<A>> {
    Arc::new(Slot {
        name: name.into(),
        // None would let nobody in; more than this the semaphore cannot count.
        bound: bound.clamp(1, Semaphore::MAX_PERMITS),
        seat: watch::Sender::new(Seat::Vacant {
            generation: 0,
            absence: Absence::Down { cause: None },
        }),
    })
}

impl<A: Actor<Context = Context<A>>> Clone for Child<A> {
    fn clone(&self) -> Self {
        Self {
            slot: self.slot.clone(),
            factory: self.factory.clone(),
            tally: self.tally.clone(),
            policy: self.policy,
            stall_limit: self.stall_limit,
            place: self.place.clone(),
        }
    }
}

/// A child whose type its supervisor need not know.
pub(super) trait Post: Send {
    fn name(&self) -> &Arc<str>;
    fn policy(&self) -> Policy;
    fn stall_limit(&self) -> Option<Duration>;
    fn bound(&self) -> usize;
    fn tally(&self) -> &Tally;
    /// The last generation that sat there, under this supervisor or an earlier one.
    fn generation(&self) -> u64;
    /// Makes a fresh instance and seats it.
    fn start(&mut self, supervisor: Option<Addr<Supervisor>>, id: ChildId, generation: u64);
    /// The current generation, until the seat is vacated.
    fn life(&self) -> Option<Arc<Life>>;
    /// Turns away from the current generation, and from its thread if that is its own.
    fn abandon(&mut self, cause: Cause);
    fn vacate(&mut self, absence: Absence);
}

/// A child under its supervisor.
pub(super) struct Staffed<A: Actor<Context = Context<A>>> {
    child: Child<A>,
    /// The thread of a child that has its own; kept while its generations end in order.
    thread: Option<Arbiter>,
}

impl<A: Actor<Context = Context<A>>> Staffed<A> {
    pub fn new(child: Child<A>) -> Self {
        Self {
            child,
            thread: None,
        }
    }

    /// Where to run, or nothing if there is no such place any more.
    fn place(&mut self) -> Option<ArbiterHandle> {
        match &self.child.place {
            Place::Beside => Arbiter::try_current(),
            Place::On(arbiter) => Some(arbiter.clone()),
            Place::OwnThread => {
                if !self.thread.as_ref().is_some_and(Arbiter::alive) {
                    self.thread = Arbiter::try_new().ok();
                }
                self.thread.as_ref().map(Arbiter::handle)
            }
        }
    }

    fn release_thread(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Not joined: it may be blocked. It ends when what runs on it yields.
            thread.stop();
        }
    }
}

impl<A: Actor<Context = Context<A>>> Post for Staffed<A> {
    fn name(&self) -> &Arc<str> {
        &self.child.slot.name
    }

    fn policy(&self) -> Policy {
        self.child.policy
    }

    fn stall_limit(&self) -> Option<Duration> {
        self.child.stall_limit
    }

    fn bound(&self) -> usize {
        self.child.slot.bound
    }

    fn tally(&self) -> &Tally {
        &self.child.tally
    }

    fn generation(&self) -> u64 {
        match &*self.child.slot.seat.borrow() {
            Seat::Taken(line) => line.life.generation,
            Seat::Vacant { generation, .. } => *generation,
        }
    }

    fn start(&mut self, supervisor: Option<Addr<Supervisor>>, id: ChildId, generation: u64) {
        let factory = self.child.factory.clone();
        let slot = self.child.slot.clone();
        let tally = self.child.tally.clone();
        let make = Box::new(move || factory());
        let launch = seat(&slot, tally, generation, supervisor, id, make);
        // Where there is no place, dropping the launch says so.
        if let Some(place) = self.place() {
            place.spawn_fn(move || drop(actix::spawn(Driver::new(launch))));
        }
    }

    fn life(&self) -> Option<Arc<Life>> {
        match &*self.child.slot.seat.borrow() {
            Seat::Taken(line) => Some(line.life.clone()),
            Seat::Vacant { .. } => None,
        }
    }

    fn abandon(&mut self, cause: Cause) {
        if let Some(life) = self.life() {
            life.abandon(cause);
        }
        self.release_thread();
    }

    fn vacate(&mut self, absence: Absence) {
        if absence == Absence::Stopped {
            self.release_thread();
        }
        let generation = self.generation();
        // Waiters hear it outside of any lock of ours.
        drop(self.child.slot.seat.send_replace(Seat::Vacant {
            generation,
            absence,
        }));
    }
}

/// Opens a mailbox for a generation and seats it: peers can write before it runs.
pub(super) fn seat<A: Actor<Context = Context<A>>>(
    slot: &Slot<A>,
    tally: Arc<Tally>,
    generation: u64,
    supervisor: Option<Addr<Supervisor>>,
    id: ChildId,
    make: super::driver::Make<A>,
) -> Launch<A> {
    // 0: no bound of actix's; `Life::room` bounds what peers send.
    let (sender, receiver) = channel(0);
    let life = Life::new(slot.name.clone(), generation, slot.bound, tally);
    let lifeline = Lifeline::new(supervisor, id, life.clone());
    drop(
        slot.seat
            .send_replace(Seat::Taken(Arc::new(Line { sender, life }))),
    );
    Launch {
        lifeline,
        make,
        receiver,
    }
}

/// Runs an actor without a supervisor above it: the root of a tree. Where there
/// is no arbiter to run it on, the handle says that it is down.
pub(super) fn start_root<A>(name: &str, actor: A, place: Option<ArbiterHandle>) -> ChildRef<A>
where
    A: Actor<Context = Context<A>> + Send,
{
    let slot = slot(name, MAILBOX);
    let launch = seat(&slot, Arc::default(), 1, None, 0, Box::new(move || actor));
    if let Some(place) = place {
        place.spawn_fn(move || drop(actix::spawn(Driver::new(launch))));
    }
    ChildRef(slot)
}

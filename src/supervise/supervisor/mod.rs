//! The supervisor: an actor that carries out what its state machine decides.

mod commands;

pub use commands::{AddChild, GetChildren, ReleaseChild, RemoveChild, ShutDown};

use super::cause::millis;
use super::child::{Post, Staffed, start_root};
use super::health::{Sign, Watch};
use super::life::Life;
use super::machine::{ChildId, Effect, Input, Machine, Member, Phase};
use super::panics::contain;
use super::reference::Absence;
use super::{
    CallError, Cause, Child, ChildRef, ChildSnapshot, ChildState, Context, Notice, Spent, Strategy,
};
use actix::{
    Actor, ActorContext, Arbiter, ArbiterHandle, AsyncContext, Handler, Message, Running,
    SpawnHandle,
};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Starts its children in order, replaces those that fail, and stops them in reverse.
///
/// It is an actor like any other: it can be the child of another supervisor, to which it
/// escalates by failing. See the [module](super) for an example.
pub struct Supervisor {
    name: String,
    strategy: Strategy,
    spent: Spent,
    seed: u64,
    check_every: Duration,
    on_notice: Box<dyn Fn(Notice) + Send>,
    machine: Machine,
    entries: Vec<Entry>,
    /// Generations that were abandoned and may still hold their threads.
    left_behind: Vec<Arc<Life>>,
    next_id: ChildId,
    epoch: Instant,
    timer: Option<SpawnHandle>,
    checking: bool,
    closed: bool,
}

struct Entry {
    id: ChildId,
    post: Box<dyn Post>,
    watch: Watch,
}

impl Supervisor {
    /// A supervisor without children: one for one, quarantine, seed 0.
    pub fn new(name: &str) -> Self {
        let (strategy, spent, seed) = (Strategy::OneForOne, Spent::Quarantine, 0);
        Self {
            name: name.to_owned(),
            strategy,
            spent,
            seed,
            check_every: Duration::from_millis(250),
            on_notice: Box::new(drop),
            machine: Machine::new(strategy, spent, seed),
            entries: Vec::new(),
            left_behind: Vec::new(),
            next_id: 1,
            epoch: Instant::now(),
            timer: None,
            checking: false,
            closed: false,
        }
    }

    /// Whom a failing child takes along. Where children fall together their failures
    /// count together; under one-for-one each child is counted alone.
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// What happens when a child's intensity is spent.
    #[must_use]
    pub fn spent(mut self, spent: Spent) -> Self {
        self.spent = spent;
        self
    }

    /// The seed of the jitter in back-offs.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How often children are checked for progress: a hang is found at the latest this
    /// long after its limit.
    #[must_use]
    pub fn check_every(mut self, period: Duration) -> Self {
        self.check_every = period;
        self
    }

    /// Who hears the facts. Runs on the supervisor's thread, so it must be quick; what it
    /// panics with is ignored.
    #[must_use]
    pub fn on_notice(mut self, listener: impl Fn(Notice) + Send + 'static) -> Self {
        self.on_notice = Box::new(listener);
        self
    }

    /// Adds a child, to be started after those added before. Two of one name make the
    /// supervisor fail when it starts.
    pub fn add<A: Actor<Context = Context<A>>>(&mut self, child: Child<A>) -> ChildRef<A> {
        let handle = child.handle();
        self.enlist(Box::new(Staffed::new(child)));
        handle
    }

    /// Starts it as the root of a tree, on the current arbiter, and waits until its
    /// children have been sent for.
    ///
    /// # Errors
    /// [`CallError::Down`] when there is no arbiter, or two children have one name.
    pub async fn start(self) -> Result<ChildRef<Supervisor>, CallError> {
        self.start_at(Arbiter::try_current()).await
    }

    /// As [`Supervisor::start`], on `arbiter`.
    ///
    /// # Errors
    /// As [`Supervisor::start`].
    pub async fn start_on(self, arbiter: ArbiterHandle) -> Result<ChildRef<Supervisor>, CallError> {
        self.start_at(Some(arbiter)).await
    }

    async fn start_at(
        self,
        place: Option<ArbiterHandle>,
    ) -> Result<ChildRef<Supervisor>, CallError> {
        let root = start_root(&self.name.clone(), self, place);
        root.send(GetChildren).await?;
        Ok(root)
    }

    fn enlist(&mut self, post: Box<dyn Post>) -> ChildId {
        let id = self.next_id;
        self.next_id += 1;
        self.entries.push(Entry {
            id,
            post,
            watch: Watch::default(),
        });
        id
    }

    fn introduce(&mut self, id: ChildId, ctx: &mut Context<Self>) {
        let Some(entry) = self.entries.iter().find(|entry| entry.id == id) else {
            return;
        };
        let add = Input::Add {
            id,
            name: entry.post.name().clone(),
            policy: entry.post.policy(),
            generation: entry.post.generation(),
        };
        if entry.post.stall_limit().is_some() && !self.checking {
            self.checking = true;
            ctx.run_interval(self.check_every, Self::check);
        }
        self.feed(add, ctx);
    }

    fn id_of(&self, name: &str) -> Option<ChildId> {
        let entry = self.entries.iter().find(|e| **e.post.name() == *name)?;
        Some(entry.id)
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn feed(&mut self, input: Input, ctx: &mut Context<Self>) {
        for effect in self.machine.step(self.now(), input) {
            self.perform(effect, ctx);
        }
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        self.timer = self.machine.next_deadline().map(|at| {
            ctx.run_later(at.saturating_sub(self.now()), |this, ctx| {
                this.timer = None;
                this.feed(Input::Tick, ctx);
            })
        });
    }

    fn perform(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        let post = |entries: &mut Vec<Entry>, id, act: &mut dyn FnMut(&mut dyn Post)| {
            if let Some(entry) = entries.iter_mut().find(|entry| entry.id == id) {
                act(entry.post.as_mut());
            }
        };
        match effect {
            Effect::Start { id, generation } => post(&mut self.entries, id, &mut |post| {
                post.start(Some(ctx.address()), id, generation);
            }),
            Effect::Stop { id } => post(&mut self.entries, id, &mut |post| {
                if let Some(life) = post.life() {
                    life.stop();
                }
            }),
            Effect::Abandon { id, cause } => {
                let left_behind = &mut self.left_behind;
                post(&mut self.entries, id, &mut |post| {
                    left_behind.extend(post.life());
                    post.abandon(cause.clone());
                });
            }
            Effect::Vacate { id, absence } => post(&mut self.entries, id, &mut |post| {
                post.vacate(absence.clone());
            }),
            Effect::Forget { id } => self.entries.retain(|entry| entry.id != id),
            Effect::Notify(notice) => contain(|| (self.on_notice)(notice)),
            Effect::Closed { escalated } => {
                self.closed = true;
                match escalated {
                    Some(cause) => ctx.fail_with(cause),
                    None => ctx.stop(),
                }
            }
        }
    }

    fn observe(&mut self) {
        let now = self.now();
        for entry in &mut self.entries {
            let sign = entry.post.life().map(|life| Sign::of(&life));
            entry.watch.observe(now, sign);
        }
    }

    fn check(&mut self, ctx: &mut Context<Self>) {
        self.observe();
        self.left_behind.retain(|life| life.abandoned());
        let left_behind = self.left_behind.iter().filter_map(|life| life.holds());
        let seated = self.entries.iter().filter_map(|entry| entry.watch.blocks());
        let blocked: Vec<_> = left_behind.chain(seated).collect();
        let mut hung = Vec::new();
        for entry in &mut self.entries {
            if let Some(limit) = entry.post.stall_limit()
                && let Some((generation, cause)) = entry.watch.judge(limit, &blocked)
            {
                hung.push((entry.id, generation, cause));
            }
        }
        for (id, generation, cause) in hung {
            let input = Input::Hung {
                id,
                generation,
                cause,
            };
            self.feed(input, ctx);
        }
    }

    fn snapshot(&self, member: &Member) -> Option<ChildSnapshot> {
        let entry = self.entries.iter().find(|entry| entry.id == member.id)?;
        let now = self.now();
        let ago = now.saturating_sub(member.since);
        let since = SystemTime::now().checked_sub(ago).unwrap_or(UNIX_EPOCH);
        let state = match member.phase {
            Phase::Waiting => ChildState::Waiting,
            Phase::Starting => ChildState::Starting,
            Phase::Running => ChildState::Running,
            Phase::Stopping { .. } => ChildState::Stopping,
            Phase::BackingOff { until } => ChildState::BackingOff {
                remaining_ms: millis(until.saturating_sub(now)),
            },
            Phase::Quarantined => ChildState::Quarantined,
            Phase::Stopped => ChildState::Stopped,
        };
        let (post, tally) = (&entry.post, entry.post.tally());
        let life = post.life();
        Some(ChildSnapshot {
            name: member.name.to_string(),
            state,
            since_unix_ms: since.duration_since(UNIX_EPOCH).map_or(0, millis),
            stands_ms: millis(ago),
            generation: member.generation,
            restarts: member.restarts(),
            last_cause: member.last.clone(),
            first_cause: member.first.clone(),
            mailbox_depth: life.as_ref().map_or(0, |life| life.depth()),
            mailbox_bound: post.bound(),
            messages_lost: tally.lost.load(Relaxed),
            progress: life.map_or(0, |life| life.progress.load(Relaxed)),
            stalled_ms: millis(entry.watch.stalled()),
            stall_limit_ms: post.stall_limit().map(millis),
            abandoned: tally.abandoned.load(Relaxed),
        })
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.machine = Machine::new(self.strategy, self.spent, self.seed);
        self.epoch = Instant::now();
        let ids: Vec<_> = self.entries.iter().map(|entry| entry.id).collect();
        for (i, entry) in self.entries.iter().enumerate() {
            if self.entries[..i]
                .iter()
                .any(|e| e.post.name() == entry.post.name())
            {
                self.closed = true;
                return ctx.fail(format_args!(
                    "two children are called {}",
                    entry.post.name()
                ));
            }
        }
        for id in ids {
            self.introduce(id, ctx);
        }
    }

    /// Stops the children first.
    fn stopping(&mut self, ctx: &mut Context<Self>) -> Running {
        if !self.closed {
            self.feed(Input::Close, ctx);
        }
        match self.closed {
            true => Running::Stop,
            false => Running::Continue,
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // After an orderly end nobody sits there any more.
        for entry in self.entries.iter_mut().filter(|e| e.post.life().is_some()) {
            entry.post.abandon(Cause::Orphaned);
            entry.post.vacate(Absence::Down {
                cause: Some(Cause::Orphaned),
            });
        }
    }
}

/// A generation ran its `started`.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct ChildStarted {
    pub id: ChildId,
    pub generation: u64,
}

impl Handler<ChildStarted> for Supervisor {
    type Result = ();

    fn handle(&mut self, fact: ChildStarted, ctx: &mut Context<Self>) {
        let ChildStarted { id, generation } = fact;
        self.feed(Input::Started { id, generation }, ctx);
    }
}

/// A generation ended.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct ChildEnded {
    pub id: ChildId,
    pub generation: u64,
    pub cause: Cause,
}

impl Handler<ChildEnded> for Supervisor {
    type Result = ();

    fn handle(&mut self, fact: ChildEnded, ctx: &mut Context<Self>) {
        let ChildEnded {
            id,
            generation,
            cause,
        } = fact;
        let input = Input::Ended {
            id,
            generation,
            cause,
        };
        self.feed(input, ctx);
    }
}

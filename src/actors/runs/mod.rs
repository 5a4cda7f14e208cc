//! The supervisor of the runs: the queue, the workers, what they say, and what they are
//! told.
//!
//! Where a run stands is written in the store and nowhere else: every change is one
//! transaction, durable before anybody is told of it. Only a worker whose GPU is too hot or
//! whose run somebody ends is told at once (`owed`). What is kept here can be lost: a
//! supervisor that comes back finds the processes of its predecessor by the identity in the
//! store, waits until they have saved and ended, and goes on from their checkpoints.

mod command;
mod gpus;
mod hear;
mod heat;
mod leftover;
mod owed;
mod schedule;
mod sweeps;

pub(super) use command::tell;
pub use command::{Order, Submission, Told};
pub use gpus::GpuNews;
pub use sweeps::{SweepOrder, SweepSubmission};

use super::store::{StoreRef, write};
use super::trainer::{FromTrainer, Tell, Trainer};
use crate::config::daemon::DaemonConfig;
use crate::config::settings::Settings;
use crate::domain::gpu::Lease;
use crate::domain::run_state::{Answer, Command};
use crate::domain::{Process, RunId};
use crate::store::{Retention, Run, Tx};
use crate::supervise::Context;
use crate::system::clock::now_millis;
use actix::prelude::*;
use gpus::Known;
use hear::Heard;
use leftover::Leftover;
use owed::Owed;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// How often the queue and the leftover processes are looked at, besides whenever
/// something changed.
const LOOK: Duration = Duration::from_millis(250);

/// Between two attempts to write what could not be written.
const AGAIN: Duration = Duration::from_secs(1);

/// How often the sweeps look at their runs, besides whenever one ended or was told.
const SWEEPS: Duration = Duration::from_secs(2);

/// How often events that are over `events.keep` are forgotten.
const PRUNE: Duration = Duration::from_secs(10);

/// The actor.
pub struct Runs {
    store: StoreRef,
    /// The settings in use.
    config: Arc<DaemonConfig>,
    /// Where they come from.
    settings: watch::Receiver<Arc<DaemonConfig>>,
    state_dir: PathBuf,
    /// What every trainer gets a clone of.
    to_me: mpsc::Sender<FromTrainer>,
    heard: Heard,
    workers: BTreeMap<RunId, Worker>,
    /// Processes of an earlier daemon or supervisor.
    leftover: Vec<Leftover>,
    /// When a run's workers were lost, lately.
    lost: BTreeMap<RunId, VecDeque<Instant>>,
    /// Runs that wait before their next worker.
    not_before: BTreeMap<RunId, Instant>,
    /// What is known of the GPUs.
    gpus: Known,
    /// What the store does not know yet.
    owed: Owed,
    /// When what could not be written is tried again.
    again: Option<Instant>,
    /// Whether a look at the queue is under way.
    scheduling: bool,
    /// Set when the daemon ends: who is told when no worker is left.
    leaving: Option<Vec<oneshot::Sender<()>>>,
}

/// A worker at work.
struct Worker {
    trainer: Addr<Trainer>,
    life: u64,
    process: Option<Process>,
    lease: Option<Lease>,
    /// Its run, as far as that is known here: the store may say more.
    run: Run,
    /// Looks at which its trainer was gone; the last thing that it said may be on the way.
    gone: u32,
}

impl Worker {
    fn tell(&self, command: crate::protocol::Command) {
        self.trainer.do_send(Tell(command));
    }

    /// Takes its run for told `command`, before the store knows.
    fn foresee(&mut self, command: Command) {
        if let Answer::Applied(next) = self.run.state.on(command) {
            self.run.state = next;
        }
    }
}

impl Runs {
    /// A supervisor that finds its runs in `store`.
    pub fn new(store: StoreRef, settings: &Settings, state_dir: PathBuf) -> Self {
        let (to_me, from_trainers) = Trainer::queue();
        let mut settings = settings.watch();
        let config = settings.borrow_and_update().clone();
        Self {
            store,
            config,
            settings,
            state_dir,
            to_me,
            heard: Heard::from(from_trainers),
            workers: BTreeMap::new(),
            leftover: Vec::new(),
            lost: BTreeMap::new(),
            not_before: BTreeMap::new(),
            gpus: Known::default(),
            owed: Owed::default(),
            again: None,
            scheduling: false,
            leaving: None,
        }
    }

    fn tell(&self, run: RunId, command: crate::protocol::Command) {
        if let Some(worker) = self.workers.get(&run) {
            worker.tell(command);
        }
    }

    /// Takes the word of the store for a run, unless it lags behind.
    fn learn(&mut self, run: Run) {
        if self.owed.concerns(run.id) {
            return;
        }
        let worker = self.workers.get_mut(&run.id);
        if let Some(worker) = worker.filter(|worker| worker.life == run.life) {
            worker.run = run;
        }
    }

    fn try_again_soon(&mut self) {
        self.again.get_or_insert_with(|| Instant::now() + AGAIN);
    }

    /// Writes what could not be written, when it is time.
    fn try_again(&mut self, ctx: &mut Context<Self>) {
        if self.again.is_some_and(|at| Instant::now() >= at) {
            self.again = None;
            match self.owed.is_empty() {
                true => self.keep(ctx),
                false => self.heed(ctx),
            }
        }
    }
}

impl Actor for Runs {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.listen(ctx);
        self.find_leftover(ctx);
        ctx.run_interval(LOOK, |this, ctx| {
            if this.settings.has_changed().unwrap_or(false) {
                this.config = this.settings.borrow_and_update().clone();
            }
            this.try_again(ctx);
            this.look_at_trainers();
            this.look_at_leftover(ctx);
            this.schedule(ctx);
        });
        ctx.run_interval(SWEEPS, |this, ctx| this.advance_sweeps(ctx));
        ctx.run_interval(PRUNE, |this, ctx| this.prune(ctx));
    }
}

/// Save all runs and end; answered when no worker is left.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Leave;

impl Handler<Leave> for Runs {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Leave, _: &mut Self::Context) -> Self::Result {
        let (done, wait) = oneshot::channel();
        self.leaving.get_or_insert_default().push(done);
        for worker in self.workers.values() {
            worker.tell(crate::protocol::Command::Stop);
        }
        self.left();
        Box::pin(async move {
            let _ = wait.await;
        })
    }
}

impl Runs {
    /// Some of what is too old at a time: nobody waits long for the store.
    fn prune(&self, ctx: &mut Context<Self>) {
        let store = self.store.clone();
        let retention = Retention {
            count: self.config.events.keep,
            age: i64::MAX,
        };
        let pruned = async move {
            let prune = move |tx: &Tx<'_>| tx.prune_events(retention, now_millis());
            loop {
                match write(&store, prune).await {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) => return tracing::warn!("old events were not forgotten: {error}"),
                }
            }
        };
        ctx.spawn(pruned.into_actor(self));
    }

    /// Tells whoever waits for the last worker.
    fn left(&mut self) {
        if !self.workers.is_empty() {
            return;
        }
        for done in self.leaving.iter_mut().flat_map(std::mem::take) {
            let _ = done.send(());
        }
    }
}

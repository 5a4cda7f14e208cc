//! The supervisor of the runs: the queue, the workers, what they say, and what they are
//! told.
//!
//! Where a run stands is written in the store and nowhere else: every change is one
//! transaction, durable before anybody is told of it. What is kept here can be lost: a
//! supervisor that comes back finds the processes of its predecessor by the identity in the
//! store, waits until they have saved and ended, and goes on from their checkpoints.

mod command;
mod gpus;
mod hear;
mod leftover;
mod schedule;
mod sweeps;

pub use command::{Order, Submission, Told};
pub use gpus::GpuNews;
pub use sweeps::{SweepOrder, SweepSubmission};

use super::store::{StoreRef, write};
use super::trainer::{FromTrainer, Tell, Trainer};
use crate::config::daemon::DaemonConfig;
use crate::config::settings::Settings;
use crate::domain::gpu::Lease;
use crate::domain::{Process, RunId};
use crate::store::{Retention, Tx};
use crate::supervise::Context;
use crate::system::clock::now_millis;
use actix::prelude::*;
use futures_util::StreamExt;
use gpus::Known;
use leftover::Leftover;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;

/// Facts that are stored in one transaction.
const AT_ONCE: usize = 256;
/// How often the queue and the leftover processes are looked at, besides whenever
/// something changed.
const LOOK: Duration = Duration::from_millis(250);

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
    from_trainers: Option<mpsc::Receiver<FromTrainer>>,
    workers: BTreeMap<RunId, Worker>,
    /// Processes of an earlier daemon or supervisor.
    leftover: Vec<Leftover>,
    /// When a run's workers were lost, lately.
    lost: BTreeMap<RunId, VecDeque<Instant>>,
    /// Runs that wait before their next worker.
    not_before: BTreeMap<RunId, Instant>,
    /// What is known of the GPUs.
    gpus: Known,
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
    max_temperature: Option<f64>,
    /// Looks at which its trainer was gone; the last thing that it said may be on the way.
    gone: u32,
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
            from_trainers: Some(from_trainers),
            workers: BTreeMap::new(),
            leftover: Vec::new(),
            lost: BTreeMap::new(),
            not_before: BTreeMap::new(),
            gpus: Known::default(),
            scheduling: false,
            leaving: None,
        }
    }

    fn tell(&self, run: RunId, command: crate::protocol::Command) {
        if let Some(worker) = self.workers.get(&run) {
            worker.trainer.do_send(Tell(command));
        }
    }
}

impl Actor for Runs {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(heard) = self.from_trainers.take() {
            ctx.add_stream(ReceiverStream::new(heard).ready_chunks(AT_ONCE));
        }
        self.find_leftover(ctx);
        ctx.run_interval(LOOK, |this, ctx| {
            if this.settings.has_changed().unwrap_or(false) {
                this.config = this.settings.borrow_and_update().clone();
            }
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
            worker.trainer.do_send(Tell(crate::protocol::Command::Stop));
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

//! One run's worker: what is heard of it goes to the supervisor of the runs, and what the
//! run is told goes to it.

use super::worker::{Commands, Meaning, Says, Worker};
use crate::domain::RunId;
use crate::domain::worker_end::Said;
use crate::protocol::wire::{Begin, Start};
use crate::protocol::{Command, Fact, Frame};
use actix::prelude::*;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::Instrument;

pub use super::worker::Limits;

/// Facts on their way to the supervisor of the runs: a worker that says more at once waits,
/// and drops and counts its steps meanwhile.
const FACTS: usize = 256;
/// How often it is looked whether the supervisor of the runs is still there.
const LOOK: Duration = Duration::from_millis(500);

/// What a trainer tells the supervisor of the runs, in order.
pub type Heard = super::worker::Heard<Frame>;

/// A [`Heard`] of a run's worker in its `life`.
#[derive(Debug)]
pub struct FromTrainer {
    /// The run.
    pub run: RunId,
    /// Which of its workers.
    pub life: u64,
    /// What was heard.
    pub heard: Heard,
}

/// Tell the worker.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Tell(pub Command);

/// The actor.
pub struct Trainer {
    run: RunId,
    life: u64,
    /// Taken when it is started.
    worker: Option<Worker>,
    commands: Commands,
    /// In order and with a bound: a full queue holds the worker's pipe back.
    boss: mpsc::Sender<FromTrainer>,
}

impl Trainer {
    /// A trainer for `run` in its `life`, on the GPU `device` where it was given one, which
    /// tells `boss` what it hears.
    pub fn new(
        run: RunId,
        life: u64,
        start: Start,
        device: Option<String>,
        limits: Limits,
        boss: mpsc::Sender<FromTrainer>,
    ) -> Self {
        let (worker, commands) = Worker::new(format!("run {run}"), Begin::Train(start), limits);
        Self {
            run,
            life,
            worker: Some(worker.on_device(device)),
            commands,
            boss,
        }
    }

    /// A queue for what trainers hear, with the bound that it should have.
    pub fn queue() -> (mpsc::Sender<FromTrainer>, mpsc::Receiver<FromTrainer>) {
        mpsc::channel(FACTS)
    }
}

impl Says for Frame {
    fn meaning(&self) -> Meaning {
        match &self.fact {
            Fact::Paused { .. } => Meaning::Paused,
            Fact::Resumed { .. } => Meaning::Resumed,
            Fact::RunCompleted(_) => Meaning::Last(Said::Completed),
            Fact::EarlyStopped(_) => Meaning::Last(Said::EarlyStopped),
            Fact::Stopped(_) => Meaning::Last(Said::Stopped),
            Fact::Aborted(_) => Meaning::Last(Said::Aborted),
            Fact::RunFailed { code, message, .. } => Meaning::Last(Said::Failed {
                code: code.clone(),
                message: message.clone(),
            }),
            _ => Meaning::AtWork,
        }
    }
}

impl Actor for Trainer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (run, life, boss) = (self.run, self.life, self.boss.clone());
        if let Some(worker) = self.worker.take() {
            let lived = worker.live(move |heard| {
                let boss = boss.clone();
                async move {
                    if boss.send(FromTrainer { run, life, heard }).await.is_err() {
                        tracing::warn!(%run, "nobody listens to the worker any more");
                    }
                }
            });
            let lived = lived.instrument(tracing::info_span!("run", id = %run, life));
            ctx.spawn(lived.into_actor(self).map(|(), _, ctx| ctx.stop()));
        }
        ctx.run_interval(LOOK, |this, ctx| {
            // The supervisor of the runs is gone. The next one waits for this process, which
            // saves and ends when its input does.
            if this.boss.is_closed() {
                ctx.stop();
            }
        });
    }
}

impl Handler<Tell> for Trainer {
    type Result = ();

    fn handle(&mut self, Tell(command): Tell, _: &mut Self::Context) {
        if self.commands.try_send(command).is_err() {
            tracing::warn!(run = %self.run, "the worker does not take commands");
        }
    }
}

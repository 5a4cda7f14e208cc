//! What the workers say, into the store and out to whoever listens.

use super::Runs;
use super::command::of_worker;
use super::heat::emergency;
use crate::actors::store::{read, write};
use crate::actors::trainer::{self, FromTrainer};
use crate::domain::run_state::{Report, RunState};
use crate::domain::worker_end::{WorkerEnd, process_error};
use crate::domain::{Error, Result, RunId};
use crate::protocol::{Fact, Frame};
use crate::store::{Failure, Tx};
use crate::supervise::Context;
use crate::system::clock::now_millis;
use actix::prelude::*;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Facts that are stored in one transaction.
const AT_ONCE: usize = 256;
/// Before the first restart of a lost worker; doubled for each further one.
const BACK_OFF: Duration = Duration::from_secs(1);
/// The longest wait before a restart.
const LONGEST: Duration = Duration::from_secs(60);

/// Something heard, with what follows from it.
struct Item {
    heard: FromTrainer,
    /// For a lost worker: whether the run gets another one, and when.
    again: Option<Duration>,
}

/// What workers say, on its way into the store. Until it is there they are held back, and
/// nothing further is taken; what they are told does not wait for that.
pub(super) struct Heard {
    from: Option<mpsc::Receiver<FromTrainer>>,
    /// Taken and not stored.
    items: Option<Arc<Vec<Item>>>,
    storing: bool,
}

impl From<mpsc::Receiver<FromTrainer>> for Heard {
    fn from(from: mpsc::Receiver<FromTrainer>) -> Self {
        Self {
            from: Some(from),
            items: None,
            storing: false,
        }
    }
}

impl Runs {
    /// Takes what workers say next.
    pub(super) fn listen(&mut self, ctx: &mut Context<Self>) {
        let Some(mut from) = self.heard.from.take() else {
            return;
        };
        let heard = async move {
            let mut heard = Vec::new();
            from.recv_many(&mut heard, AT_ONCE).await;
            (from, heard)
        };
        ctx.spawn(heard.into_actor(self).map(|(from, heard), this, ctx| {
            this.heard.from = Some(from);
            let items = heard.into_iter().map(|heard| Item {
                again: match &heard.heard {
                    trainer::Heard::Ended(WorkerEnd::Lost(_)) => this.another(heard.run),
                    _ => None,
                },
                heard,
            });
            this.heard.items = Some(Arc::new(items.collect()));
            this.keep(ctx);
        }));
    }

    /// Whether a run that lost its worker gets another one, and after how long.
    fn another(&mut self, run: RunId) -> Option<Duration> {
        let workers = &self.config.workers;
        let period = Duration::from_secs(workers.restart_period_seconds);
        let now = Instant::now();
        let lost = self.lost.entry(run).or_default();
        lost.retain(|at| now - *at < period);
        lost.push_back(now);
        let count = u32::try_from(lost.len()).unwrap_or(u32::MAX);
        let wait = BACK_OFF
            .saturating_mul(1 << (count - 1).min(10))
            .min(LONGEST);
        (count <= workers.restarts).then_some(wait)
    }

    /// Stores what was taken, after what is owed: what a worker was told stands before what it
    /// says then.
    pub(super) fn keep(&mut self, ctx: &mut Context<Self>) {
        let Some(items) = self.heard.items.clone().filter(|_| !self.heard.storing) else {
            return;
        };
        if !self.owed.is_empty() {
            // It comes back here.
            return self.heed(ctx);
        }
        self.heard.storing = true;
        let (store, kept) = (self.store.clone(), items.clone());
        let leaving = self.leaving.is_some();
        let written = async move {
            write(&store, move |tx| {
                kept.iter()
                    .try_for_each(|item| store_item(tx, item, leaving))
            })
            .await
        };
        ctx.spawn(written.into_actor(self).map(move |written, this, ctx| {
            this.heard.storing = false;
            if let Err(error) = written {
                tracing::error!("what workers say cannot be stored yet: {error}");
                return this.try_again_soon();
            }
            this.heard.items = None;
            for item in items.iter() {
                this.follow(&item.heard, item.again, ctx);
            }
            this.listen(ctx);
        }));
    }

    /// What follows from something that is stored.
    fn follow(&mut self, heard: &FromTrainer, again: Option<Duration>, ctx: &mut Context<Self>) {
        match &heard.heard {
            trainer::Heard::Spawned(process) => {
                if let Some(worker) = self.workers.get_mut(&heard.run) {
                    worker.process = Some(process.clone());
                }
                self.remind(heard.run, ctx);
            }
            trainer::Heard::Frame(_) => {}
            trainer::Heard::Ended(end) => self.ended(heard.run, heard.life, end, again, ctx),
        }
    }

    /// Tells a worker that is there now what its run was told before.
    pub(super) fn remind(&self, run: RunId, ctx: &mut Context<Self>) {
        let store = self.store.clone();
        let found = async move { read(&store, move |view| view.run(run)).await };
        ctx.spawn(found.into_actor(self).map(move |found, this, _| {
            let Ok(found) = found else { return };
            if let Some(command) = of_worker(&found) {
                this.tell(run, command);
            }
            this.learn(found);
        }));
    }

    fn ended(
        &mut self,
        run: RunId,
        life: u64,
        end: &WorkerEnd,
        again: Option<Duration>,
        ctx: &mut Context<Self>,
    ) {
        if self
            .workers
            .get(&run)
            .is_some_and(|worker| worker.life == life)
        {
            self.workers.remove(&run);
        }
        match end {
            WorkerEnd::Lost(error) => {
                tracing::warn!(%run, life, "the worker is lost: {error}");
                if let Some(wait) = again {
                    self.not_before.insert(run, Instant::now() + wait);
                }
            }
            WorkerEnd::Said(_) => {
                self.lost.remove(&run);
                tracing::info!(%run, life, "the worker has ended");
            }
        }
        self.left();
        self.advance_sweeps(ctx);
        self.schedule(ctx);
    }
}

fn store_item(tx: &Tx<'_>, item: &Item, leaving: bool) -> Result<()> {
    let (run, life, now) = (item.heard.run, item.heard.life, now_millis());
    match &item.heard.heard {
        trainer::Heard::Spawned(process) => tx.set_worker(run, life, process).map(|_| ()),
        trainer::Heard::Frame(frame) => {
            if let Fact::RunFailed { code, .. } = &frame.fact
                && process_error(code).is_some()
            {
                // Its end says what follows: the run itself need not fail.
                return Ok(());
            }
            if let Fact::Stopped(ending) = &frame.fact
                && let Some(failure) = emergency(&tx.run(run)?)
            {
                let fact = Fact::Aborted(ending.clone());
                let _ = tx.record(
                    run,
                    life,
                    &Frame {
                        fact,
                        ..(**frame).clone()
                    },
                    now,
                )?;
                return tx.set_failure(run, &failure);
            }
            // A daemon that ends stops its workers; nobody asked for the runs to end.
            let suspends = leaving
                && matches!(frame.fact, Fact::Stopped(_))
                && tx.run(run)?.state != RunState::Stopping;
            if suspends {
                let _ = tx.apply(run, Report::Lost, now)?;
                return own(
                    tx,
                    run,
                    "suspended",
                    "saved; it goes on when the daemon is back",
                );
            }
            match tx.record(run, life, frame, now) {
                Ok(_) => Ok(()),
                // A worker that says what cannot be must not hold up the others.
                Err(error) if error.code.is_of_the_disk() => Err(error),
                Err(error) => {
                    tracing::error!(%run, "a fact was not stored: {error}");
                    Ok(())
                }
            }
        }
        trainer::Heard::Ended(end) => store_end(tx, run, end, item.again, leaving),
    }
}

fn store_end(
    tx: &Tx<'_>,
    run: RunId,
    end: &WorkerEnd,
    again: Option<Duration>,
    leaving: bool,
) -> Result<()> {
    let now = now_millis();
    let WorkerEnd::Lost(error) = end else {
        // Its last fact moved the run already, unless it could not be stored.
        return tx.apply(run, end.report(), now).map(|_| ());
    };
    // One that was told to end before it had begun goes without a word.
    let before = tx.run(run)?;
    let told = before
        .state
        .unanswered()
        .is_some_and(|command| command.ends());
    if !(leaving || told) && again.is_none() {
        return give_up(tx, run, error);
    }
    let _ = tx.apply(run, Report::Lost, now)?;
    if let Some(failure) = emergency(&before) {
        tx.set_failure(run, &failure)?;
    }
    match tx.run(run)?.state {
        state if state.has_ended() => own(tx, run, state.as_str(), "before it had begun"),
        RunState::Queued if leaving => {
            own(tx, run, "suspended", "it goes on when the daemon is back")
        }
        RunState::Queued => {
            let wait = again.unwrap_or_default().as_secs();
            own(
                tx,
                run,
                "worker_lost",
                &format!("{error}; it goes on in {wait} s"),
            )
        }
        _ => own(
            tx,
            run,
            "worker_lost",
            &format!("{error}; it waits to be resumed"),
        ),
    }
}

/// Fails a run whose workers were lost too often.
fn give_up(tx: &Tx<'_>, run: RunId, error: &Error) -> Result<()> {
    let now = now_millis();
    let error = error
        .clone()
        .hint("`retry` goes on from the newest checkpoint");
    let failed = Failure {
        code: error.code.as_str().to_owned(),
        message: error.to_string(),
    };
    let _ = tx.fail_run(run, &failed, now)?;
    let fact = Fact::failed(tx.run(run)?.progress.step, &error);
    tx.append_fact(Some(run), &fact, now).map(|_| ())
}

/// An event of the daemon itself.
pub(super) fn own(tx: &Tx<'_>, run: RunId, kind: &str, message: &str) -> Result<()> {
    let fields = json!({ "message": message });
    tx.append(Some(run), kind, &fields, now_millis())
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::trainer::Heard;
    use crate::domain::Code;
    use crate::domain::worker_end::{Remains, Said};
    use crate::store::{NewRun, Store};

    /// A worker of `run` in its first life.
    fn heard(run: RunId, heard: Heard) -> Item {
        Item {
            heard: FromTrainer {
                run,
                life: 1,
                heard,
            },
            again: Some(Duration::from_secs(1)),
        }
    }

    /// behaviour: train-12
    #[test]
    fn an_error_of_the_gpu_costs_the_worker_and_not_the_run() {
        for (code, exit) in [(Code::DevicePoisoned, 64), (Code::DeviceLost, 65)] {
            let dir = tempfile::tempdir().unwrap();
            let (mut store, _) = Store::open(dir.path(), 0).unwrap();
            let error = Error::new(code, "GPU 0", "CUDA error 700");
            let fact = Fact::failed(3, &error);
            let frame = Frame {
                v: crate::protocol::VERSION,
                seq: 1,
                run: "a".into(),
                fact,
            };
            let said = Said::Failed {
                code: code.as_str().into(),
                message: error.to_string(),
            };
            let remains = Remains {
                said: Some(said),
                exit: Some(exit),
                ..Remains::default()
            };
            let run = store
                .write(|tx| {
                    let run = tx.submit(&NewRun::new("a", ""), None, 0)?.run;
                    let _ = tx.apply(run, Report::Given, 0)?;
                    store_item(tx, &heard(run, Heard::Frame(Box::new(frame))), false)?;
                    assert_eq!(tx.run(run)?.state, RunState::Starting);
                    store_item(tx, &heard(run, Heard::Ended(remains.end())), false)?;
                    tx.run(run)
                })
                .unwrap();
            assert_eq!((run.state, run.failure), (RunState::Queued, None));
            let events = store.view().events(0, None, 10).unwrap().events;
            let last = events.last().unwrap();
            assert_eq!(last.kind, "worker_lost");
            assert!(last.payload.contains(code.as_str()) && last.payload.contains("700"));
        }
    }
}

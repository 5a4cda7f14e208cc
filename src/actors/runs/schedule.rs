//! Which runs get a worker.

use super::gpus::Places;
use super::{Runs, Worker};
use crate::actors::store::write;
use crate::actors::trainer::{Limits, Trainer};
use crate::domain::gpu::Lease;
use crate::domain::run_state::{Answer, Report};
use crate::domain::{DeviceName, Result, RunId};
use crate::protocol::VERSION;
use crate::protocol::wire::Start;
use crate::store::{Run, Tx};
use crate::supervise::Context;
use crate::system::clock::now_millis;
use actix::prelude::*;
use std::collections::BTreeSet;
use std::time::Instant;

/// Runs that are looked at for one that need not wait any longer.
const QUEUE: u32 = 1000;

/// A run that was given to a worker.
struct Given {
    run: Run,
    toml: String,
    lease: Option<Lease>,
}

impl Runs {
    /// Starts what the limit allows.
    pub(super) fn schedule(&mut self, ctx: &mut Context<Self>) {
        let used = self.workers.len() + self.leftover.len();
        let free = self.config.workers.limit.saturating_sub(used);
        if free == 0 || self.scheduling || self.leaving.is_some() {
            return;
        }
        let places = match self.gpus.places(self.config.workers.device, &self.taken()) {
            Places::Unneeded => vec![None; free],
            Places::These(leases) => leases.into_iter().take(free).map(Some).collect(),
        };
        if places.is_empty() {
            return;
        }
        let now = Instant::now();
        self.not_before.retain(|_, until| *until > now);
        // One that goes on at once after it ended may still have its old process.
        let held_up = self.not_before.keys().chain(self.workers.keys());
        let waiting: BTreeSet<RunId> = held_up.copied().collect();
        let store = self.store.clone();
        self.scheduling = true;
        let given = async move { write(&store, move |tx| give(tx, places, &waiting)).await };
        ctx.spawn(given.into_actor(self).map(|given, this, _| {
            this.scheduling = false;
            match given {
                Ok(given) => given.into_iter().for_each(|given| this.start(given)),
                Err(error) => tracing::error!("no run can be started: {error}"),
            }
        }));
    }

    fn start(&mut self, given: Given) {
        let workers = &self.config.workers;
        let device = match (&given.lease, workers.device) {
            // It sees no other GPU.
            (Some(_), DeviceName::Cuda(_)) => DeviceName::Cuda(0),
            (_, device) => device,
        };
        let start = Start {
            v: VERSION,
            run_toml: given.toml,
            device,
            threads: workers.threads,
            memory_mib: workers.memory_mib,
            runs_per_gpu: self.config.gpus.runs_per_gpu,
        };
        let limits = Limits {
            hang: workers.hang(),
            stop: workers.stop(),
        };
        let (run, life) = (given.run.id, given.run.life);
        tracing::info!(%run, life, "starting a worker");
        let device = given.lease.as_ref().map(|lease| lease.device.clone());
        let trainer = Trainer::new(run, life, start, device, limits, self.to_me.clone()).start();
        self.workers.insert(
            run,
            Worker {
                trainer,
                life,
                process: None,
                lease: given.lease,
                run: given.run,
                gone: 0,
            },
        );
        if self.leaving.is_some() {
            self.tell(run, crate::protocol::Command::Stop);
        }
    }
}

fn give(tx: &Tx<'_>, places: Vec<Option<Lease>>, waiting: &BTreeSet<RunId>) -> Result<Vec<Given>> {
    let queue = tx.queue(QUEUE)?;
    let ready = queue.iter().filter(|run| !waiting.contains(&run.id));
    let mut given = Vec::new();
    for (run, lease) in ready.zip(places) {
        if let Answer::Applied(_) = tx.apply(run.id, Report::Given, now_millis())? {
            if let Some(lease) = &lease {
                tx.set_lease(run.id, lease)?;
            }
            given.push(Given {
                run: tx.run(run.id)?,
                toml: tx.run_config(run.id)?.toml,
                lease,
            });
        }
    }
    Ok(given)
}

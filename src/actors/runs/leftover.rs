//! Processes of a daemon that is gone. Each has lost its standard input, so it saves and
//! ends by itself; a run gets another worker only after that.

use super::Runs;
use crate::actors::store::{read, write};
use crate::domain::gpu::Lease;
use crate::domain::run_state::Report;
use crate::domain::{Process, RunId};
use crate::supervise::Context;
use crate::system::clock::now_millis;
use actix::prelude::*;
use std::time::Instant;

/// Looks after which a trainer that is gone has nothing more to say: a second.
const GONE: u32 = 4;

/// A run that an earlier daemon had given to a worker.
pub struct Leftover {
    run: RunId,
    process: Option<Process>,
    pub(super) lease: Option<Lease>,
    /// When it is killed.
    deadline: Instant,
}

impl Runs {
    pub(super) fn find_leftover(&mut self, ctx: &mut Context<Self>) {
        let store = self.store.clone();
        let found = async move { read(&store, |view| view.runs_with_worker()).await };
        // Nothing is started before it is known what runs already.
        ctx.wait(found.into_actor(self).map(|found, this, ctx| {
            let deadline = Instant::now() + this.config.workers.stop();
            match found {
                Ok(runs) => this.leftover.extend(runs.into_iter().map(|run| Leftover {
                    run: run.id,
                    process: run.worker,
                    lease: run.lease,
                    deadline,
                })),
                Err(error) => {
                    tracing::error!("runs cannot be read: {error}");
                    ctx.run_later(super::LOOK, |this, ctx| this.find_leftover(ctx));
                }
            }
            this.look_at_leftover(ctx);
        }));
    }

    /// A trainer that is gone without a last word, as after a panic, leaves a process behind
    /// that has lost its input.
    pub(super) fn look_at_trainers(&mut self) {
        let deadline = Instant::now() + self.config.workers.stop();
        let Self {
            workers, leftover, ..
        } = self;
        workers.retain(|run, worker| {
            worker.gone += u32::from(!worker.trainer.connected());
            if worker.gone < GONE {
                return true;
            }
            tracing::error!(%run, "its trainer is gone; waiting for its process");
            leftover.push(Leftover {
                run: *run,
                process: worker.process.take(),
                lease: worker.lease.take(),
                deadline,
            });
            false
        });
    }

    pub(super) fn look_at_leftover(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let mut gone = Vec::new();
        self.leftover.retain(|leftover| match &leftover.process {
            Some(process) if process.is_alive() => {
                if now >= leftover.deadline {
                    process.kill();
                }
                true
            }
            _ => {
                gone.push(leftover.run);
                false
            }
        });
        if gone.is_empty() {
            return;
        }
        let (store, runs) = (self.store.clone(), gone.clone());
        let noted = async move {
            write(&store, move |tx| {
                let now = now_millis();
                for run in runs {
                    let _ = tx.apply(run, Report::Lost, now)?;
                }
                Ok(())
            })
            .await
        };
        ctx.spawn(
            noted
                .into_actor(self)
                .map(move |noted, this, ctx| match noted {
                    Ok(()) => {
                        this.advance_sweeps(ctx);
                        this.schedule(ctx);
                    }
                    Err(error) => {
                        tracing::error!("runs cannot be taken over yet: {error}");
                        // No process: they are noted at the next look.
                        this.leftover.extend(gone.into_iter().map(|run| Leftover {
                            run,
                            process: None,
                            lease: None,
                            deadline: now,
                        }));
                    }
                }),
        );
    }
}

//! Sweeps within the supervisor of the runs.

use super::Runs;
use crate::actors::store::{read, write};
use crate::actors::sweep::{self, Told};
use crate::config::sweep::{Source, SweepConfig};
use crate::domain::sweep::Command;
use crate::domain::{Code, Error, Result, SweepId};
use crate::protocol::sweep::SubmitSweep;
use crate::supervise::Context;
use actix::prelude::*;
use std::path::Path;

/// Begin a sweep. Answered when that is durable, with whether it is new.
#[derive(Message)]
#[rtype(result = "Result<(SweepId, bool)>")]
pub struct SweepSubmission(pub SubmitSweep);

impl Handler<SweepSubmission> for Runs {
    type Result = ResponseActFuture<Self, Result<(SweepId, bool)>>;

    fn handle(&mut self, submission: SweepSubmission, _: &mut Self::Context) -> Self::Result {
        let (store, state_dir) = (self.store.clone(), self.state_dir.clone());
        let SweepSubmission(submit) = submission;
        let begun = async move {
            let key = submit.key.clone();
            if let Some(key) = key.clone() {
                let known = read(&store, move |view| view.sweep_of_key(&key)).await?;
                if let Some(sweep) = known {
                    return Ok((sweep, false));
                }
            }
            // A thousand runs are read and validated: not on the thread of the actors.
            let config = tokio::task::spawn_blocking(move || resolve(&submit)).await;
            let config = config.map_err(|e| Error::new(Code::Internal, "sweep", e))??;
            write(&store, move |tx| {
                sweep::begin(tx, config, key.as_deref(), &state_dir)
            })
            .await
        };
        Box::pin(begun.into_actor(self).map(|begun, this, ctx| {
            this.schedule(ctx);
            begun
        }))
    }
}

fn resolve(submit: &SubmitSweep) -> Result<SweepConfig> {
    for (name, base) in [("base", &submit.base), ("run_base", &submit.run_base)] {
        if !base.is_absolute() {
            let message = "is not absolute; the daemon works in another folder than you do";
            return Err(Error::new(Code::Usage, name, message));
        }
    }
    let source = |file: &str, text: &str, base: &Path| Source {
        file: file.to_owned(),
        text: text.to_owned(),
        base: base.to_owned(),
    };
    let sweep = source(&submit.file, &submit.sweep_toml, &submit.base);
    let run = source(&submit.run_file, &submit.run_toml, &submit.run_base);
    let config = SweepConfig::parse(&sweep, &run, &submit.set)?;
    let taken = std::fs::read_dir(&config.output).is_ok_and(|mut found| found.next().is_some());
    if taken {
        let message = "is not empty: the runs of this sweep would go on from what lies there";
        return Err(
            Error::new(Code::RunExists, config.output.display(), message)
                .hint("choose another `output`, leave it out, or remove this folder"),
        );
    }
    Ok(config)
}

/// Tell a sweep. Answered when it is durable that it was told, with whether that changes
/// anything.
#[derive(Message)]
#[rtype(result = "Result<bool>")]
pub struct SweepOrder {
    /// The sweep.
    pub sweep: SweepId,
    /// What it is told.
    pub command: Command,
    /// Why, for whoever looks at its end.
    pub reason: String,
}

impl Handler<SweepOrder> for Runs {
    type Result = ResponseActFuture<Self, Result<bool>>;

    fn handle(&mut self, order: SweepOrder, _: &mut Self::Context) -> Self::Result {
        let store = self.store.clone();
        let SweepOrder {
            sweep,
            command,
            reason,
        } = order;
        let told =
            async move { write(&store, move |tx| sweep::order(tx, sweep, command, &reason)).await };
        Box::pin(told.into_actor(self).map(|told, this, ctx| {
            let (changed, told) = told?;
            this.hand_on(told, ctx);
            Ok(changed)
        }))
    }
}

impl Runs {
    /// Lets every sweep look at its runs. To be called whenever one may have changed.
    pub(super) fn advance_sweeps(&mut self, ctx: &mut Context<Self>) {
        if self.leaving.is_some() {
            return;
        }
        let store = self.store.clone();
        let advanced = async move { write(&store, sweep::advance_all).await };
        ctx.spawn(
            advanced
                .into_actor(self)
                .map(|advanced, this, ctx| match advanced {
                    Ok(told) => this.hand_on(told, ctx),
                    Err(error) => tracing::error!("sweeps cannot go on yet: {error}"),
                }),
        );
    }

    /// Lets workers hear what their runs were told, and starts what is queued now.
    fn hand_on(&mut self, told: Told, ctx: &mut Context<Self>) {
        for run in told {
            // Somebody wants it now.
            self.not_before.remove(&run);
            self.remind(run, ctx);
        }
        self.schedule(ctx);
    }
}

//! A piece of work, from its turn to its end.

use super::{Assets, AtWork, Kind, record, strange};
use crate::actors::store::{StoreRef, write};
use crate::actors::worker::{Heard, Meaning, Says, Worker};
use crate::domain::asset::AssetName;
use crate::domain::worker_end::{Said, WorkerEnd};
use crate::domain::{Code, Error, Result};
use crate::protocol::asset::{AssetFact, AssetTask, Outcome, WorkProgress};
use crate::supervise::Context;
use actix::prelude::*;
use futures_util::FutureExt;
use std::cell::RefCell;
use std::sync::Arc;
use tokio::sync::Notify;

impl Says for AssetFact {
    fn meaning(&self) -> Meaning {
        match self {
            AssetFact::Progress(_) => Meaning::AtWork,
            AssetFact::Done { .. } => Meaning::Last(Said::Completed),
            AssetFact::Failed { problem, .. } => Meaning::Last(Said::Failed {
                code: problem.code.clone(),
                message: problem.line(),
            }),
        }
    }
}

impl<K: Kind> Assets<K> {
    /// Does `task` for `name`, whose record says already that it is under way.
    pub(in crate::actors) fn start(
        &mut self,
        name: AssetName,
        task: AssetTask,
        ctx: &mut Context<Self>,
    ) {
        let (worker, commands) = self.worker(&name, task, self.limits);
        let cancelled = Arc::new(Notify::new());
        let at_work = AtWork {
            commands,
            cancelled: cancelled.clone(),
        };
        self.at_work.insert(name.clone(), at_work);
        let (store, places, asked) = (self.store.clone(), self.places.clone(), cancelled.clone());
        let (of, worked) = (name.clone(), name.clone());
        let done = async move {
            let result = tokio::select! {
                _place = places.acquire_owned() => {
                    let done = ask(worker, |progress| keep::<K>(&store, &worked, progress)).await;
                    match asked.notified().now_or_never() {
                        // It may have been killed for not ending in time.
                        Some(()) if done.is_err() => Err(was_cancelled(&worked)),
                        _ => done,
                    }
                }
                () = asked.notified() => Err(was_cancelled(&worked)),
            };
            match &result {
                Ok(_) => tracing::info!("{} {worked}: done", K::KIND),
                Err(error) => tracing::warn!("{} {worked}: {error}", K::KIND),
            }
            record::until_stored(&worked, || {
                let (name, result) = (worked.clone(), result.clone());
                write(&store, move |tx| record::settle::<K>(tx, &name, result))
            })
            .await;
        };
        ctx.spawn(done.into_actor(self).map(move |(), this, _| {
            // Not the next work on it, which may have begun since.
            let is_mine = |at_work: &AtWork| Arc::ptr_eq(&at_work.cancelled, &cancelled);
            if this.at_work.get(&of).is_some_and(is_mine) {
                this.at_work.remove(&of);
            }
        }));
    }
}

fn was_cancelled(name: &AssetName) -> Error {
    Error::new(Code::Cancelled, name, "was cancelled")
}

/// Progress that cannot be stored is no reason to end the work.
async fn keep<K: Kind>(store: &StoreRef, name: &AssetName, progress: WorkProgress) {
    let name = name.clone();
    let kept = write(store, move |tx| record::progress::<K>(tx, &name, progress));
    if let Err(error) = kept.await {
        tracing::warn!("progress was not stored: {error}");
    }
}

/// Starts `worker`, hands its progress to `each`, and returns what it says in the end.
pub(super) async fn ask<T>(
    worker: Worker,
    mut each: impl FnMut(WorkProgress) -> T,
) -> Result<Outcome>
where
    T: Future<Output = ()>,
{
    let last = RefCell::new(None);
    let end = RefCell::new(None);
    worker
        .live(|heard: Heard<AssetFact>| {
            let progress = match heard {
                Heard::Spawned(_) => None,
                Heard::Frame(fact) => match *fact {
                    AssetFact::Progress(progress) => Some(each(progress)),
                    fact => {
                        last.replace(Some(fact));
                        None
                    }
                },
                Heard::Ended(ended) => {
                    end.replace(Some(ended));
                    None
                }
            };
            async move {
                if let Some(progress) = progress {
                    progress.await;
                }
            }
        })
        .await;
    match (last.into_inner(), end.into_inner()) {
        (Some(AssetFact::Done { outcome, .. }), _) => Ok(outcome),
        (Some(AssetFact::Failed { problem, .. }), _) => Err(problem.into()),
        (_, Some(WorkerEnd::Lost(error))) => Err(error),
        (_, end) => Err(strange(&end)),
    }
}

//! What the actors of models and datasets share.
//!
//! Where a model or dataset stands is written in the store and nowhere else; every change is
//! one transaction, durable before anybody is told of it. Whatever reads a file of a user
//! does so in a worker process: this process handles names, paths and records.

mod delete;
mod record;
pub mod refer;
#[cfg(test)]
mod tests;
mod work;

pub use delete::Delete;
pub(super) use record::{Beginning, begin, register};

use super::store::StoreRef;
use super::worker::{Commands, Limits, Worker};
use crate::domain::asset::{AssetKind, AssetName};
use crate::domain::{Code, Error, Result};
use crate::protocol::Command;
use crate::protocol::VERSION;
use crate::protocol::asset::{AssetStart, AssetTask, Outcome};
use crate::protocol::wire::Begin;
use crate::store::Asset;
use crate::supervise::Context;
use actix::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Notify, Semaphore};

/// Pieces of work of a kind that are done at once; others wait for their turn.
const AT_ONCE: usize = 2;

/// What tells models from datasets.
pub trait Kind: Unpin + 'static {
    /// Which it is.
    const KIND: AssetKind;
    /// What is known of one.
    type Facts: Serialize + DeserializeOwned + Default + JsonSchema + Send + 'static;

    /// Puts what work found into `facts`.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn keep(facts: &mut Self::Facts, outcome: Outcome) -> Result<()>;

    /// Files that the daemon made of one, and can make again.
    fn made(_facts: &Self::Facts) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// The actor of a kind.
pub struct Assets<K: Kind> {
    pub(super) store: StoreRef,
    /// The folder whose files are the daemon's own.
    root: PathBuf,
    limits: Limits,
    /// What is started in place of this program.
    program: Option<PathBuf>,
    at_work: BTreeMap<AssetName, AtWork>,
    places: Arc<Semaphore>,
    kind: PhantomData<K>,
}

/// Work under way, or that waits for its turn.
struct AtWork {
    commands: Commands,
    cancelled: Arc<Notify>,
}

impl<K: Kind> Assets<K> {
    /// An actor that keeps its records in `store`, and owns `models` or `datasets` in
    /// `state_dir`. Its workers have `limits`.
    pub fn new(store: StoreRef, state_dir: &Path, limits: Limits) -> Self {
        Self {
            store,
            root: state_dir.join(format!("{}s", K::KIND)),
            limits,
            program: None,
            at_work: BTreeMap::new(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            kind: PhantomData,
        }
    }

    /// Where token sets are kept, unless the environment names a place.
    pub(super) fn cache(&self) -> PathBuf {
        self.root.with_file_name("cache")
    }

    /// Starts `program` for work: one that speaks as a worker does.
    #[must_use]
    pub fn of_program(mut self, program: PathBuf) -> Self {
        self.program = Some(program);
        self
    }

    /// A worker for `name` that is to do `task`.
    pub(super) fn worker(
        &self,
        name: &AssetName,
        task: AssetTask,
        limits: Limits,
    ) -> (Worker, Commands) {
        let begin = Begin::Asset(AssetStart { v: VERSION, task });
        let (worker, commands) = Worker::new(format!("{} {name}", K::KIND), begin, limits);
        match &self.program {
            Some(program) => (worker.of_program(program.clone()), commands),
            None => (worker, commands),
        }
    }
}

impl<K: Kind> Actor for Assets<K> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Nothing is begun before it is known what was under way.
        let recovered = record::recover::<K>(self.store.clone());
        ctx.wait(recovered.into_actor(self));
    }
}

/// End the work on one; it says so when it has ended.
#[derive(Message)]
#[rtype(result = "Result<Asset>")]
pub struct Cancel(pub AssetName);

impl<K: Kind> Handler<Cancel> for Assets<K> {
    type Result = ResponseFuture<Result<Asset>>;

    fn handle(&mut self, Cancel(name): Cancel, _: &mut Self::Context) -> Self::Result {
        if let Some(at_work) = self.at_work.get(&name) {
            at_work.cancelled.notify_one();
            // Full: it was told so before.
            let _ = at_work.commands.try_send(Command::Stop);
        }
        let store = self.store.clone();
        Box::pin(async move {
            super::store::read(&store, move |view| view.asset(K::KIND, name.as_str())).await
        })
    }
}

/// Asks a worker that is soon done, and returns what it says.
pub(super) async fn ask(worker: Worker) -> Result<Outcome> {
    work::ask(worker, |_| std::future::ready(())).await
}

/// Looks at the disk, which can be slow, while this thread is everybody's.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::new(Code::Internal, "a look at the disk", e))?
}

/// A worker that said something that does not answer its task.
fn strange(said: &impl std::fmt::Debug) -> Error {
    let message = format!("answered another question: {said:?}");
    Error::new(Code::ProtocolInvalid, "worker", message)
}

/// An outcome that is not one of those that its task can have.
pub(super) fn not_an_answer<T>(outcome: &Outcome) -> Result<T> {
    Err(strange(&std::mem::discriminant(outcome)))
}

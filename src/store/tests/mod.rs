mod damage;
mod disk;
mod events;
mod metrics;
mod open;
mod record;
mod runs;

use super::*;
use crate::domain::asset::{AssetKind, AssetState};
use crate::domain::run_state::{Answer, Command, Input, Report, RunState};
use crate::domain::{Code, RunId};
use tempfile::TempDir;

/// A store in a folder of its own; in memory where the system has such a place, because
/// hundreds of fsyncs would wait for a disk that is not under test.
fn fresh() -> (TempDir, Store) {
    let dir = scratch();
    let (store, opened) = Store::open(dir.path(), 0).unwrap();
    assert_eq!(opened.quarantined, None);
    (dir, store)
}

fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn submit(store: &mut Store, name: &str) -> RunId {
    let new = NewRun::new(name, "[run]\n");
    store.write(|tx| tx.submit(&new, None, 1)).unwrap().run
}

/// Moves a run; the input must be one that does.
fn apply(store: &mut Store, run: RunId, input: impl Into<Input>, now: Millis) {
    let answer = store.write(|tx| tx.apply(run, input, now)).unwrap();
    assert!(matches!(answer, Answer::Applied(_)), "{answer:?}");
}

/// A run with a worker that trains.
fn running(store: &mut Store, name: &str) -> RunId {
    let run = submit(store, name);
    apply(store, run, Report::Given, 2);
    apply(store, run, Report::Started, 3);
    run
}

fn state(store: &Store, run: RunId) -> RunState {
    store.view().run(run).unwrap().state
}

/// The thread that owns the store is not the one that opens it.
#[test]
fn a_store_can_move_to_a_thread_of_its_own() {
    fn movable<T: Send + 'static>(_: &T) {}
    let (_dir, store) = fresh();
    movable(&store);
}

use super::*;
use crate::domain::sweep::Phase;
use serde_json::Value;
use std::collections::BTreeMap;

#[test]
fn a_run_is_read_back_as_it_was_submitted_also_by_the_next_process() {
    let (dir, mut store) = fresh();
    let new = NewRun {
        name: "pythia".to_owned(),
        priority: -3,
        toml: "[sae]\nk = 32\n".to_owned(),
        overrides: BTreeMap::from([("sae.k".to_owned(), "32".to_owned())]),
        max_temperature: Some(85.0),
    };
    let run = store.write(|tx| tx.submit(&new, None, 7)).unwrap().run;
    drop(store);

    let (store, opened) = Store::open(dir.path(), 0).unwrap();
    assert_eq!(opened.quarantined, None);
    let read = store.view().run(run).unwrap();
    assert_eq!((read.name.as_str(), read.priority), ("pythia", -3));
    assert_eq!((read.state, read.queued_at), (RunState::Queued, 7));
    assert_eq!(read.progress, Progress::default());
    assert_eq!(read.progress.percent(), None);
    let config = store.view().run_config(run).unwrap();
    assert_eq!((config.toml, config.overrides), (new.toml, new.overrides));
}

#[test]
fn a_submission_that_is_sent_again_makes_no_second_run() {
    let (_dir, mut store) = fresh();
    let new = NewRun::new("a", "");
    let first = store.write(|tx| tx.submit(&new, Some("key"), 0)).unwrap();
    let again = store.write(|tx| tx.submit(&new, Some("key"), 0)).unwrap();
    assert_eq!((first.new, again.new), (true, false));
    assert_eq!(first.run, again.run);
    assert_eq!(store.view().runs(&RunQuery::default(), 9).unwrap().len(), 1);
}

#[test]
fn the_queue_goes_by_priority_and_then_by_submission_and_a_lost_worker_keeps_the_place() {
    let (_dir, mut store) = fresh();
    let ids: Vec<_> = ["a", "b", "c", "d"].map(|n| submit(&mut store, n)).into();
    store.write(|tx| tx.set_priority(ids[2], 5, 1)).unwrap();
    let order = |store: &Store| -> Vec<_> {
        let queue = store.view().queue(10).unwrap();
        queue.into_iter().map(|run| run.id).collect()
    };
    assert_eq!(order(&store), [ids[2], ids[0], ids[1], ids[3]]);
    apply(&mut store, ids[0], Report::Given, 1);
    apply(&mut store, ids[3], Command::Pause, 1);
    assert_eq!(order(&store), [ids[2], ids[1]]);
    let with_worker = store.view().runs_with_worker().unwrap();
    assert_eq!(with_worker.len(), 1);
    assert_eq!(with_worker[0].id, ids[0]);
    apply(&mut store, ids[0], Report::Lost, 1);
    assert_eq!(order(&store), [ids[2], ids[0], ids[1]]);
}

#[test]
fn a_life_brings_a_worker_and_its_end_takes_it() {
    let (_dir, mut store) = fresh();
    let run = submit(&mut store, "a");
    let worker = crate::domain::Process {
        pid: 42,
        started: 99,
        boot: "b".to_owned(),
    };
    let set = |store: &mut Store, life| store.write(|tx| tx.set_worker(run, life, &worker));
    assert!(!set(&mut store, 0).unwrap(), "no worker in the queue");
    apply(&mut store, run, Report::Given, 2);
    assert!(!set(&mut store, 7).unwrap(), "another life");
    assert!(set(&mut store, 1).unwrap());
    apply(&mut store, run, Report::Started, 3);
    assert_eq!(store.view().run(run).unwrap().worker, Some(worker));

    let failure = Failure {
        code: "internal".to_owned(),
        message: "m".to_owned(),
    };
    let answer = store.write(|tx| tx.fail_run(run, &failure, 9)).unwrap();
    assert_eq!(answer, Answer::Applied(RunState::Failed));
    let read = store.view().run(run).unwrap();
    assert_eq!(read.worker, None);
    assert_eq!((read.started_at, read.ended_at), (Some(3), Some(9)));
    assert_eq!(read.failure.as_ref(), Some(&failure));
    // The first cause stays.
    let other = Failure {
        message: "other".to_owned(),
        ..failure.clone()
    };
    let answer = store.write(|tx| tx.fail_run(run, &other, 10)).unwrap();
    assert_eq!(answer, Answer::AlreadySo);
    assert_eq!(store.view().run(run).unwrap().failure, Some(failure));

    apply(&mut store, run, Command::Retry, 11);
    let read = store.view().run(run).unwrap();
    assert_eq!((read.failure, read.ended_at), (None, None));
    apply(&mut store, run, Report::Given, 12);
    assert_eq!(store.view().run(run).unwrap().life, 2);
}

#[test]
fn a_command_that_is_not_possible_changes_nothing() {
    let (_dir, mut store) = fresh();
    let run = running(&mut store, "a");
    apply(&mut store, run, Report::Completed, 5);
    let before = store.view().run(run).unwrap();
    let answer = store.write(|tx| tx.apply(run, Command::Stop, 6)).unwrap();
    assert!(matches!(answer, Answer::NotPossible(_)), "{answer:?}");
    assert_eq!(store.view().run(run).unwrap(), before);
}

#[test]
fn what_is_not_known_is_said_by_its_number_and_harms_no_other_part_of_a_transaction() {
    let (_dir, mut store) = fresh();
    let run = submit(&mut store, "a");
    let (missing, held) = store
        .write(|tx| {
            let missing = tx.apply(RunId(77), Command::Pause, 1).unwrap_err();
            Ok((missing, tx.apply(run, Command::Pause, 1)?))
        })
        .unwrap();
    assert_eq!(missing.to_string(), "not-found: run 77: is not known");
    assert_eq!(held, Answer::Applied(RunState::Held));
    assert_eq!(state(&store, run), RunState::Held);
    assert_eq!(
        store.view().run(RunId(77)).unwrap_err().code,
        Code::NotFound
    );
    let unknown = store.view().run_config(RunId(77)).unwrap_err();
    assert_eq!(unknown.code, Code::NotFound);
}

#[test]
fn an_error_takes_the_whole_transaction_back() {
    let (_dir, mut store) = fresh();
    let refused = store.write(|tx| {
        tx.submit(&NewRun::new("a", ""), None, 1)?;
        tx.set_priority(RunId(77), 1, 1)
    });
    assert_eq!(refused.unwrap_err().code, Code::NotFound);
    assert!(store.view().queue(9).unwrap().is_empty());
    assert_eq!(submit(&mut store, "b"), RunId(1));
}

/// behaviour: multi-07
#[test]
fn the_runs_of_a_sweep_count_without_a_gap_across_processes() {
    let (dir, mut store) = fresh();
    let spec = serde_json::json!({ "grid": { "sae.k": [16, 32] } });
    let new = NewSweep {
        name: "k".to_owned(),
        spec: spec.clone(),
        session: Value::Null,
    };
    let begin = |store: &mut Store| store.write(|tx| tx.add_sweep(&new, Some("a"), 1));
    let (sweep, first) = begin(&mut store).unwrap();
    assert!(first);
    assert_eq!(begin(&mut store).unwrap(), (sweep, false));
    let next = |store: &mut Store| {
        let run = NewRun::new("a", "");
        store.write(|tx| tx.submit_next(sweep, &run, 2)).unwrap()
    };
    assert_eq!(next(&mut store).1, 1);
    // An index that was taken in vain is given again.
    let in_vain = store.write(|tx| {
        tx.submit_next(sweep, &NewRun::new("a", ""), 2)?;
        tx.set_sweep(crate::domain::SweepId(9), Phase::Paused, &(), 2)
    });
    assert_eq!(in_vain.unwrap_err().code, Code::NotFound);
    drop(store);

    let (mut store, _) = Store::open(dir.path(), 0).unwrap();
    let (second, index) = next(&mut store);
    assert_eq!(index, 2);
    assert_eq!(store.view().run(second).unwrap().sweep, Some((sweep, 2)));
    assert_eq!(store.view().live_sweeps().unwrap(), [sweep]);
    let session = serde_json::json!({ "rung": 1 });
    store
        .write(|tx| tx.set_sweep(sweep, Phase::Completed, &session, 8))
        .unwrap();
    assert_eq!(store.view().live_sweeps().unwrap(), []);
    let read = store.view().sweep(sweep).unwrap();
    assert_eq!((read.spec, read.next_index), (spec, 3));
    assert_eq!((read.phase, read.updated_at), (Phase::Completed, 8));
    assert_eq!(read.session, session);
    assert_eq!(store.view().sweeps(None, 9).unwrap().len(), 1);
    let of_sweep = RunQuery {
        sweep: Some(sweep),
        before: Some(second),
        ..RunQuery::default()
    };
    assert_eq!(store.view().runs(&of_sweep, 9).unwrap().len(), 1);
}

#[test]
fn models_and_datasets_of_one_name_are_two_things() {
    let (_dir, mut store) = fresh();
    let asset = |state: AssetState, now| Asset {
        name: "pile".to_owned(),
        path: "/data/pile".to_owned(),
        state,
        description: serde_json::json!({ "bytes": 3 }),
        created_at: now,
        updated_at: now,
    };
    store
        .write(|tx| {
            tx.put_asset(AssetKind::Model, &asset(AssetState::Ready, 1))?;
            tx.put_asset(AssetKind::Dataset, &asset(AssetState::Validating, 2))?;
            tx.put_asset(AssetKind::Dataset, &asset(AssetState::Ready, 3))
        })
        .unwrap();
    let dataset = store.view().asset(AssetKind::Dataset, "pile").unwrap();
    assert_eq!((dataset.created_at, dataset.updated_at), (2, 3));
    assert_eq!(dataset.state, AssetState::Ready);
    assert_eq!(dataset.description["bytes"], 3);
    let remove = |store: &mut Store| store.write(|tx| tx.remove_asset(AssetKind::Dataset, "pile"));
    remove(&mut store).unwrap();
    assert_eq!(remove(&mut store).unwrap_err().code, Code::NotFound);
    assert_eq!(store.view().assets(AssetKind::Model).unwrap().len(), 1);
    assert_eq!(store.view().assets(AssetKind::Dataset).unwrap(), []);
}

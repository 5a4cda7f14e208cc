use super::*;
use crate::domain::run_state::Why;
use crate::protocol::{Ending, Fact, Frame, SiteStep, Step, VERSION};
use std::collections::BTreeMap;

fn frame(seq: u64, fact: Fact) -> Frame {
    Frame {
        v: VERSION,
        seq,
        run: "a".to_owned(),
        fact,
    }
}

fn started(step: u64) -> Fact {
    Fact::RunStarted {
        step,
        steps: 1_000,
        epoch_tokens: 10,
        device: "cpu".to_owned(),
        folder: "/runs/a".into(),
        resumed_from: None,
    }
}

fn step(step: u64) -> Fact {
    let site = |hook: &str, l0| SiteStep {
        hook: hook.to_owned(),
        loss: 0.5,
        parts: BTreeMap::from([("l1_loss".to_owned(), 0.25)]),
        l0,
        explained_variance: f64::NAN,
        fvu: f64::NAN,
        dead: 0.0,
        grad_norm: 1.0,
        loss_scale: None,
    };
    Fact::Step(Step {
        step,
        steps: 1_000,
        epoch: 1,
        tokens: 64 * step,
        loss: 0.5,
        lr: 1e-3,
        tokens_per_second: 100.0,
        sites: vec![site("pre", 0.04), site("post", 0.06)],
    })
}

fn ending(step: u64) -> Ending {
    Ending {
        step,
        steps: 1_000,
        tokens: 64 * step,
        skipped: 0,
        loss: Some(0.25),
        seconds: 1.0,
        folder: "/runs/a".into(),
        checkpoint: None,
        peak_memory: None,
        peak_gpu_memory: None,
        validation: None,
    }
}

fn record(store: &mut Store, run: RunId, life: u64, seq: u64, fact: Fact) -> Recorded {
    let frame = frame(seq, fact);
    store.write(|tx| tx.record(run, life, &frame, 9)).unwrap()
}

fn given(store: &mut Store) -> RunId {
    let run = submit(store, "a");
    apply(store, run, Report::Given, 2);
    run
}

fn points(store: &Store, run: RunId) -> Vec<u64> {
    let query = MetricQuery {
        site: Some("pre"),
        ..MetricQuery::default()
    };
    let points = store.view().metrics(run, &query, 99).unwrap();
    points.iter().map(|point| point.step).collect()
}

/// behaviour: train-01
#[test]
fn a_step_sets_the_progress_durably_and_makes_one_event() {
    let (dir, mut store) = fresh();
    let run = given(&mut store);
    let before = store.view().newest_event().unwrap();
    let recorded = record(&mut store, run, 1, 1, step(100));
    let event = Appended {
        id: before + 1,
        seq: Some(1),
    };
    assert_eq!(recorded, Recorded::Stored(event, Some(RunState::Running)));
    drop(store);

    let (store, _) = Store::open(dir.path(), 0).unwrap();
    let read = store.view().run(run).unwrap();
    assert_eq!(read.progress.percent(), Some(10.0));
    assert_eq!(read.progress.step, 100);
    assert_eq!(read.progress.loss, Some(0.5));
    assert!((read.progress.l0.unwrap() - 0.05).abs() < 1e-12);
    let page = store.view().events(before, None, 9).unwrap();
    assert_eq!(page.events.len(), 1);
    assert_eq!(page.events[0].kind, "step");
    let payload: serde_json::Value = serde_json::from_str(&page.events[0].payload).unwrap();
    assert_eq!(payload["sites"][1]["hook"], "post");
    assert_eq!(points(&store, run), [100]);
    let all = store.view().metrics(run, &MetricQuery::default(), 9);
    let all = all.unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(
        (all[0].l1, all[0].fvu, all[0].gpu_mem),
        (Some(0.25), None, None)
    );
}

/// behaviour: train-01
#[test]
fn a_late_step_never_brings_back_what_waits_or_has_ended() {
    let moved: [(&[Input], RunState); 6] = [
        (&[Input::Report(Report::Paused)], RunState::Paused),
        (&[Input::Command(Command::Pause)], RunState::Pausing),
        (&[Input::Report(Report::Aborted)], RunState::Aborted),
        (&[Input::Report(Report::Failed)], RunState::Failed),
        (&[Input::Report(Report::Completed)], RunState::Completed),
        (
            &[
                Input::Command(Command::Stop),
                Input::Report(Report::Stopped),
            ],
            RunState::Stopped,
        ),
    ];
    for (inputs, expected) in moved {
        let (_dir, mut store) = fresh();
        let run = given(&mut store);
        let _ = record(&mut store, run, 1, 1, started(0));
        for &input in inputs {
            apply(&mut store, run, input, 5);
        }
        let recorded = record(&mut store, run, 1, 2, step(100));
        let read = store.view().run(run).unwrap();
        assert_eq!(read.state, expected);
        let progress: Progress = Progress {
            step: 200,
            ..Progress::default()
        };
        let answer = store.write(|tx| tx.progress(run, &progress, 9)).unwrap();
        assert_eq!(state(&store, run), expected);
        if expected.has_ended() {
            assert!(matches!(recorded, Recorded::Refused(r) if r.why == Why::Ended));
            assert!(matches!(answer, Answer::NotPossible(_)));
            assert_eq!(store.view().run(run).unwrap().progress.step, 0);
        } else {
            // The step was done, whatever was said since.
            assert!(matches!(recorded, Recorded::Stored(_, None)));
            assert_eq!(read.progress.step, 100);
            assert_eq!(answer, Answer::AlreadySo);
            assert_eq!(store.view().run(run).unwrap().progress.step, 200);
        }
    }
}

/// behaviour: train-02
#[test]
fn the_word_of_a_worker_about_an_unknown_run_is_dropped_by_name() {
    let (_dir, mut store) = fresh();
    let unknown = frame(1, step(1));
    let error = store.write(|tx| tx.record(RunId(5), 1, &unknown, 1));
    assert_eq!(error.unwrap_err().code, Code::NotFound);
    let error = store.write(|tx| tx.progress(RunId(5), &Progress::default(), 1));
    let error = error.unwrap_err();
    assert_eq!(error.to_string(), "not-found: run 5: is not known");
    assert!(
        store
            .view()
            .runs(&RunQuery::default(), 9)
            .unwrap()
            .is_empty()
    );
    assert_eq!(store.view().newest_event().unwrap(), 0);
}

#[test]
fn a_fact_that_is_said_again_or_by_an_earlier_worker_is_stored_once() {
    let (_dir, mut store) = fresh();
    let run = given(&mut store);
    let _ = record(&mut store, run, 1, 1, started(0));
    let _ = record(&mut store, run, 1, 2, step(1));
    let _ = record(&mut store, run, 1, 3, step(2));
    for seq in 1..=3 {
        let again = record(&mut store, run, 1, seq, step(1));
        assert_eq!(again, Recorded::Replayed);
    }
    assert_eq!(store.view().run(run).unwrap().progress.step, 2);

    // The next worker begins to count at 1; the run's own numbers go on.
    apply(&mut store, run, Report::Lost, 4);
    let lost = record(&mut store, run, 1, 4, step(3));
    assert!(matches!(lost, Recorded::Refused(r) if r.why == Why::NoWorker));
    apply(&mut store, run, Report::Given, 5);
    assert_eq!(record(&mut store, run, 1, 5, step(3)), Recorded::OtherLife);
    let Recorded::Stored(event, _) = record(&mut store, run, 2, 1, started(1)) else {
        panic!("a new life's first fact is stored");
    };
    assert_eq!(event.seq, Some(4));
    // It goes on after step 1: step 2 is to be done again.
    assert_eq!(points(&store, run), [1]);
    assert_eq!(store.view().run(run).unwrap().progress.step, 1);
    let _ = record(&mut store, run, 2, 2, step(2));
    assert_eq!(points(&store, run), [1, 2]);
    let events = store.view().events(0, Some(run), 99).unwrap().events;
    let seqs: Vec<_> = events.iter().map(|event| event.seq.unwrap()).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
}

#[test]
fn an_ending_is_kept_with_its_numbers() {
    let (_dir, mut store) = fresh();
    let run = given(&mut store);
    let _ = record(&mut store, run, 1, 1, started(0));
    let done = record(&mut store, run, 1, 2, Fact::RunCompleted(ending(1_000)));
    assert!(matches!(
        done,
        Recorded::Stored(_, Some(RunState::Completed))
    ));
    let read = store.view().run(run).unwrap();
    assert_eq!(read.progress.percent(), Some(100.0));
    assert_eq!(read.folder.as_deref(), Some("/runs/a"));
    assert_eq!(read.ending.unwrap()["loss"], 0.25);

    let run = given(&mut store);
    apply(&mut store, run, Command::EndEarly, 3);
    let _ = record(&mut store, run, 1, 1, Fact::Stopped(ending(500)));
    let read = store.view().run(run).unwrap();
    assert_eq!(
        (read.state, read.progress.step),
        (RunState::EarlyStopped, 500)
    );

    let run = given(&mut store);
    let failed = Fact::RunFailed {
        step: 3,
        code: "non-finite".to_owned(),
        message: "loss".to_owned(),
    };
    let _ = record(&mut store, run, 1, 1, failed);
    let failure = store.view().run(run).unwrap().failure.unwrap();
    assert_eq!(failure.code, "non-finite");
}

#[test]
fn a_worker_that_says_impossible_numbers_harms_no_other_run_of_the_transaction() {
    let (_dir, mut store) = fresh();
    let (bad, good) = (given(&mut store), given(&mut store));
    let impossible = frame(1, step(u64::MAX / 64));
    let fine = frame(1, step(1));
    let error = store
        .write(|tx| {
            let bad = tx.record(bad, 1, &frame(u64::MAX, step(1)), 9);
            let _ = tx.record(good, 1, &fine, 9)?;
            Ok(bad)
        })
        .unwrap()
        .unwrap_err();
    assert_eq!(error.code, Code::ProtocolInvalid);
    assert_eq!(state(&store, good), RunState::Running);
    // Not half of it, such as the state alone.
    assert_eq!(state(&store, bad), RunState::Starting);
    let error = store.write(|tx| tx.record(bad, 1, &impossible, 9));
    assert_eq!(error.unwrap_err().code, Code::ProtocolInvalid);
}

use super::*;
use crate::config::sweep::Source;
use crate::domain::gpu::{GpuHold, GpuName};
use crate::domain::run_state::Report;
use crate::store::{Progress, Store};
use tempfile::TempDir;

const RUN: &str = r#"
name = "tiny"
[model]
path = "model"
hooks = ["blocks.1.hook_resid_post"]
[data]
path = "text.txt"
[sae]
variant = "topk"
d_sae = 96
k = 8
[training]
steps = 100
"#;

fn config(text: &str) -> Result<SweepConfig> {
    let source = |file: &str, text: &str| Source {
        file: file.into(),
        text: text.into(),
        base: "/base".into(),
    };
    let text = format!("run = \"run.toml\"\n{text}");
    SweepConfig::parse(&source("sweep.toml", &text), &source("run.toml", RUN), &[])
}

fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), 0).unwrap();
    (dir, store)
}

fn begun(store: &mut Store, text: &str) -> Result<SweepId> {
    let config = config(text)?;
    let begun = store.write(|tx| begin(tx, config, None, Path::new("/state")));
    begun.map(|(id, _)| id)
}

fn report(store: &mut Store, run: RunId, report: Report) {
    store
        .write(|tx| tx.apply(run, report, 1).map(|_| ()))
        .unwrap();
}

fn state(store: &Store, id: SweepId, index: usize) -> RunState {
    Sweep::load(&store.view(), id).unwrap().runs[index - 1].state
}

fn hold() -> GpuHold {
    GpuHold {
        stance: Stance::Paused,
        gpu: GpuName {
            index: 0,
            uuid: None,
        },
        reason: "94 °C".into(),
    }
}

/// Nothing of a sweep that is refused is left.
#[test]
fn a_name_that_is_not_known_refuses_the_sweep_before_any_run() {
    let (_dir, mut store) = store();
    let text = "[[runs]]\nseed = 1\n[[runs]]\nmodel.path = \"model:nobody\"\n";
    let error = begun(&mut store, text).unwrap_err();
    assert_eq!(error.code, Code::NotFound, "{error}");
    assert!(error.about.contains("nobody"), "{error}");
    assert_eq!(store.view().sweeps(None, 9).unwrap(), []);
    assert_eq!(store.view().queue(9).unwrap(), []);
    assert_eq!(store.view().newest_event().unwrap(), 0);
}

/// The GPU monitor paused a run, and then somebody pauses the sweep: when the GPU has cooled
/// down the run waits for the sweep, and goes on with it.
#[test]
fn a_pause_of_the_sweep_counts_more_than_the_monitors() {
    let (_dir, mut store) = store();
    let id = begun(&mut store, "[grid]\nseed = [1, 2]\n").unwrap();
    let run = Sweep::load(&store.view(), id).unwrap().runs[0].id;
    for said in [Report::Given, Report::Started, Report::Paused] {
        report(&mut store, run, said);
    }
    store.write(|tx| tx.set_hold(run, Some(&hold()))).unwrap();
    let tell = |store: &mut Store, command| {
        store
            .write(|tx| order(tx, id, command, "a test"))
            .unwrap()
            .1
    };
    assert!(
        tell(&mut store, Command::Pause).is_empty(),
        "it waits already"
    );
    assert_eq!(
        store.view().run(run).unwrap().hold,
        None,
        "for the sweep now"
    );
    assert_eq!(tell(&mut store, Command::Resume), Told::from([run]));
    assert_eq!(state(&store, id, 1), RunState::Resuming);

    // Without a pause of the sweep it is the monitor's to let it go on.
    report(&mut store, run, Report::Resumed);
    let _ = tell(&mut store, Command::Pause);
    report(&mut store, run, Report::Paused);
    store.write(|tx| tx.set_hold(run, Some(&hold()))).unwrap();
    assert!(tell(&mut store, Command::Resume).is_empty());
    assert_eq!(state(&store, id, 1), RunState::Paused);
}

#[test]
fn a_run_carries_the_weights_of_the_last_one_that_succeeded() {
    let (_dir, mut store) = store();
    let text = "name = \"c\"\ncarry_over = true\n[grid]\nseed = [1, 2, 3, 4]\n";
    let id = begun(&mut store, text).unwrap();
    let from = |store: &Store, index: usize| {
        let run = Sweep::load(&store.view(), id).unwrap().runs[index - 1].id;
        let toml = store.view().run_config(run).unwrap().toml;
        let run = RunConfig::parse("run.toml", &toml, Path::new("/"), &[]);
        run.unwrap().training.init_from
    };
    let ends = [Report::Completed, Report::Completed, Report::Failed];
    for (index, end) in ends.into_iter().enumerate() {
        let run = Sweep::load(&store.view(), id).unwrap().runs[index].id;
        for said in [Report::Given, Report::Started, end] {
            report(&mut store, run, said);
        }
        store.write(|tx| advance(tx, id)).unwrap();
    }
    let folder = |n: u64| Some(format!("/state/sweeps/{id}-c/run-{n}").into());
    let all: Vec<_> = (1..=4).map(|index| from(&store, index)).collect();
    assert_eq!(all, [None, folder(1), folder(2), folder(2)]);
}

/// A run that went on after its worker had told an end has no measures of where it is now.
#[test]
fn what_was_measured_counts_only_where_the_run_still_stands() {
    let (_dir, mut store) = store();
    let id = begun(&mut store, "[grid]\nseed = [1, 2]\n").unwrap();
    let mut run = Sweep::load(&store.view(), id).unwrap().runs[0].clone();
    run.ending = Some(serde_json::json!({
        "step": 10, "steps": 100, "tokens": 640, "skipped": 0, "loss": 0.5, "seconds": 1.0,
        "folder": "run-1", "checkpoint": null, "peak_memory": null,
    }));
    let known = BTreeMap::from([("loss".to_owned(), 0.5)]);
    for (state, step, expected) in [
        (RunState::Completed, 10, &known),
        (RunState::Stopped, 10, &known),
        (RunState::Stopped, 11, &BTreeMap::new()),
        (RunState::Running, 10, &BTreeMap::new()),
        (RunState::Failed, 10, &BTreeMap::new()),
    ] {
        run.state = state;
        run.progress.step = step;
        assert_eq!(measures(&run), *expected, "{state} at {step}");
    }
}

/// A run that stands at a rung and that nothing lets go on: the session would ask for it for
/// ever.
#[test]
fn a_sweep_that_never_comes_to_an_end_fails_and_holds_up_no_other() {
    let (_dir, mut store) = store();
    let text = "[halving]\nmetric = \"ce_recovered\"\nrungs = [10]\n[grid]\nseed = [1, 2]\n";
    let stuck = begun(&mut store, text).unwrap();
    let other = begun(&mut store, "parallel = 2\n[grid]\nseed = [1, 2]\n").unwrap();
    let run = |store: &Store, index: usize| {
        let sweep = Sweep::load(&store.view(), stuck).unwrap();
        sweep.runs[index - 1].id
    };
    for index in [1, 2] {
        let run = run(&store, index);
        for said in [Report::Given, Report::Started] {
            report(&mut store, run, said);
        }
        store
            .write(|tx| {
                let progress = Progress {
                    step: 10,
                    ..Progress::default()
                };
                let _ = tx.progress(run, &progress, 1)?;
                let _ = tx.apply(run, Report::Stopped, 1)?;
                tx.set_hold(run, Some(&hold()))
            })
            .unwrap();
        if index == 1 {
            store.write(|tx| advance(tx, stuck)).unwrap();
        }
    }
    let lone = Sweep::load(&store.view(), other).unwrap().runs[0].id;
    for said in [Report::Given, Report::Started, Report::Completed] {
        report(&mut store, lone, said);
    }

    store.write(advance_all).unwrap();
    let sweep = Sweep::load(&store.view(), stuck).unwrap();
    assert_eq!(sweep.phase(), Phase::Failed);
    let reason = sweep.reason().unwrap();
    assert!(
        reason.starts_with(&format!("internal: sweep {stuck}: ")),
        "{reason}"
    );
    let events = store.view().events(0, None, 99).unwrap().events;
    let ended = |event: &&crate::store::Event| event.kind == "multi_run_failed";
    assert_eq!(events.iter().filter(ended).count(), 1);
    assert!(
        Sweep::load(&store.view(), other).unwrap().is_complete(1),
        "the other one went on"
    );
    store.write(advance_all).unwrap();
    assert_eq!(
        store.view().newest_event().unwrap(),
        events.last().unwrap().id
    );
}

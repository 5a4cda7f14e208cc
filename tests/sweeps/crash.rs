//! Sweeps and kills.

use super::common::daemon::{Daemon, kill};
use super::common::{of_kind, until};
use super::{Sweeps, fixture, is_step, place, places};
use rustix::process::Signal;
use std::collections::BTreeSet;

/// behaviour: multi-07
#[test]
fn a_killed_daemon_neither_loses_nor_repeats_a_run() {
    let fixture = fixture(120, "[grid]\nseed = [3, 4, 5]\n");
    fixture.events("alone", &["--set", "seed=5"]);
    let mut daemon = Daemon::start(&fixture);
    let id = daemon.begin();
    // In mid-run, and at whatever instant comes after; the last one may find it ended.
    for run in 1..=3 {
        until("steps", || {
            let run = &daemon.sweep(id)["runs"][run - 1]["run"];
            (run["step"].as_u64()? >= 20).then_some(())
        });
        daemon.signal(Signal::KILL);
        daemon = Daemon::start(&fixture);
    }
    let events = daemon.events_of(id);
    assert_eq!(events.last().unwrap()["kind"], "multi_run_completed");
    for kind in ["run_start", "run_complete"] {
        let told = of_kind(&events, kind);
        let indices = told.iter().map(|event| event["run_idx"].as_u64().unwrap());
        assert!(indices.eq(1..=3), "each once and in order: {kind}");
    }
    let runs = events.iter().filter_map(|event| event["run"].as_u64());
    assert_eq!(runs.collect::<BTreeSet<_>>().len(), 3, "no run but those");
    for index in 1..=3 {
        let (start, end) = (
            place(&events, "run_start", index),
            place(&events, "run_complete", index),
        );
        let steps = places(&events, is_step(index));
        assert!(steps.iter().all(|step| (start..end).contains(step)));
        assert_eq!(events[end]["step"], 120);
    }
    assert_eq!(fixture.result("out/run-3"), fixture.result("alone"));
}

#[test]
fn a_killed_worker_at_a_rung_changes_no_choice() {
    let halving = "[halving]\nmetric = \"ce_recovered\"\nrungs = [60]\n";
    let fixture = fixture(120, &format!("[grid]\nsae.k = [4, 16]\n{halving}"));
    let daemon = Daemon::start(&fixture);
    let id = daemon.begin();
    for index in [1, 2] {
        let pid = until("a worker", || {
            let run = daemon.sweep(id)["runs"][index - 1]["run"].clone();
            let trains = run["state"] == "running" && run["step"].as_u64()? >= 15;
            trains.then(|| run["pid"].as_i64())?
        });
        kill(pid as i32, Signal::KILL);
    }
    let events = daemon.events_of(id);
    let rung = of_kind(&events, "rung_completed")[0];
    let winner = rung["kept"][0].as_u64().unwrap();
    assert_eq!(events[place(&events, "run_complete", winner)]["step"], 120);
    let k = ["4", "16"][winner as usize - 1];
    fixture.events("alone", &["--set", &format!("sae.k={k}")]);
    let (run, alone) = (
        fixture.result(&format!("out/run-{winner}")),
        fixture.result("alone"),
    );
    assert_eq!((run.tensors, run.metrics), (alone.tensors, alone.metrics));
}

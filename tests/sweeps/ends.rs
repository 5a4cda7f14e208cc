//! How sweeps end, other than by their last run.

use super::common::daemon::Daemon;
use super::common::{of_kind, until};
use super::{Sweeps, fixture, is_step, place, places};
use serde_json::Value;

const LONG: u64 = 2000;

/// Waits until run `index` of the sweep has done `step` steps.
fn trains(daemon: &Daemon<'_>, id: u64, index: usize, step: u64) -> Value {
    until("steps", || {
        let sweep = daemon.sweep(id);
        let run = sweep["runs"][index - 1]["run"].clone();
        (run["step"].as_u64()? >= step && run["state"] == "running").then_some(run)
    })
}

/// behaviour: multi-14, multi-15
#[test]
fn an_abort_reports_its_run_and_the_next_sweep_is_clean() {
    let fixture = fixture(LONG, "[grid]\nseed = [1, 2]\n");
    let daemon = Daemon::start(&fixture);
    let id = daemon.begin();
    let run = trains(&daemon, id, 1, 10);
    assert_eq!((&run["sweep"], &run["run_idx"]), (&1.into(), &1.into()));
    let status = daemon.json(&["status"]);
    assert_eq!(status["sweeps"][0]["runs_begun"], 1);
    let abort = ["sweep", "abort", "1", "--reason", "too warm here"];
    assert_eq!(daemon.json(&abort)["changed"], true);
    assert_eq!(daemon.json(&abort)["changed"], false);
    let events = daemon.events_of(id);
    let complete = &events[place(&events, "run_complete", 1)];
    let steps = places(&events, is_step(1)).len() as u64;
    assert_eq!(complete["state"], "aborted");
    assert_eq!(complete["step"], steps, "the steps really done");
    assert!((10..LONG).contains(&steps));
    assert!(places(&events, |e| e["run_idx"] == 2).is_empty());
    let last = events.last().unwrap();
    assert_eq!(last["kind"], "multi_run_aborted");
    assert_eq!(last["reason"], "too warm here");
    assert_eq!(
        (&last["runs"]["aborted"], &last["steps"]),
        (&1.into(), &steps.into())
    );
    let refused = daemon.ctl(&["sweep", "resume", "1"]);
    assert_eq!(refused.status.code(), Some(84));

    super::write(
        &fixture,
        "[set]\ntraining.steps = 6\n[grid]\nseed = [1, 2]\n",
    );
    let text = std::fs::read_to_string(fixture.path("sweep.toml")).unwrap();
    std::fs::write(
        fixture.path("sweep.toml"),
        text.replace("\"out\"", "\"next\""),
    )
    .unwrap();
    let next = daemon.begin();
    let events = daemon.events_of(next);
    assert_eq!(of_kind(&events, "run_complete").len(), 2);
    assert_eq!(events.last().unwrap()["kind"], "multi_run_completed");
    assert_eq!(daemon.sweep(next)["reason"], Value::Null);
}

/// behaviour: multi-17
#[test]
fn early_stopping_across_runs_reports_the_last_run_and_completes() {
    let rule = "[early_stopping]\nmetric = \"ce_recovered\"\npatience = 2\nmin_delta = 10\n";
    let sweep = format!("[grid]\nseed = [1, 2, 3, 4, 5]\n{rule}");
    let fixture = fixture(5, &sweep);
    let daemon = Daemon::start(&fixture);
    let id = daemon.begin();
    let events = daemon.events_of(id);
    let tail: Vec<&str> = events[events.len() - 3..]
        .iter()
        .map(|event| event["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        tail,
        [
            "run_complete",
            "multi_run_early_stop",
            "multi_run_completed"
        ]
    );
    let stop = &events[events.len() - 2];
    assert_eq!(
        (&stop["run_idx"], &stop["best_run_idx"]),
        (&3.into(), &1.into())
    );
    assert_eq!(stop["patience"], 2);
    let first = &events[place(&events, "run_complete", 1)];
    assert_eq!(stop["best"], first["measures"]["ce_recovered"]);
    assert_eq!(
        events.last().unwrap()["runs"]["completed"],
        3,
        "the last run counts"
    );
}

#[test]
fn a_run_that_fails_is_reported_and_the_others_go_on() {
    let fixture = fixture(
        5,
        "[[runs]]\ndata.path = \"nowhere.txt\"\n[[runs]]\nseed = 1\n",
    );
    let daemon = Daemon::start(&fixture);
    let id = daemon.begin();
    let events = daemon.events_of(id);
    let failed = &events[place(&events, "run_complete", 1)];
    assert_eq!(
        (&failed["state"], &failed["error"]),
        (&"failed".into(), &"data-missing".into())
    );
    let last = events.last().unwrap();
    assert_eq!(last["kind"], "multi_run_completed");
    assert_eq!(
        (&last["runs"]["failed"], &last["best"]["run_idx"]),
        (&1.into(), &2.into())
    );

    super::write(
        &fixture,
        "[set]\ndata.path = \"nowhere.txt\"\n[[runs]]\nseed = 1\n",
    );
    let text = std::fs::read_to_string(fixture.path("sweep.toml")).unwrap();
    std::fs::write(
        fixture.path("sweep.toml"),
        text.replace("\"out\"", "\"next\""),
    )
    .unwrap();
    let next = daemon.begin();
    let watched = daemon.ctl(&["sweep", "watch", &next.to_string()]);
    assert_eq!(watched.status.code(), Some(1));
    let said = String::from_utf8_lossy(&watched.stderr);
    assert!(said.contains("is failed: no run succeeded"), "{said}");
}

#[test]
fn a_sweep_that_waits_or_is_stopped_goes_on_where_it_was() {
    let fixture = fixture(400, "[grid]\nseed = [7, 8]\n");
    fixture.events("alone", &["--set", "seed=7"]);
    let daemon = Daemon::start(&fixture);
    let id = daemon.begin();
    let told = |command: &str| daemon.json(&["sweep", command, "1"])["changed"].clone();
    let run = trains(&daemon, id, 1, 10)["id"].as_u64().unwrap();
    assert_eq!((told("pause"), told("pause")), (true.into(), false.into()));
    daemon.reaches(run, "paused");
    assert_eq!(daemon.sweep(id)["state"], "paused");
    assert_eq!(told("resume"), true);
    trains(&daemon, id, 1, 20);
    assert_eq!((told("stop"), told("stop")), (true.into(), false.into()));
    let stopped = daemon.sweep_reaches(id, "stopped");
    assert_eq!(stopped["runs"][0]["complete"], false, "it is not over");
    let step = stopped["runs"][0]["run"]["step"].as_u64().unwrap();
    assert!((20..400).contains(&step));
    assert_eq!(told("resume"), true);
    daemon.sweep_reaches(id, "completed");
    let events = daemon.events_of(id);
    assert_eq!(of_kind(&events, "multi_run_stopped").len(), 1);
    assert_eq!(of_kind(&events, "multi_run_completed").len(), 1);
    for index in [1, 2] {
        assert_eq!(events[place(&events, "run_complete", index)]["step"], 400);
    }
    let alone = fixture.result("alone");
    let run = fixture.result("out/run-1");
    assert_eq!((run.tensors, run.metrics), (alone.tensors, alone.metrics));
}

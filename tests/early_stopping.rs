//! A run that ends before its last step because going on is not worth it.

mod common;

use common::{Fixture, lines, of_kind};
use rustix::process::Signal;
use serde_json::Value;

/// Nothing is better than the first measure by as much as this asks for, so the run ends
/// three measures later, at step 8.
const RULE: [&str; 6] = [
    "--set",
    "checkpoints.every=3",
    "--set",
    "early_stopping = { metric = \"ce_recovered\", patience = 3, min_delta = 10 }",
    "--set",
    "eval.every=2",
];

fn last(events: &[Value]) -> &Value {
    events.last().unwrap()
}

/// behaviour: event-10
#[test]
fn it_is_saved_measured_exported_and_reported_like_a_completed_one() {
    let fixture = Fixture::new(400);
    let events = fixture.events("run", &RULE);
    assert_eq!(of_kind(&events, "step").len(), 8);
    assert!(of_kind(&events, "run_completed").is_empty());
    assert_eq!(of_kind(&events, "early_stopped").len(), 1);
    let end = last(&events);
    assert_eq!(end["kind"], "early_stopped");
    assert_eq!((&end["step"], &end["steps"]), (&8.into(), &400.into()));
    assert_eq!(
        (&end["best_step"], &end["patience"]),
        (&2.into(), &3.into())
    );
    let first = of_kind(&events, "validation")[0];
    assert_eq!(end["best"], first["sites"][0]["ce_recovered"]);
    let saved = of_kind(&events, "checkpoint_saved");
    assert_eq!(saved.last().unwrap()["step"], 8);
    let summary = std::fs::read(fixture.path("run/summary.json")).unwrap();
    let summary: Value = serde_json::from_slice(&summary).unwrap();
    assert_eq!(summary["state"], "early_stopped");
    assert_eq!(summary["validation"]["step"], 8);
    assert!(fixture.path("run/report.html").is_file());
    assert!(fixture.path("run/export/saelens/cfg.json").is_file());
}

#[test]
fn an_interrupted_run_ends_where_it_would_have_ended() {
    let fixture = Fixture::new(400);
    fixture.events("alone", &RULE);
    let running = fixture.start_until("run", &RULE, 5);
    running.signal(Signal::KILL);
    let events = fixture.events("run", &[&RULE[..], &["--resume"]].concat());
    assert_eq!(last(&events)["kind"], "early_stopped");
    assert_eq!(fixture.result("run"), fixture.result("alone"));

    // Asked again it says the same; with more patience it goes on.
    let again = fixture.events("run", &[&RULE[..], &["--resume"]].concat());
    assert_eq!(last(&again)["kind"], "early_stopped");
    assert!(of_kind(&again, "step").is_empty());
    let patient = ["--resume", "--set", "early_stopping.patience=5"];
    let on = fixture.events("run", &[&RULE[..], &patient].concat());
    assert_eq!(last(&on)["step"], 12);
    assert_eq!(last(&on)["best_step"], 2);
}

#[test]
fn a_person_is_told_why_and_the_exit_is_that_of_success() {
    let fixture = Fixture::new(400);
    let output = common::backpropd()
        .current_dir(fixture.dir.path())
        .env("BACKPROPD_CACHE", fixture.path("token-cache"))
        .args(["train", "run.toml", "--out", "run"])
        .args(RULE)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    assert!(
        said.contains("ended early: ce_recovered was best at step 2"),
        "{said}"
    );
    assert!(said.contains("CE recovered"), "{said}");
}

#[test]
fn a_rule_that_cannot_work_is_refused_by_its_key() {
    let fixture = Fixture::new(4);
    let cases = [
        ("early_stopping.patience=0", "early_stopping.patience"),
        ("early_stopping.min_delta=-1", "early_stopping.min_delta"),
        ("early_stopping.metric=\"loss\"", "early_stopping.metric"),
        ("early_stopping.metric=\"beauty\"", "early_stopping.metric"),
        ("early_stopping.patients=2", "early_stopping.patients"),
        ("eval.every=0", "eval.every"),
        ("data.holdout=0", "data.holdout"),
    ];
    for (set, about) in cases {
        let output = fixture.run("run", &[&RULE[..], &["--set", set]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(10), "{set}: {said}");
        assert!(said.contains(about), "{set}: {said}");
        assert!(lines(&output.stdout).is_empty());
    }
}

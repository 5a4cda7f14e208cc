//! What is told of a sweep, and in which order.

use super::common::daemon::Daemon;
use super::common::of_kind;
use super::{Sweeps, fixture, is_step, place, places};
use serde_json::Value;

/// behaviour: e2e-02, event-18
/// behaviour: multi-01, multi-05, multi-06, multi-07, multi-08, multi-09, multi-16
#[test]
fn a_sweep_says_each_fact_once_and_in_order() {
    let fixture = fixture(12, "[grid]\nsae.k = [4, 8, 16]\n");
    let daemon = Daemon::start(&fixture);
    let args = ["sweep", "submit", "sweep.toml", "--watch", "--json"];
    let output = daemon.ctl(&args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let events = super::common::lines(&output.stdout);

    let ids: Vec<u64> = events.iter().map(|e| e["id"].as_u64().unwrap()).collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(events.iter().all(|event| event["sweep"] == 1));
    assert_eq!(events[0]["kind"], "multi_run_started");
    assert_eq!(
        (&events[0]["runs"], &events[0]["parallel"]),
        (&3.into(), &1.into())
    );
    let mut before = 0;
    let mut runs = std::collections::BTreeSet::new();
    for index in 1..=3 {
        let start = place(&events, "run_start", index);
        let complete = place(&events, "run_complete", index);
        assert_eq!(
            start,
            before + 1,
            "nothing between run_complete and run_start"
        );
        assert_eq!(
            events[start]["overrides"]["sae.k"],
            ["4", "8", "16"][index as usize - 1]
        );
        before = complete;
        let steps = places(&events, is_step(index));
        let numbers: Vec<u64> = steps
            .iter()
            .map(|n| events[*n]["step"].as_u64().unwrap())
            .collect();
        assert_eq!(
            numbers,
            (1..=12).collect::<Vec<_>>(),
            "steps begin with 1 in each run"
        );
        assert!(steps.iter().all(|n| events[*n]["loss"].is_number()));
        // A validation says that it begins and what it found, and no step lies within.
        let validations = places(&events, |e| {
            e["kind"] == "validation" && e["run_idx"] == index
        });
        assert_eq!(validations.len(), 2, "at step 10 and at the end");
        for validation in &validations {
            let begins = places(&events[..*validation], |e| e["stage"] == "evaluating");
            let begins = *begins.last().unwrap();
            assert!(
                !steps
                    .iter()
                    .any(|step| (begins..*validation).contains(step))
            );
        }
        let last = steps.last().unwrap().max(validations.last().unwrap());
        assert!(*last < place(&events, "run_completed", index));
        assert!(place(&events, "run_completed", index) < complete);
        // What is said of a run counts 1, 2, 3, … in a run of its own number.
        let of_run: Vec<&Value> = events[start..complete]
            .iter()
            .filter(|e| !e["run"].is_null())
            .collect();
        let seqs: Vec<u64> = of_run.iter().map(|e| e["seq"].as_u64().unwrap()).collect();
        assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
        assert!(of_run.iter().all(|e| e["run"] == of_run[0]["run"]));
        assert!(runs.insert(of_run[0]["run"].as_u64().unwrap()));
        let result = &events[complete];
        assert_eq!(result["run_id"], of_run[0]["run"]);
        assert_eq!(
            (&result["state"], &result["step"]),
            (&"completed".into(), &12.into())
        );
        let measured = &events[*validations.last().unwrap()]["sites"][0]["ce_recovered"];
        assert_eq!(&result["measures"]["ce_recovered"], measured);
    }
    let last = events.last().unwrap();
    assert_eq!(events.len(), before + 2);
    assert_eq!(last["kind"], "multi_run_completed");
    assert_eq!(
        (&last["runs"]["completed"], &last["steps"]),
        (&3.into(), &36.into())
    );
    let best = of_kind(&events, "run_complete")
        .into_iter()
        .max_by(|a, b| {
            let value = |e: &Value| e["measures"]["ce_recovered"].as_f64().unwrap();
            value(a).total_cmp(&value(b))
        })
        .unwrap();
    assert_eq!(last["best"]["run_idx"], best["run_idx"]);
}

/// behaviour: multi-03, multi-04
#[test]
fn nobody_need_listen_and_one_run_can_be_followed_alone() {
    let fixture = fixture(
        6,
        "[[runs]]\nname = \"small\"\nsae.k = 4\n[[runs]]\ntraining.steps = 4\n",
    );
    let daemon = Daemon::start(&fixture);
    let id = daemon.begin();
    let sweep = daemon.sweep_reaches(id, "completed");
    let runs = sweep["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    assert_eq!(
        (&runs[0]["run"]["name"], &runs[1]["run"]["name"]),
        (&"small".into(), &"s-2".into())
    );
    assert_eq!(
        (&runs[0]["run"]["step"], &runs[1]["run"]["step"]),
        (&6.into(), &4.into())
    );
    assert!(fixture.path("out/run-1/report.html").is_file());
    let second = runs[1]["run"]["id"].to_string();
    let alone = daemon.ctl(&["watch", &second, "--json"]);
    let events = super::common::lines(&alone.stdout);
    assert!(events.iter().all(|event| event["run_idx"] != 1));

    // Sweeps have pages and lists; what is not there is named.
    let page = daemon.http("GET", &format!("/v1/sweeps/{id}/report"), "");
    assert!(page.head.contains("text/html"), "{page:?}");
    assert!(page.body.contains("<svg") && page.body.contains("cross-entropy recovered"));
    let shown = daemon.ctl(&["sweep", "show", "s"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("2 of 2 runs complete") && shown.contains("sae.k"),
        "{shown}"
    );
    let list = daemon.json(&["sweep", "list"]);
    assert_eq!(
        (&list[0]["id"], &list[0]["runs_planned"]),
        (&id.into(), &2.into())
    );
    let wrote = daemon.ctl(&["sweep", "report", "1", "--out", "page.html"]);
    assert!(wrote.status.success() && fixture.path("page.html").is_file());
    for path in [
        "/v1/sweeps/9",
        "/v1/sweeps/x",
        "/v1/sweeps/9/events",
        "/v1/sweeps/9/report",
    ] {
        assert_eq!(daemon.http("GET", path, "").status, 404, "{path}");
    }
    assert_eq!(daemon.http("POST", "/v1/sweeps/9/pause", "").status, 404);
}

#[test]
fn side_by_side_as_many_run_as_the_sweep_and_the_daemon_allow() {
    let fixture = fixture(150, "parallel = 2\n[grid]\nseed = [1, 2, 3]\n");
    let daemon = Daemon::start_with(&fixture, &[("BACKPROPD_WORKERS__LIMIT", "3")]);
    let id = daemon.begin();
    let events = daemon.events_of(id);
    // Both of the first two begin before either ends, and the third after that.
    let (first, second) = (
        place(&events, "run_complete", 1),
        place(&events, "run_complete", 2),
    );
    let third = place(&events, "run_start", 3);
    assert_eq!(
        place(&events, "run_start", 2),
        place(&events, "run_start", 1) + 2
    );
    assert!(places(&events, is_step(1))[0] < second && places(&events, is_step(2))[0] < first);
    assert!(third > first.min(second));
    assert_eq!(daemon.sweep(id)["state"], "completed");
}

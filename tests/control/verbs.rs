//! `ctl metrics`, `actors`, `config`, `logs` and their routes, over a run that has ended.

use crate::common::daemon::Daemon;
use crate::common::{Fixture, lines};
use std::process::Output;

fn text(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// behaviour: train-03
#[test]
fn metrics_come_in_pages_as_a_picture_as_json_and_as_csv() {
    let fixture = Fixture::new(40);
    let daemon = Daemon::start(&fixture);
    let run = daemon.submit("run", &[]);
    daemon.reaches(run, "completed");
    let logged = lines(&std::fs::read(fixture.path("run/metrics.jsonl")).unwrap());

    // Page by page, each point once and with the run's own numbers.
    let (mut points, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/runs/{run}/metrics?limit=7{after}");
        let page = daemon.http("GET", &path, "").json();
        points.extend(page["points"].as_array().unwrap().clone());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    let steps: Vec<u64> = points.iter().map(|p| p["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=40).collect::<Vec<_>>());
    for (point, logged) in points.iter().zip(&logged) {
        assert_eq!(point["loss"], logged["loss"], "{point} {logged}");
        assert!(point["gpu_mem"].is_null(), "unknown is null: {point}");
    }
    let some = |query: &str| {
        let path = format!("/v1/runs/{run}/metrics?{query}");
        let page = daemon.http("GET", &path, "").json();
        let points = page["points"].as_array().unwrap().iter();
        points
            .map(|p| p["step"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(some("from=39"), [39, 40]);
    assert_eq!(some("every=20"), [20, 40]);
    assert_eq!(some("site=elsewhere"), [0; 0]);
    for bad in ["after=x", "limit=x", "from=-1"] {
        let answer = daemon.http("GET", &format!("/v1/runs/{run}/metrics?{bad}"), "");
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (422, &"usage".into())
        );
    }

    let id = run.to_string();
    let shown = text(&daemon.ctl(&["metrics", &id]));
    assert!(shown.contains("step 40 of 40") && shown.contains("blocks.1.hook_resid_post"));
    for row in ["loss", "L0", "FVU", "dead", "grad norm", "lr", "tokens/s"] {
        assert!(
            shown.contains(&format!("\n{row}")) || shown.contains(row),
            "{row}: {shown}"
        );
    }
    assert!(shown.contains('█') && shown.contains('▁'), "{shown}");
    assert!(
        shown.lines().all(|line| line.chars().count() <= 80),
        "{shown}"
    );
    let json = lines(&daemon.ctl(&["metrics", &id, "--json"]).stdout);
    assert_eq!(json, points);
    let csv = text(&daemon.ctl(&["metrics", "tiny", "--csv", "--from", "40"]));
    let header = "step,site,loss,l0,l1,dead,fvu,lr,grad_norm,gpu_mem,tokens_per_second";
    let mut csv = csv.lines();
    assert_eq!(csv.next(), Some(header));
    assert!(
        csv.next()
            .unwrap()
            .starts_with("40,blocks.1.hook_resid_post,")
    );
    assert_eq!(csv.next(), None);
}

/// behaviour: cli-03
#[test]
fn logs_are_a_line_an_event_without_the_steps_unless_they_are_asked_for() {
    let fixture = Fixture::new(20);
    let daemon = Daemon::start(&fixture);
    let run = daemon.submit("run", &[]);
    daemon.reaches(run, "completed");
    let logs = |args: &[&str]| text(&daemon.ctl(&[&["logs"], args].concat()));
    let all = logs(&["-n", "0"]);
    let kinds = [
        "run queued",
        "run started",
        "checkpoint saved",
        "validation",
        "run completed",
    ];
    let places: Vec<_> = kinds
        .iter()
        .map(|kind| all.find(&format!("run 1 {kind}")))
        .collect();
    assert!(
        places.iter().all(Option::is_some) && places.is_sorted(),
        "{all}"
    );
    assert!(!all.contains(" step: "), "{all}");
    let steps = logs(&["--all", "-n", "0"]);
    assert_eq!(steps.matches("run 1 step: ").count(), 20, "{steps}");
    assert_eq!(
        logs(&["-n", "2"]),
        all.lines()
            .rev()
            .take(2)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    );
    assert_eq!(logs(&["1", "-n", "0"]), all);
    assert_eq!(logs(&["--since", "1h", "-n", "0"]), all);
    assert_eq!(logs(&["--since", "2100-01-01"]), "");
    // A run that has ended says nothing more, so that following it ends.
    assert_eq!(logs(&["tiny", "--follow", "-n", "0"]), all);
    let events = lines(logs(&["--json", "-n", "0", "--all"]).as_bytes());
    let ids: Vec<u64> = events.iter().map(|e| e["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>());
    let bad = daemon.ctl(&["logs", "--since", "soon"]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("90s, 15m, 2h, 3d"));
}

#[test]
fn actors_and_settings_are_shown_and_secrets_are_not() {
    let fixture = Fixture::new(1);
    let daemon = Daemon::start_with(&fixture, &[("BACKPROPD_WORKERS__LIMIT", "3")]);
    let actors = daemon.json(&["actors"]);
    let names: Vec<&str> = actors
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["name"].as_str().unwrap())
        .collect();
    assert!(
        names.contains(&"store") && names.contains(&"runs"),
        "{names:?}"
    );
    for actor in actors.as_array().unwrap() {
        assert_eq!(
            (&actor["well"], &actor["restarts"]),
            (&true.into(), &0.into()),
            "{actor}"
        );
    }
    let shown = text(&daemon.ctl(&["actors"]));
    assert!(
        shown.contains("store") && shown.contains("running"),
        "{shown}"
    );
    assert!(
        shown.lines().all(|line| line.chars().count() <= 80),
        "{shown}"
    );
    let settings = daemon.json(&["config"]);
    assert_eq!(settings["workers"]["limit"], 3);
    assert_eq!(settings["workers"]["hang_seconds"], 600);
    assert!(text(&daemon.ctl(&["config"])).contains("[workers]\n"));
}

#[test]
fn a_reader_that_has_enough_ends_a_verb_quietly() {
    let fixture = Fixture::new(1);
    let daemon = Daemon::start(&fixture);
    let (read, write) = std::io::pipe().unwrap();
    drop(read);
    let output = crate::common::backpropd()
        .args(["ctl", "--socket"])
        .arg(daemon.socket())
        .arg("config")
        .stdout(write)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
}

//! The daemon as a user has it: the real binary, its socket, its worker processes, real
//! signals.

mod common;

use common::daemon::{Daemon, kill};
use common::{Fixture, backpropd, until};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Slow enough that a test can do something to it meanwhile.
fn long() -> Fixture {
    Fixture::new(400)
}

/// What the run would be if nothing had happened to it.
fn undisturbed(fixture: &Fixture) -> common::RunResult {
    fixture.events("alone", &[]);
    fixture.result("alone")
}

#[test]
fn a_run_is_the_same_in_a_worker_as_in_the_foreground() {
    let fixture = Fixture::new(12);
    let daemon = Daemon::start(&fixture);
    let args = ["submit", "run.toml", "--set", "output=run", "--watch"];
    let output = daemon.ctl(&[&args[..], &["--json"]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let events = common::lines(&output.stdout);
    assert_eq!(events[0]["kind"], "run_queued");
    assert_eq!(events.last().unwrap()["kind"], "run_completed");
    let seqs = events.iter().map(|event| event["seq"].as_u64().unwrap());
    let seqs: Vec<u64> = seqs.collect();
    let whole: Vec<u64> = (1..=events.len() as u64).collect();
    assert_eq!(seqs, whole, "no gap, no repeat");
    let steps = common::of_kind(&events, "step");
    let steps = steps.iter().map(|event| event["step"].as_u64().unwrap());
    assert!(steps.eq(1..=12));
    let expected = undisturbed(&fixture);
    assert_eq!(fixture.result("run"), expected);
}

/// behaviour: e2e-04
#[test]
fn killed_workers_and_a_killed_daemon_change_nothing() {
    let fixture = long();
    let daemon = Daemon::start(&fixture);
    let run = daemon.submit("run", &[]);
    let first = daemon.trains(run, 10, None);
    kill(first, Signal::KILL);
    let second = daemon.trains(run, 20, Some(first));
    daemon.signal(Signal::KILL);
    // Its input has ended: it saves and goes, and nobody has to kill it.
    let gone = || !PathBuf::from(format!("/proc/{second}")).exists();
    until("the orphan ends", || gone().then_some(()));
    let daemon = Daemon::start(&fixture);
    daemon.trains(run, 30, Some(second));
    let watched = daemon.ctl(&["watch", &run.to_string()]);
    assert!(
        watched.status.success(),
        "{}",
        String::from_utf8_lossy(&watched.stderr)
    );
    let shown = daemon.show(run);
    assert_eq!(
        (&shown["state"], &shown["step"]),
        (&"completed".into(), &400.into())
    );
    assert_eq!(shown["workers"], 3);
    assert_eq!(fixture.result("run"), undisturbed(&fixture));
}

#[test]
fn a_worker_that_stands_still_is_replaced() {
    let fixture = long();
    let daemon = Daemon::start_with(&fixture, &[("BACKPROPD_WORKERS__HANG_SECONDS", "2")]);
    let run = daemon.submit("run", &[]);
    let worker = daemon.trains(run, 10, None);
    kill(worker, Signal::STOP);
    daemon.trains(run, 20, Some(worker));
    let gone = || !PathBuf::from(format!("/proc/{worker}")).exists();
    until("the hung worker is killed", || gone().then_some(()));
    daemon.reaches(run, "completed");
    assert_eq!(fixture.result("run"), undisturbed(&fixture));
}

#[test]
fn a_worker_that_is_lost_too_often_fails_its_run_which_can_be_retried() {
    let fixture = long();
    let daemon = Daemon::start_with(&fixture, &[("BACKPROPD_WORKERS__RESTARTS", "0")]);
    let run = daemon.submit("run", &[]);
    kill(daemon.trains(run, 10, None), Signal::ABORT);
    let watched = daemon.ctl(&["watch", &run.to_string()]);
    let said = String::from_utf8_lossy(&watched.stderr);
    assert_eq!(watched.status.code(), Some(88), "{said}");
    assert!(
        said.contains("signal 6") && said.contains("`retry`"),
        "{said}"
    );
    daemon.json(&["retry", &run.to_string()]);
    daemon.reaches(run, "completed");
    assert_eq!(fixture.result("run"), undisturbed(&fixture));
}

#[test]
fn sigterm_saves_all_runs_and_they_go_on_with_the_next_daemon() {
    let fixture = long();
    let daemon = Daemon::start(&fixture);
    let run = daemon.submit("run", &[]);
    let worker = daemon.trains(run, 5, None);
    assert!(daemon.signal(Signal::TERM).success());
    assert!(!PathBuf::from(format!("/proc/{worker}")).exists());
    assert!(!fixture.path("socket").exists());
    let daemon = Daemon::start(&fixture);
    daemon.reaches(run, "completed");
    assert_eq!(fixture.result("run"), undisturbed(&fixture));
}

#[test]
fn commands_are_acknowledged_and_idempotent() {
    let fixture = long();
    let daemon = Daemon::start(&fixture);
    let run = daemon.submit("run", &[]);
    let id = run.to_string();
    daemon.trains(run, 5, None);
    let changed = |command: &str| daemon.json(&[command, &id])["changed"].clone();
    assert_eq!(changed("pause"), true);
    assert_eq!(changed("pause"), false);
    let paused = daemon.reaches(run, "paused");
    assert!(paused["pid"].is_i64(), "it keeps its worker");
    assert_eq!(changed("resume"), true);
    daemon.reaches(run, "running");
    assert_eq!(changed("stop"), true);
    daemon.reaches(run, "stopped");
    assert_eq!(changed("stop"), false);
    let refused = daemon.ctl(&["retry", &id]);
    assert_eq!(refused.status.code(), Some(84));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("not-possible") && said.contains("`resume`"),
        "{said}"
    );
    assert_eq!(changed("resume"), true);
    daemon.reaches(run, "completed");
    assert_eq!(fixture.result("run"), undisturbed(&fixture));
}

#[test]
fn a_run_that_fails_says_why_and_is_not_tried_again() {
    let fixture = Fixture::new(5);
    let daemon = Daemon::start(&fixture);
    let run = daemon.submit("run", &["--set", "data.path=nowhere.txt"]);
    let watched = daemon.ctl(&["watch", &run.to_string()]);
    let said = String::from_utf8_lossy(&watched.stderr);
    assert_eq!(watched.status.code(), Some(31), "{said}");
    assert!(
        said.contains("data-missing") && said.contains("nowhere.txt"),
        "{said}"
    );
    assert_eq!(daemon.show(run)["workers"], 1);
    let refused = daemon.ctl(&["submit", "run.toml", "--set", "sae.k=1000"]);
    assert_eq!(
        refused.status.code(),
        Some(10),
        "refused before it is queued"
    );
}

#[test]
fn higher_priorities_go_first_and_a_key_queues_once() {
    let fixture = long();
    let daemon = Daemon::start(&fixture);
    let first = daemon.submit("first", &[]);
    daemon.trains(first, 1, None);
    let low = daemon.submit("low", &["--key", "a"]);
    let high = daemon.submit("high", &["--priority", "5"]);
    assert_eq!(daemon.submit("low", &["--key", "a"]), low);
    daemon.json(&["abort", &first.to_string()]);
    daemon.trains(high, 1, None);
    assert_eq!(daemon.show(low)["state"], "queued");
    assert_eq!(daemon.reaches(first, "aborted")["pid"], Value::Null);
}

#[test]
fn old_events_are_forgotten_and_a_reader_is_told() {
    let fixture = Fixture::new(40);
    let daemon = Daemon::start_with(&fixture, &[("BACKPROPD_EVENTS__KEEP", "5")]);
    let run = daemon.submit("run", &[]);
    daemon.reaches(run, "completed");
    let events = until("old events are forgotten", || {
        let output = daemon.ctl(&["watch", &run.to_string(), "--json"]);
        let events = common::lines(&output.stdout);
        (events.len() <= 6).then_some(events)
    });
    assert_eq!(events[0]["kind"], "gap");
    assert_eq!(events[0]["reason"], "pruned");
    assert_eq!(events.last().unwrap()["kind"], "run_completed");

    // A reader whose numbers are from another database starts over, and comes to an end.
    let request = format!("GET /v1/runs/{run}/events?since=999999 HTTP/1.1\r\nhost: x\r\n");
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream.write_all(b"connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer).unwrap();
    assert_eq!(answer.matches("event: gap").count(), 1, "{answer}");
    assert_eq!(
        answer.matches("event: run_completed").count(),
        1,
        "{answer}"
    );
}

#[test]
fn a_run_that_is_stopped_before_it_trains_is_stopped_and_not_failed() {
    let fixture = long();
    let daemon = Daemon::start_with(&fixture, &[("BACKPROPD_WORKERS__RESTARTS", "0")]);
    for _ in 0..5 {
        // At whatever point of its preparation the order meets it.
        let run = daemon.submit("run", &[]);
        daemon.json(&["stop", &run.to_string()]);
        daemon.reaches(run, "stopped");
    }
}

#[test]
fn a_second_daemon_is_refused_and_names_the_first() {
    let fixture = Fixture::new(1);
    let daemon = Daemon::start(&fixture);
    let second = Daemon::command(&fixture).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(80), "{said}");
    assert!(said.contains(&daemon.child.id().to_string()), "{said}");
    assert!(daemon.ctl(&["status"]).status.success());
}

#[test]
fn without_a_daemon_one_line_says_how_to_start_it() {
    let fixture = Fixture::new(1);
    let socket = fixture.path("socket");
    let output = backpropd()
        .args(["ctl", "status", "--socket"])
        .arg(socket)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(85));
    assert_eq!(said.lines().count(), 1);
    assert!(
        said.contains("daemon-unavailable") && said.contains("backpropd daemon"),
        "{said}"
    );
}

#[test]
fn malformed_requests_get_a_problem_and_cost_nothing() {
    let fixture = Fixture::new(1);
    let daemon = Daemon::start(&fixture);
    let ask = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        // The daemon may answer and close before everything is written.
        let _ = stream.write_all(bytes);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    let post = |length: usize, body: &str| {
        let head = "POST /v1/runs HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: ";
        format!("{head}{length}\r\n\r\n{body}")
    };
    for (request, status, part) in [
        (
            "GET /v1/runs/99 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
            "404",
            "not-found",
        ),
        (
            "GET /v1/runs/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
            "404",
            "is no number",
        ),
        (
            "GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
            "404",
            "not-found",
        ),
        (post(7, "{\"x\":1}"), "422", "usage"),
        (post(1 << 30, "x"), "413", ""),
        ("nonsense\r\n\r\n".to_owned(), "400", ""),
    ] {
        let answer = ask(request.as_bytes());
        let first = answer.lines().next().unwrap_or_default();
        assert!(
            first.contains(status) && answer.contains(part),
            "{request:?}: {answer}"
        );
    }
    // Half a request and nothing more, whether or not the other half is still awaited.
    let half = post(100, "half");
    let mut stays = UnixStream::connect(daemon.socket()).unwrap();
    stays.write_all(half.as_bytes()).unwrap();
    let mut goes = UnixStream::connect(daemon.socket()).unwrap();
    goes.write_all(half.as_bytes()).unwrap();
    drop(goes);
    assert_eq!(daemon.json(&["runs"]), Value::Array(Vec::new()));
}

//! Streams of events: resumed by number, filtered, ended.

use crate::common::Fixture;
use crate::common::daemon::{Daemon, exchange};
use serde_json::Value;
use std::os::unix::net::UnixStream;

/// The events of a stream that ends by itself.
fn stream(daemon: &Daemon<'_>, path: &str, header: &str) -> Vec<Value> {
    let request = format!("GET {path} HTTP/1.0\r\nhost: x\r\n{header}\r\n");
    let answer = exchange(
        UnixStream::connect(daemon.socket()).unwrap(),
        request.as_bytes(),
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    let data = answer
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    data.map(|json| serde_json::from_str(json).unwrap())
        .collect()
}

fn ids(events: &[Value]) -> Vec<u64> {
    events
        .iter()
        .map(|event| event["id"].as_u64().unwrap())
        .collect()
}

/// behaviour: stream-02, stream-05
#[test]
fn a_client_that_comes_back_gets_exactly_what_it_missed() {
    let fixture = Fixture::new(20);
    let daemon = Daemon::start(&fixture);
    let (one, two) = (daemon.submit("one", &[]), daemon.submit("two", &[]));
    daemon.reaches(one, "completed");
    daemon.reaches(two, "completed");
    let all = stream(&daemon, "/v1/events?since=0&follow=false", "");
    assert_eq!(ids(&all), (1..=all.len() as u64).collect::<Vec<_>>());
    for run in [one, two] {
        // Within a run: its own count without a gap, in the order of the whole.
        let of_run: Vec<_> = all.iter().filter(|event| event["run"] == run).collect();
        let seqs: Vec<u64> = of_run.iter().map(|e| e["seq"].as_u64().unwrap()).collect();
        assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
        let path = format!("/v1/runs/{run}/events?since=0");
        let followed = stream(&daemon, &path, "");
        assert!(
            followed.iter().eq(of_run),
            "the run's own stream says the same"
        );
    }
    for last in [1, 7, all.len() as u64 - 1, all.len() as u64] {
        let header = format!("last-event-id: {last}\r\n");
        // The header goes first: it is what a browser sends when it comes back.
        let rest = stream(&daemon, "/v1/events?since=0&follow=false", &header);
        assert_eq!(rest, all[last as usize..], "after {last}");
    }
    // A number that was never given: told, and everything again.
    let unknown = stream(&daemon, "/v1/events?since=999999&follow=false", "");
    assert_eq!(
        (&unknown[0]["kind"], &unknown[0]["reason"]),
        (&"gap".into(), &"unknown".into())
    );
    assert_eq!(unknown[1..], all);
}

/// behaviour: stream-04
#[test]
fn kinds_can_be_chosen_and_left_out_and_every_event_says_its_version() {
    let fixture = Fixture::new(10);
    let daemon = Daemon::start(&fixture);
    let run = daemon.submit("run", &[]);
    daemon.reaches(run, "completed");
    let of = |query: &str| {
        stream(
            &daemon,
            &format!("/v1/events?since=0&follow=false{query}"),
            "",
        )
    };
    let all = of("");
    assert!(
        all.iter()
            .all(|event| event["v"] == 1 && event["at"].as_i64().unwrap() > 0)
    );
    let kind = |event: &Value| event["kind"].as_str().unwrap().to_owned();
    let steps = of("&kinds=step");
    assert_eq!(steps.len(), 10);
    let some = of("&kinds=step,run_completed,no_such_kind");
    assert_eq!(
        (some.len(), kind(some.last().unwrap())),
        (11, "run_completed".into())
    );
    let others = of("&except=step");
    assert_eq!(others.len() + steps.len(), all.len());
    assert!(others.iter().all(|event| kind(event) != "step"));
    let later = all[5]["at"].as_i64().unwrap();
    let since = of(&format!("&from_time={later}"));
    let expected = all
        .iter()
        .filter(|event| event["at"].as_i64().unwrap() >= later);
    assert!(since.iter().eq(expected));
    assert!(of("&from_time=99999999999999").is_empty());
}

#[test]
fn a_run_that_ends_in_the_queue_says_so() {
    let fixture = Fixture::new(100_000);
    let daemon = Daemon::start(&fixture);
    let first = daemon.submit("first", &[]);
    for (verb, kind) in [("stop", "stopped"), ("abort", "aborted")] {
        let run = daemon.submit(verb, &[]);
        let id = run.to_string();
        daemon.json(&["pause", &id]);
        daemon.json(&[verb, &id]);
        let told = daemon
            .http("GET", &format!("/v1/runs/{run}/events?since=0"), "")
            .body;
        let kinds: Vec<&str> = told
            .lines()
            .filter_map(|line| line.strip_prefix("event: "))
            .collect();
        assert_eq!(kinds, ["run_queued", kind], "{told}");
        assert!(told.contains("before it had begun"), "{told}");
        // Told again nothing happens again.
        daemon.json(&[verb, &id]);
        assert_eq!(
            daemon
                .http("GET", &format!("/v1/runs/{run}/events?since=0"), "")
                .body,
            told
        );
    }
    daemon.json(&["abort", &first.to_string()]);
    daemon.reaches(first, "aborted");
}

#[test]
fn a_failed_run_says_its_code_once() {
    let fixture = Fixture::new(1);
    let daemon = Daemon::start(&fixture);
    let run = daemon
        .submit("run", &["--set", "data.path=nowhere.txt"])
        .to_string();
    let watched = daemon.ctl(&["watch", &run]);
    let said = String::from_utf8_lossy(&watched.stderr).into_owned();
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("error: data-missing: "), "{said}");
    assert_eq!(last.matches("data-missing").count(), 1, "{said}");
    let shown = String::from_utf8(daemon.ctl(&["show", &run]).stdout).unwrap();
    assert_eq!(shown.matches("data-missing").count(), 1, "{shown}");
}

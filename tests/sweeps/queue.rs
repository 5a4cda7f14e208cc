//! The queue through kills of the daemon.

use super::common::Fixture;
use super::common::daemon::{Daemon, exchange};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::os::unix::net::UnixStream;

/// Submits with `key` until it is acknowledged. A daemon that is not there, or dies before
/// it answers, is asked again.
fn submit(fixture: &Fixture, body: &Value) -> u64 {
    let body = body.to_string();
    super::common::until("an acknowledgement", || {
        let stream = UnixStream::connect(fixture.path("socket")).ok()?;
        let length = body.len();
        let head = "POST /v1/runs HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length:";
        let answer = exchange(stream, format!("{head} {length}\r\n\r\n{body}").as_bytes());
        let acknowledged = [200, 201].contains(&answer.status);
        acknowledged.then(|| answer.json()["id"].as_u64().unwrap())
    })
}

/// Row 10 of the faults: every acknowledged submission is there once, in order.
#[test]
fn acknowledged_submissions_survive_kills_once_and_in_order() {
    let full = std::env::var_os("BACKPROPD_FULL").is_some();
    let (submits, kills) = if full { (10_000, 500) } else { (60, 4) };
    let fixture = Fixture::new(1_000_000);
    let run_toml = std::fs::read_to_string(fixture.path("run.toml")).unwrap();
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let acknowledged: Vec<u64> = std::thread::scope(|scope| {
        let fixture = &fixture;
        scope.spawn(move || {
            // Kills spread over the submissions, at instants that have nothing to do with
            // what the daemon does.
            for _ in 0..kills {
                let daemon = Daemon::start(fixture);
                std::thread::sleep(std::time::Duration::from_millis(60));
                daemon.signal(Signal::KILL);
            }
            let _daemon = Daemon::start(fixture);
            // Until the other end is dropped.
            let _ = is_done.recv();
        });
        let submits = (0..submits).map(|n| {
            let body = json!({
                "run_toml": run_toml, "base": fixture.dir.path(), "key": n.to_string(),
                "set": [format!("name=run-{n}")],
            });
            // Slow enough that every kill falls among them.
            std::thread::sleep(std::time::Duration::from_millis(15));
            submit(fixture, &body)
        });
        let ids = submits.collect();
        drop(done);
        ids
    });
    assert!(
        acknowledged.windows(2).all(|pair| pair[0] < pair[1]),
        "in order"
    );
    let daemon = Daemon::start(&fixture);
    let runs = daemon.json(&["runs"]);
    let mut found: Vec<u64> = runs
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["id"].as_u64().unwrap())
        .collect();
    found.reverse();
    // A list has the newest thousand.
    let expected = &acknowledged[acknowledged.len().saturating_sub(1000)..];
    assert_eq!(found, expected, "each once, and nothing else");
}

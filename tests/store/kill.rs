//! SIGKILL of a real process at moments of nobody's choice. Whatever it acknowledged is
//! there afterwards, and nothing is there by half.

use super::{open, size};
use backpropd::domain::RunId;
use backpropd::protocol::service::Point;
use backpropd::store::{MetricQuery, NewRun, RunQuery, Store};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const FOLDER: &str = "BACKPROPD_TEST_STORE_FOLDER";

/// Points of each transaction.
const POINTS: u64 = 20;

/// Not a test of its own: without the variable it does nothing.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let mut store = open(&dir);
    let mut say = std::io::stdout();
    loop {
        let name = submit_one(&mut store);
        // One write: a line is there wholly or not at all.
        say.write_all(format!("\nacknowledged {}\n", name.0).as_bytes())
            .unwrap();
    }
}

/// One transaction of everything: a run named by its own submission, its events, points.
fn submit_one(store: &mut Store) -> RunId {
    store
        .write(|tx| {
            let newest = tx.runs(&RunQuery::default(), 1)?;
            let next = newest.first().map_or(1, |run| run.id.0 + 1);
            let new = NewRun::new(format!("run-{next}"), "x".repeat(3_000));
            let submitted = tx.submit(&new, Some(&new.name), next)?;
            let run = submitted.run;
            assert!(submitted.new && run.0 == next);
            tx.append(Some(run), "run_queued", &new.name, next)?;
            let points = (1..=POINTS).map(|step| Point {
                step,
                site: "site".to_owned(),
                loss: Some(next as f64),
                ..Point::default()
            });
            tx.log(run, &points.collect::<Vec<_>>())?;
            tx.append(Some(run), "logged", &POINTS, next)?;
            Ok(run)
        })
        .unwrap()
}

/// Kills a writer after `after` and returns what it had acknowledged.
fn kill_one(dir: &Path, after: Duration) -> Vec<i64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
        .env(FOLDER, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).map(|_| text)
    });
    // Time is the instrument here, not a condition that is waited for.
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    let text = reader.join().unwrap().unwrap();
    assert!(!text.contains("panicked"), "{text}");
    let lines = text.split_inclusive('\n');
    let ids = lines.filter_map(|line| line.strip_prefix("acknowledged ")?.strip_suffix('\n'));
    ids.map(|id| id.parse().unwrap()).collect()
}

#[test]
fn every_acknowledged_write_survives_kill_9_exactly_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let kills = size(8, 300);
    let mut acknowledged = BTreeSet::new();
    let mut known = 0;
    for round in 0..kills {
        // From before the store is open to well after.
        let after = Duration::from_micros(2_000 + (round as u64 * 7_919_317) % 120_000);
        acknowledged.extend(kill_one(dir.path(), after));

        let store = open(dir.path());
        let newest = store.view().runs(&RunQuery::default(), 1).unwrap();
        let last = newest.first().map_or(0, |run| run.id.0);
        assert!(acknowledged.last().is_none_or(|&id| id <= last));
        for id in known + 1..=last {
            check(&store, id);
        }
        assert_eq!(store.view().newest_event().unwrap(), 2 * last as u64);
        known = last;
    }
    let expected: BTreeSet<_> = (1..=known).collect();
    let lost: Vec<_> = acknowledged.difference(&expected).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(
        acknowledged.len() > kills,
        "too few writes to mean anything"
    );
    println!(
        "{kills} kills, {} acknowledged, {known} there",
        acknowledged.len()
    );
}

/// Run `id` with all that its transaction wrote.
fn check(store: &Store, id: i64) {
    let (view, run) = (store.view(), RunId(id));
    assert_eq!(view.run(run).unwrap().name, format!("run-{id}"));
    assert_eq!(view.run_config(run).unwrap().toml.len(), 3_000);
    let points = view.metrics(run, &MetricQuery::default(), 999).unwrap();
    assert_eq!(points.len() as u64, POINTS);
    assert!(points.iter().all(|point| point.loss == Some(id as f64)));
    let events = view.events(0, Some(run), 9).unwrap().events;
    let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["run_queued", "logged"]);
}

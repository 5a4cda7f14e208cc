//! The worker process of models and datasets, spoken to as the daemon does.

use crate::common::{backpropd, until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How a task ended.
pub struct Ended {
    /// The last fact.
    pub last: Value,
    pub status: std::process::ExitStatus,
    pub took: Duration,
}

impl Ended {
    /// The code that it failed with.
    pub fn code(&self) -> Option<&str> {
        self.last["problem"]["code"].as_str()
    }

    pub fn peak_memory(&self) -> u64 {
        self.last["peak_memory"].as_u64().unwrap()
    }
}

/// Lets a worker do `task`; it must end by itself, with a last word.
pub fn work(task: &Value) -> Ended {
    let began = Instant::now();
    let mut child = backpropd()
        .arg("worker")
        .env("RAYON_NUM_THREADS", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let begin = json!({ "work": "asset", "v": 1, "task": task });
    writeln!(input, "{begin}").unwrap();
    let mut last = Value::Null;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let said: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if said["kind"] == "done" || said["kind"] == "failed" {
            last = said;
        }
    }
    drop(input);
    let status = child.wait().unwrap();
    let took = began.elapsed();
    assert_eq!(status.signal(), None, "{task}: {status}");
    assert_ne!(last, Value::Null, "{task}: no last word, {status}");
    Ended { last, status, took }
}

#[test]
fn a_worker_that_reads_files_from_elsewhere_has_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endless.txt");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let mut child = backpropd()
        .arg("worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let task = json!({ "do": "validate", "data": path, "text_column": "text" });
    writeln!(
        input,
        "{}",
        json!({ "work": "asset", "v": 1, "task": task })
    )
    .unwrap();
    let limits = PathBuf::from(format!("/proc/{}/limits", child.id()));
    let bounded = until("it bounds itself", || {
        let limits = std::fs::read_to_string(&limits).unwrap();
        let of = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().split_whitespace().next().unwrap().to_owned()
        };
        (of("Max file size") == "0").then(|| {
            [
                of("Max data size"),
                of("Max file size"),
                of("Max core file size"),
            ]
        })
    });
    assert_eq!(bounded, [(2_u64 << 30).to_string(), "0".into(), "0".into()]);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// behaviour: data-03
#[test]
fn a_dataset_of_any_size_is_read_in_bounded_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.jsonl");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    let words = crate::common::text(400);
    for n in 0..60_000 {
        writeln!(file, "{}", json!({ "text": format!("{n} {words}") })).unwrap();
    }
    drop(file);
    let bytes = path.metadata().unwrap().len();
    assert!(bytes > 100 << 20, "{bytes}");
    let ended = work(&json!({ "do": "validate", "data": path, "text_column": "text" }));
    let report = &ended.last["outcome"]["validated"];
    assert_eq!(
        (&report["rows"], &report["valid"]),
        (&json!(60_000), &json!(true))
    );
    assert_eq!(report["duplicate_rows"], 0);
    let peak = ended.peak_memory();
    assert!(peak < 64 << 20, "{peak} bytes for a file of {bytes}");
}

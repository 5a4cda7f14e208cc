//! Models and datasets that a daemon knows: the real binary, its workers, real files.

#[path = "../common/mod.rs"]
mod common;
mod datasets;
mod hostile;
mod models;
mod runs;
mod tokens;
mod worker;

use common::daemon::Daemon;
use common::{Fixture, data};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A copy of a model that may be spoilt.
fn copy_model(name: &str, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(data("lm").join(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// The error of a command: its exit status and line.
#[track_caller]
fn refused(daemon: &Daemon<'_>, args: &[&str]) -> (i32, String) {
    let output = daemon.ctl(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{args:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
    (output.status.code().unwrap(), said)
}

/// Adds and waits until all of it was read.
fn add(daemon: &Daemon<'_>, kind: &str, name: &str, path: &Path) -> Value {
    let path = path.to_str().unwrap();
    daemon.json(&[kind, "add", name, path, "--watch"])
}

fn show(daemon: &Daemon<'_>, kind: &str, name: &str) -> Value {
    daemon.json(&[kind, "show", name])
}

/// All events so far of the kinds that begin with `prefix`.
fn events(daemon: &Daemon<'_>, prefix: &str) -> Vec<Value> {
    use std::io::{BufRead, BufReader, Write};
    static MARKS: AtomicU32 = AtomicU32::new(0);
    // Something to recognise the end of what is there by.
    let mark = format!("mark-{}", MARKS.fetch_add(1, Ordering::Relaxed));
    let path = daemon.fixture.path("text.txt");
    daemon.json(&["datasets", "add", &mark, path.to_str().unwrap()]);
    let mut stream = std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap();
    let request = "GET /v1/events?since=0 HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut found = Vec::new();
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        let Some(json) = line.strip_prefix("data:") else {
            continue;
        };
        let event: Value = serde_json::from_str(json).unwrap();
        let name = event["name"].as_str().unwrap_or_default();
        if name == mark {
            return found;
        }
        if !name.starts_with("mark-") && event["kind"].as_str().unwrap().starts_with(prefix) {
            found.push(event);
        }
    }
    panic!("the stream ended before {mark}");
}

fn quickstart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart")
}

/// A daemon is started on this; its run trains on `model:m` and `dataset:d`.
fn named() -> Fixture {
    let fixture = Fixture::new(12);
    let toml = std::fs::read_to_string(fixture.path("run.toml")).unwrap();
    let model = data("lm/llama");
    let toml = toml
        .replace(model.to_str().unwrap(), "model:m")
        .replace("\"text.txt\"", "\"dataset:d\"");
    std::fs::write(fixture.path("named.toml"), toml).unwrap();
    fixture
}

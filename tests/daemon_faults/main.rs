//! What a daemon and its workers survive: memory that is not there, kills of the daemon itself,
//! with process numbers that come round again, and a time of day that jumps.

#[path = "../common/mod.rs"]
mod common;

mod clock;

use common::daemon::{Daemon, kill};
use common::{Fixture, until};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

fn full() -> bool {
    std::env::var_os("BACKPROPD_FULL").is_some()
}

/// Bytes that are resident of a process.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

/// The worker processes of the daemons on `fixture`, by what is in their environment.
fn workers(fixture: &Fixture) -> BTreeSet<i32> {
    let socket = format!(
        "BACKPROPD_CONTROL__SOCKET={}",
        fixture.path("socket").display()
    );
    let all = std::fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}"));
            let (Ok(line), Ok(environment)) = (read("cmdline"), read("environ")) else {
                return false;
            };
            let is_worker = line.split(|byte| *byte == 0).nth(1) == Some(b"worker");
            let mut variables = environment.split(|byte| *byte == 0);
            is_worker && variables.any(|variable| variable == socket.as_bytes())
        })
        .collect()
}

/// Row 8: 8 GiB under a limit of 1 GiB.
#[test]
fn a_worker_that_wants_too_much_memory_ends_and_costs_the_daemon_nothing() {
    let fixture = Fixture::new(20);
    let settings = [
        ("BACKPROPD_WORKERS__MEMORY_MIB", "1024"),
        ("BACKPROPD_WORKERS__RESTARTS", "0"),
    ];
    let daemon = Daemon::start_with(&fixture, &settings);
    let sound = daemon.submit("sound", &[]);
    daemon.reaches(sound, "completed");
    let before = resident(daemon.child.id());
    // 2 · d_sae · d_in numbers of four bytes, four times over: 8 GiB.
    let greedy = daemon.submit(
        "greedy",
        &[
            "--set",
            "sae.d_sae=8388608",
            "--set",
            "training.max_memory_mib=1000000",
        ],
    );
    let watched = daemon.ctl(&["watch", &greedy.to_string()]);
    let said = String::from_utf8_lossy(&watched.stderr);
    assert_eq!(watched.status.code(), Some(61), "{said}");
    assert!(said.contains("out-of-memory"), "{said}");
    until("the worker is gone", || {
        workers(&fixture).is_empty().then_some(())
    });
    let grown = resident(daemon.child.id()).saturating_sub(before);
    assert!(grown <= 16 << 20, "the daemon grew by {grown} bytes");
    let next = daemon.submit("next", &[]);
    daemon.reaches(next, "completed");
}

/// Row 9: no run has two workers, and none is left behind, whenever the daemon is killed.
#[test]
fn a_daemon_that_is_killed_again_and_again_neither_doubles_nor_forgets_its_runs() {
    let (runs, cycles, steps) = match full() {
        true => (20, 200, 40_000),
        false => (3, 4, 400),
    };
    let fixture = Fixture::new(steps);
    let limit = runs.to_string();
    let settings = [
        ("BACKPROPD_WORKERS__LIMIT", limit.as_str()),
        ("BACKPROPD_WORKERS__RESTARTS", "1000000"),
    ];
    let mut daemon = Daemon::start_with(&fixture, &settings);
    let all: Vec<u64> = (0..runs)
        .map(|n| daemon.submit(&format!("run{n}"), &[]))
        .collect();
    // A process of somebody else that was given a worker's number.
    let mut other = Command::new("sleep")
        .arg("86400")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    for cycle in 0..cycles {
        let at = all[cycle % all.len()];
        until("some work", || {
            let live = workers(&fixture);
            assert!(live.len() <= runs, "{live:?}");
            let shown = daemon.show(at);
            let goes_on = shown["pid"].is_i64() || shown["state"] == "completed";
            goes_on.then_some(())
        });
        // At another instant of its work each time.
        std::thread::sleep(Duration::from_millis(cycle as u64 * 37 % 150));
        daemon.signal(Signal::KILL);
        if cycle % 2 == 1 {
            until("the orphans end", || {
                workers(&fixture).is_empty().then_some(())
            });
            let database = fixture.path("state").join(backpropd::store::DATABASE);
            let store = rusqlite::Connection::open(database).unwrap();
            let sql = "UPDATE runs SET worker_pid = ?1 WHERE worker_pid IS NOT NULL";
            store.execute(sql, [other.id()]).unwrap();
        }
        daemon = Daemon::start_with(&fixture, &settings);
    }
    assert_eq!(other.try_wait().unwrap(), None, "it was left alone");
    other.kill().unwrap();
    other.wait().unwrap();
    if full() {
        // They would take hours.
        for run in &all {
            daemon.json(&["stop", &run.to_string()]);
            daemon.reaches(*run, "stopped");
        }
    } else {
        fixture.events("alone", &[]);
        for (n, run) in all.iter().enumerate() {
            daemon.reaches(*run, "completed");
            assert_eq!(fixture.result(&format!("run{n}")), fixture.result("alone"));
        }
    }
    until("no worker is left", || {
        workers(&fixture).is_empty().then_some(())
    });
    kill(daemon.child.id() as i32, Signal::TERM);
    assert!(daemon.child.wait().unwrap().success());
}

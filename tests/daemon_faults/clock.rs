//! A time of day that jumps by years, ahead and back.

use crate::common::daemon::{Daemon, kill};
use crate::common::{Fixture, lines, of_kind, until};
use crate::full;
use rustix::process::Signal;
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Ten years of seconds.
const FAR: i64 = 10 * 365 * 24 * 3600;

/// The time of day of a daemon and its workers.
struct Clock {
    file: PathBuf,
    library: PathBuf,
    random: u64,
    jumps: usize,
}

impl Clock {
    fn new(folder: &Path) -> Self {
        let library = folder.join("libclock.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/daemon_faults/clock.c");
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let built = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .output()
            .expect("the tests need a C compiler");
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "{said}");
        let clock = Self {
            file: folder.join("clock"),
            library,
            random: 7,
            jumps: 0,
        };
        std::fs::write(&clock.file, 0i64.to_ne_bytes()).unwrap();
        clock
    }

    /// Sets it `seconds` from the real one.
    fn set(&self, seconds: i64) {
        let file = File::options().write(true).open(&self.file).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// Ahead and back in turn, by up to ten years.
    fn jump(&mut self) {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005) | 1;
        let far = (self.random >> 33) as i64 % FAR;
        self.set(if self.jumps.is_multiple_of(2) {
            far
        } else {
            -far
        });
        self.jumps += 1;
    }

    fn start<'a>(&self, fixture: &'a Fixture) -> Daemon<'a> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(fixture.path("daemon.log"));
        let mut command = Daemon::command(fixture);
        command
            .arg("--config")
            .arg(fixture.path("daemon.toml"))
            .env("LD_PRELOAD", &self.library)
            .env("BACKPROPD_TEST_CLOCK", &self.file)
            .stderr(log.unwrap());
        Daemon::spawn(&mut command, fixture)
    }
}

/// Waits for the end of a run while the clock jumps; where `lose` says so, its worker is lost
/// on the way.
fn completes(daemon: &Daemon, clock: &mut Clock, run: u64, mut lose: bool) {
    until("the end of the run", || {
        let shown = daemon.show(run);
        assert_ne!(shown["state"], "failed", "{shown}");
        clock.jump();
        if lose
            && shown["step"].as_u64() >= Some(10)
            && let Some(pid) = shown["pid"].as_i64()
        {
            kill(pid as i32, Signal::KILL);
            lose = false;
        }
        (shown["state"] == "completed").then_some(())
    });
}

/// Row 16: runs, a sweep, lost workers and restarts of the daemon go on as if nothing were,
/// and everything happens once and in order.
#[test]
fn a_clock_that_jumps_changes_nothing_but_the_times_that_are_shown() {
    let jumps = if full() { 1000 } else { 40 };
    let fixture = Fixture::new(60);
    let heard = fixture.path("heard.jsonl");
    let handler = format!("name = \"heard\"\nkind = \"jsonl\"\npath = {heard:?}\nevents = [\"*\"]");
    std::fs::write(
        fixture.path("daemon.toml"),
        format!("[[handlers]]\n{handler}\n"),
    )
    .unwrap();
    let sweep = "run = \"run.toml\"\nname = \"s\"\noutput = \"out\"\n[grid]\nseed = [7, 8]\n";
    std::fs::write(fixture.path("sweep.toml"), sweep).unwrap();
    let mut clock = Clock::new(fixture.dir.path());
    let mut daemon = clock.start(&fixture);
    let mut runs = Vec::new();
    while clock.jumps < jumps || runs.len() < 3 {
        let run = daemon.submit(&format!("run{}", runs.len()), &[]);
        if runs.len() % 3 == 1 {
            daemon.trains(run, 10, None);
            clock.jump();
            assert!(daemon.signal(Signal::TERM).success());
            clock.jump();
            daemon = clock.start(&fixture);
        }
        completes(&daemon, &mut clock, run, runs.len() % 3 == 2);
        runs.push(run);
    }
    let sweep = daemon.json(&["sweep", "submit", "sweep.toml"])["id"].to_string();
    until("the end of the sweep", || {
        clock.jump();
        let state = daemon.json(&["sweep", "show", &sweep])["state"].clone();
        assert_ne!(state, "failed");
        (state == "completed").then_some(())
    });
    for seconds in [FAR, -FAR, 0] {
        clock.set(seconds);
        for shown in ["status", "runs", "logs", "handlers", "actors", "sweep"] {
            let args: &[&str] = match shown {
                "sweep" => &["sweep", "show", &sweep],
                _ => &[shown],
            };
            let output = daemon.ctl(args);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{args:?}: {said}");
        }
    }
    let events = daemon.ctl(&["logs", "--all", "-n", "0", "--json"]).stdout;
    let events = lines(&events);
    assert!(daemon.signal(Signal::TERM).success());
    happened_once(&events, &runs);
    was_heard_once(&events, &lines(&std::fs::read(heard).unwrap()));
    fixture.events("alone", &[]);
    for n in 0..runs.len() {
        assert_eq!(fixture.result(&format!("run{n}")), fixture.result("alone"));
    }
    let log = std::fs::read_to_string(fixture.path("daemon.log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
}

fn happened_once(events: &[Value], runs: &[u64]) {
    let of = |key: &str| -> Vec<i64> { events.iter().filter_map(|e| e[key].as_i64()).collect() };
    let count = events.len() as i64;
    assert_eq!(of("id"), (1..=count).collect::<Vec<_>>());
    let back = of("at")
        .windows(2)
        .any(|pair| pair[0] - pair[1] > 1000 * FAR / 10);
    assert!(back, "the clock of the daemon was set back");
    let once = |kind: &str, key: &str, about: u64| {
        let found = of_kind(events, kind);
        let found = found.iter().filter(|e| e[key] == about).count();
        assert_eq!(found, 1, "{kind} of {key} {about}");
    };
    for run in runs {
        let seqs: Vec<i64> = events
            .iter()
            .filter(|e| e["run"] == *run)
            .filter_map(|e| e["seq"].as_i64())
            .collect();
        assert_eq!(seqs, (1..=seqs.len() as i64).collect::<Vec<_>>());
        once("run_queued", "run", *run);
        once("run_completed", "run", *run);
    }
    for index in [1, 2] {
        once("run_start", "run_idx", index);
        once("run_complete", "run_idx", index);
    }
    // Of three runs one lost its worker, and one its daemon.
    let lost = (0..runs.len()).filter(|n| n % 3 == 2).count();
    let left = (0..runs.len()).filter(|n| n % 3 == 1).count();
    assert_eq!(of_kind(events, "worker_lost").len(), lost);
    assert_eq!(
        of_kind(events, "run_started").len(),
        runs.len() + 2 + lost + left
    );
    for kind in [
        "actor_restarted",
        "handler_failed",
        "handler_restarted",
        "gap",
    ] {
        assert_eq!(of_kind(events, kind), [&Value::Null; 0], "{kind}");
    }
}

/// Of what is not superfluous soon the handler missed nothing, and nothing came twice.
fn was_heard_once(events: &[Value], heard: &[Value]) {
    let ids = |events: &[Value]| -> Vec<i64> {
        let matter = events.iter().filter(|e| e["kind"] != "step");
        matter.filter_map(|e| e["id"].as_i64()).collect()
    };
    let (said, mut heard) = (ids(events), ids(heard));
    // What was said while it ended.
    heard.retain(|id| said.contains(id));
    assert_eq!(heard, said);
}

//! The daemon as its service manager sees it, through a real notification socket.

mod common;

use backpropd::service::watchdog;
use backpropd::supervise::{self, Child, Supervisor};
use common::daemon::{Daemon, kill};
use common::{Fixture, backpropd};
use rustix::process::Signal;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the daemon tells, a datagram an entry.
struct Notified(UnixDatagram);

impl Notified {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        let patience = Some(Duration::from_secs(30));
        socket.set_read_timeout(patience).unwrap();
        Self(socket)
    }

    /// The next datagram that says `word`.
    fn next(&self, word: &str) -> Vec<String> {
        loop {
            let mut bytes = [0; 4096];
            let count = self
                .0
                .recv(&mut bytes)
                .unwrap_or_else(|e| panic!("{word}: {e}"));
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            if lines.iter().any(|line| line.starts_with(word)) {
                return lines;
            }
        }
    }
}

#[test]
fn ready_alive_reloading_and_stopping_are_told_to_the_service_manager() {
    let fixture = Fixture::new(1);
    let told = Notified::at(&fixture.path("notify"));
    let file = fixture.path("daemon.toml");
    std::fs::write(&file, "[workers]\nlimit = 1\n").unwrap();
    let mut command = Daemon::command(&fixture);
    command
        .env("NOTIFY_SOCKET", fixture.path("notify"))
        .env("WATCHDOG_USEC", "200000")
        .arg("--config")
        .arg(&file);
    let daemon = Daemon::start_of(&mut command, &fixture);
    told.next("READY=1");
    told.next("STATUS=0 with a worker, 0 queued");
    told.next("WATCHDOG=1");
    for text in ["[workers]\nlimit = 2\n", "[workers]\nlimit = 0\n"] {
        std::fs::write(&file, text).unwrap();
        kill(daemon.child.id() as i32, Signal::HUP);
        let reloading = told.next("RELOADING=1");
        let since = reloading
            .iter()
            .find_map(|l| l.strip_prefix("MONOTONIC_USEC="));
        assert!(since.unwrap().parse::<u64>().unwrap() > 0, "{reloading:?}");
        told.next("READY=1");
    }
    assert_eq!(
        daemon.json(&["status"])["limit"],
        2,
        "the broken file changed nothing"
    );
    told.next("WATCHDOG=1");
    kill(daemon.child.id() as i32, Signal::TERM);
    let stopping = told.next("STOPPING=1");
    assert!(
        stopping
            .iter()
            .any(|line| line.starts_with("EXTEND_TIMEOUT_USEC="))
    );
}

#[test]
fn a_stopped_daemon_gives_no_sign_of_life() {
    let fixture = Fixture::new(1);
    let told = Notified::at(&fixture.path("notify"));
    let mut command = Daemon::command(&fixture);
    command
        .env("NOTIFY_SOCKET", fixture.path("notify"))
        .env("WATCHDOG_USEC", "200000");
    let daemon = Daemon::start_of(&mut command, &fixture);
    told.next("WATCHDOG=1");
    let pid = daemon.child.id() as i32;
    kill(pid, Signal::STOP);
    let quiet = Some(Duration::from_millis(600));
    told.0.set_read_timeout(quiet).unwrap();
    let mut bytes = [0; 4096];
    // What was told before it stopped.
    while told.0.recv(&mut bytes).is_ok() {}
    kill(pid, Signal::CONT);
    told.0
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    told.next("WATCHDOG=1");
}

impl Notified {
    /// Whether there is no sign of life for as long as `quiet`.
    fn is_quiet(&self, quiet: Duration) -> bool {
        let until = Instant::now() + quiet;
        let mut bytes = [0; 4096];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            self.0.set_read_timeout(Some(left)).unwrap();
            if let Ok(count) = self.0.recv(&mut bytes)
                && String::from_utf8_lossy(&bytes[..count]).contains("WATCHDOG=1")
            {
                return false;
            }
        }
    }
}

/// The real daemon with a period of 200 ms, so that a sign of life is due every 100 ms.
#[test]
fn a_store_that_hangs_stops_the_signs_of_life_and_one_that_works_or_waits_does_not() {
    let fixture = Fixture::new(1);
    let told = Notified::at(&fixture.path("notify"));
    let mut command = Daemon::command(&fixture);
    command
        .env("NOTIFY_SOCKET", fixture.path("notify"))
        .env("WATCHDOG_USEC", "200000")
        .env("BACKPROPD_DAEMON__STALL_SECONDS", "2");
    let daemon = Daemon::start_of(&mut command, &fixture);
    let run = daemon.submit("run", &[]);
    daemon.reaches(run, "completed");
    assert!(!told.is_quiet(Duration::from_secs(1)), "in health");
    let database = fixture.path("state").join(backpropd::store::DATABASE);
    let mut other = rusqlite::Connection::open(database).unwrap();
    let lock = |other: &mut rusqlite::Connection, hold: Duration| {
        let lock = other
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .unwrap();
        // Nobody waits for its answer here: the store does, for the lock.
        let mut asks = backpropd()
            .args(["ctl", "abort", &run.to_string(), "--socket"])
            .arg(fixture.path("socket"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let quiet = told.is_quiet(hold);
        drop(lock);
        asks.wait().unwrap();
        quiet
    };
    let short = lock(&mut other, Duration::from_secs(1));
    assert!(!short, "a wait within the limit");
    let began = Instant::now();
    let lock = other
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .unwrap();
    // Each waits for seconds, on the store's one thread.
    let mut asks: Vec<_> = (0..3)
        .map(|_| {
            backpropd()
                .args(["ctl", "retry", &run.to_string(), "--socket"])
                .arg(fixture.path("socket"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    while !told.is_quiet(Duration::from_millis(1500)) {
        let waited = began.elapsed();
        assert!(
            waited.as_secs() < 30,
            "signs of life from a store that hangs"
        );
    }
    assert!(
        began.elapsed() > Duration::from_secs(2),
        "not before its limit"
    );
    drop(lock);
    for asked in &mut asks {
        let _ = asked.wait();
    }
}

/// An actor that does nothing.
struct Part;

impl actix::Actor for Part {
    type Context = supervise::Context<Self>;
}

#[test]
fn a_part_that_stands_still_or_a_silent_supervisor_stops_the_signs_of_life() {
    let system = actix::System::new();
    system.block_on(async {
        let mut tree = Supervisor::new("daemon");
        let limit = Duration::from_secs(3600);
        let part = Child::new("store", || Part)
            .own_thread()
            .progress_within(limit);
        let part = tree.add(part);
        let beside = tree.add(Child::new("runs", || Part));
        let tree = tree.start().await.unwrap();
        part.up().await.unwrap();
        beside.up().await.unwrap();
        let (alive, mut signs) = tokio::sync::mpsc::unbounded_channel();
        let every = Duration::from_millis(20);
        let watched = tree.clone();
        actix::spawn(async move {
            watchdog::watch(watched, &["store", "runs"], every, || {
                let _ = alive.send(());
            })
            .await;
        });
        signs.recv().await.unwrap();
        // A hang is found by its length: with the limit at hand, not an hour away.
        let mut children = tree.send(supervise::GetChildren).await.unwrap();
        let core = ["store", "runs"];
        assert_eq!(watchdog::verdict(&children, &core), Ok(()));
        children[0].state = supervise::ChildState::Running;
        children[0].stalled_ms = 3_600_000;
        let why = watchdog::verdict(&children, &core).unwrap_err();
        assert!(why.contains("store has had work"), "{why}");
        children[0].stalled_ms = 0;
        children[0].state = supervise::ChildState::Quarantined;
        let why = watchdog::verdict(&children, &core).unwrap_err();
        assert!(why.contains("store is not at work"), "{why}");
        assert_eq!(
            watchdog::verdict(&children, &["runs"]),
            Ok(()),
            "not of the core"
        );
        let why = watchdog::verdict(&children[1..], &core).unwrap_err();
        assert!(why.contains("store is missing"), "{why}");
        // A supervisor whose thread is held says nothing, and then nor does the watchdog.
        let (free, held) = std::sync::mpsc::channel::<()>();
        let mut silent = {
            let mut tree = Supervisor::new("held");
            tree.add(Child::new("store", || Part));
            let blocked = actix::Arbiter::new();
            let tree = tree.start_on(blocked.handle()).await.unwrap();
            let (alive, signs) = tokio::sync::mpsc::unbounded_channel();
            let watched = tree.clone();
            blocked.spawn_fn(move || {
                let _ = held.recv();
            });
            actix::spawn(async move {
                watchdog::watch(watched, &["store"], every, || {
                    let _ = alive.send(());
                })
                .await;
            });
            signs
        };
        let quiet = tokio::time::timeout(Duration::from_millis(200), silent.recv()).await;
        assert!(quiet.is_err(), "a sign of life from a silent tree");
        drop(free);
        let again = tokio::time::timeout(Duration::from_secs(10), silent.recv()).await;
        assert_eq!(again, Ok(Some(())));
    });
}

#[test]
fn a_socket_of_the_service_manager_is_used_and_left_where_it_is() {
    let fixture = Fixture::new(1);
    let socket = fixture.path("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let ours = Daemon::command(&fixture);
    let start = "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" daemon 3<&0 0</dev/null";
    let mut command = Command::new("sh");
    command.args(["-c", start, env!("CARGO_BIN_EXE_backpropd")]);
    for (name, value) in ours.get_envs() {
        command.env(name, value.unwrap());
    }
    // Another path in the settings: the one that was passed on goes first.
    command.env("BACKPROPD_CONTROL__SOCKET", fixture.path("elsewhere"));
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
    let daemon = Daemon::start_of(&mut command, &fixture);
    assert!(daemon.ctl(&["status"]).status.success());
    assert!(!fixture.path("elsewhere").exists());
    assert!(daemon.signal(Signal::TERM).success());
    assert!(socket.exists(), "it is not the daemon's to remove");
}

#[test]
fn the_unit_is_hardened_and_keeps_the_gpus() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/backpropd.service");
    let text = std::fs::read_to_string(&unit).unwrap();
    for line in [
        "Type=notify",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "DeviceAllow=char-nvidia* rw",
        "PrivateDevices=no",
        "PrivateUsers=no",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}");
    }
    let analyze = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(&unit)
        .output();
    let Ok(output) = analyze else {
        eprintln!("skipped: there is no systemd-analyze here");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let Some(line) = said
        .lines()
        .find(|line| line.contains("Overall exposure level"))
    else {
        eprintln!("skipped: systemd-analyze security does not work here");
        return;
    };
    let score = line
        .split_whitespace()
        .find_map(|word| word.parse::<f64>().ok());
    assert!(score.is_some_and(|score| score <= 1.5), "{line}");
}

#[test]
fn completions_and_manual_pages_know_every_verb() {
    let dir = tempfile::tempdir().unwrap();
    let man = backpropd().arg("man").arg(dir.path()).output().unwrap();
    assert!(man.status.success());
    for page in [
        "backpropd.1",
        "backpropd-daemon.1",
        "backpropd-ctl.1",
        "backpropd-ctl-logs.1",
    ] {
        let text = std::fs::read_to_string(dir.path().join(page));
        assert!(text.is_ok_and(|text| text.contains(".TH")), "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = backpropd().args(["completions", shell]).output().unwrap();
        let script = String::from_utf8_lossy(&output.stdout);
        for verb in ["daemon", "metrics", "reload", "submit"] {
            assert!(script.contains(verb), "{shell} {verb}");
        }
    }
}

//! A daemon whose disk is really full: what protects GPUs and what ends runs does not wait
//! for it.

use super::common::backpropd;
use super::common::daemon::Daemon;
use super::common::until;
use super::host::{Feed, Host};
use backpropd::actors::worker::{Heard, Limits, Meaning, Says, Worker};
use backpropd::domain::DeviceName;
use backpropd::domain::worker_end::{Said, WorkerEnd};
use backpropd::protocol;
use backpropd::protocol::wire::{Begin, Start};
use std::cell::RefCell;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A daemon whose state folder is a small file system of its own.
struct OnSmallDisk<'a> {
    daemon: Daemon<'a>,
    /// The folder, as this process reaches it.
    state: PathBuf,
}

impl<'a> OnSmallDisk<'a> {
    /// None where mounts are not allowed.
    fn start(host: &'a Host) -> Option<Self> {
        let wrap = ["--user", "--map-root-user", "--mount", "sh", "-c"];
        let folder = host.fixture.path("state");
        std::fs::create_dir(&folder).unwrap();
        let mount = format!("mount -t tmpfs -o size=8m tmpfs {}", folder.display());
        let tried = Command::new("unshare").args(wrap).arg(&mount).output();
        if !tried.is_ok_and(|tried| tried.status.success()) {
            println!("cannot be set up here");
            return None;
        }
        let mut command = Command::new("unshare");
        let own = Daemon::command(&host.fixture);
        command
            .args(wrap)
            .arg(format!("{mount} && exec \"$0\" daemon"))
            .arg(backpropd().get_program())
            .envs(
                own.get_envs()
                    .filter_map(|(key, value)| Some((key, value?))),
            )
            .env("BACKPROPD_NVML", host.stub.library())
            .env("BACKPROPD_GPUS__INTERVAL_SECONDS", "0.1")
            .stdin(Stdio::null());
        let daemon = Daemon::start_of(&mut command, &host.fixture);
        let root = PathBuf::from(format!("/proc/{}/root", daemon.child.id()));
        let state = root.join(folder.strip_prefix("/").unwrap());
        Some(Self { daemon, state })
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let mut ballast = std::fs::File::create(self.state.join("ballast")).unwrap();
        for block in [vec![1; 4096], vec![1]] {
            while ballast.write_all(&block).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.state.join("ballast")).unwrap();
    }
}

/// The steps that a worker has noted in the folder of its run.
fn steps(run: &Path) -> usize {
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    metrics.lines().count()
}

/// Waits until a run does no more steps, and returns how many it has done.
fn rests(run: &Path) -> usize {
    until("no more steps", || {
        let before = steps(run);
        std::thread::sleep(Duration::from_millis(500));
        (steps(run) == before).then_some(before)
    })
}

fn newest_checkpoint(run: &Path) -> usize {
    let all = std::fs::read_dir(run.join("checkpoints")).unwrap();
    let steps = all.filter_map(|entry| {
        let name = entry.unwrap().file_name();
        name.to_str()?.strip_prefix("step-")?.parse().ok()
    });
    steps.max().unwrap()
}

fn is_gone(pid: i32) -> Option<()> {
    (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
}

/// behaviour: gpu-15, gpu-16
#[test]
fn a_full_disk_delays_neither_the_pause_nor_the_emergency_of_a_hot_gpu() {
    let mut host = Host::with_one_gpu();
    host.fixture = super::common::Fixture::new(1_000_000);
    let Some(small) = OnSmallDisk::start(&host) else {
        return;
    };
    let daemon = &small.daemon;
    let folder = host.fixture.path("run");
    let mut feed = Feed::of(daemon);
    let run = daemon.submit("run", &[]);
    daemon.trains(run, 10, None);
    small.fill();
    host.temperature(0, "91");
    let paused = rests(&folder);
    assert_eq!(newest_checkpoint(&folder), paused, "it saved first");
    // Nothing of that could be stored.
    assert_eq!(daemon.show(run)["state"], "running");
    assert!(daemon.show(run)["hold"].is_null());
    // Nor can its going on: it waits for the disk, and then does what is right by then.
    host.temperature(0, "70");
    feed.next("it is cool", |e| {
        e["kind"] == "gpu_status" && e["status"]["hold"] == "run"
    });
    feed.looks(0, 3);
    assert_eq!(rests(&folder), paused);
    small.free();
    // What it was told stands before what it said then.
    feed.action("pause");
    feed.action("resume");
    feed.kind("paused");
    feed.kind("resumed");
    let course = ["gpu_action", "paused", "resumed"];
    let seen = ["gpu_action", "gpu_action", "paused", "resumed"];
    assert_eq!(feed.order(&course), seen);
    let pid = daemon.trains(run, paused as u64 + 10, None);

    small.fill();
    host.temperature(0, "95");
    until("the worker is gone", || is_gone(pid));
    assert_eq!(newest_checkpoint(&folder), steps(&folder));
    small.free();
    let shown = daemon.reaches(run, "aborted");
    assert_eq!(shown["error"]["code"], "gpu-emergency", "{shown}");
    feed.action("abort_with_checkpoint");
    feed.kind("aborted");
}

#[test]
fn a_full_disk_does_not_keep_a_person_from_ending_a_run() {
    let mut host = Host::with_one_gpu();
    host.fixture = super::common::Fixture::new(1_000_000);
    let Some(small) = OnSmallDisk::start(&host) else {
        return;
    };
    let daemon = &small.daemon;
    for (run, verb, state) in [("a", "stop", "stopped"), ("b", "abort", "aborted")] {
        let id = daemon.submit(run, &[]);
        let pid = daemon.trains(id, 10, None);
        small.fill();
        let answer = daemon.ctl(&[verb, &id.to_string()]);
        let said = String::from_utf8_lossy(&answer.stderr);
        assert_eq!(answer.status.code(), Some(52), "{said}");
        assert!(said.contains("was told and ends all the same"), "{said}");
        until("the worker is gone", || is_gone(pid));
        assert_eq!(daemon.show(id)["state"], "running");
        small.free();
        daemon.reaches(id, state);
        let folder = host.fixture.path(run);
        let saved = newest_checkpoint(&folder) == steps(&folder);
        assert!(saved || verb == "abort");
    }
}

/// What the worker of the next test says.
#[derive(Debug, serde::Deserialize)]
struct Word {
    say: String,
}

impl Says for Word {
    fn meaning(&self) -> Meaning {
        match self.say.as_str() {
            "the end" => Meaning::Last(Said::Stopped),
            _ => Meaning::AtWork,
        }
    }
}

/// A worker that stops when it is told to, and has more to say than a pipe holds.
const WORKER: &str = r#"#!/bin/sh
read begin
echo '{"say": "a"}'
read command
test "$command" = '{"command":"stop"}' || exit 1
for n in $(seq 5000); do echo '{"say": "the middle"}'; done
echo '{"say": "the end"}'
"#;

#[tokio::test]
async fn a_worker_hears_commands_and_may_end_while_nobody_listens_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("worker");
    std::fs::write(&program, WORKER).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let begin = Begin::Train(Start {
        v: 1,
        run_toml: String::new(),
        device: DeviceName::Cpu,
        threads: 1,
        memory_mib: 0,
        runs_per_gpu: 1,
    });
    let limits = Limits {
        hang: Duration::from_secs(30),
        stop: Duration::from_secs(30),
    };
    let (worker, commands) = Worker::new("a worker".into(), begin, limits);
    let (release, released) = tokio::sync::watch::channel(false);
    let heard = RefCell::new(Vec::new());
    let living = worker.of_program(program).live(|word: Heard<Word>| {
        heard.borrow_mut().push(word);
        let mut released = released.clone();
        async move {
            released.wait_for(|released| *released).await.unwrap();
        }
    });
    let meanwhile = async {
        commands.send(protocol::Command::Stop).await.unwrap();
        let process = match &heard.borrow()[..] {
            [Heard::Spawned(process)] => process.clone(),
            other => panic!("{other:?}"),
        };
        while process.is_alive() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(heard.borrow().len(), 1, "it was held back all the time");
        release.send(true).unwrap();
    };
    tokio::join!(living, meanwhile);
    let heard = heard.into_inner();
    assert_eq!(heard.len(), 1 + 5002 + 1);
    let said = |at: usize| match &heard[at] {
        Heard::Frame(word) => word.say.as_str(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        (said(1), said(5001), said(5002)),
        ("a", "the middle", "the end")
    );
    assert!(matches!(
        heard.last(),
        Some(Heard::Ended(WorkerEnd::Said(Said::Stopped)))
    ));
}

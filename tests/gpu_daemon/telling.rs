//! What the monitor tells, and whom.

use super::common::daemon::Daemon;
use super::common::{backpropd, until};
use super::host::{Feed, Host, knows};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// behaviour: gpu-01, gpu-03, gpu-12, double-14, double-15
#[test]
fn subscribers_come_and_go_and_all_hear_the_same() {
    let host = Host::with_one_gpu();
    let daemon = host.daemon();
    let (mut first, mut second) = (Feed::of(&daemon), Feed::of(&daemon));
    first.looks(0, 2);
    drop(second);
    second = Feed::of(&daemon);
    host.temperature(0, "81");
    first.kind("gpu_warning");
    let mut third = Feed::of(&daemon);
    host.temperature(0, "92");
    first.kind("gpu_critical");
    host.temperature(0, "97");
    first.kind("gpu_emergency");
    host.temperature(0, "50");
    let recovered = first.kind("gpu_recovered");
    for feed in [&mut second, &mut third] {
        let heard = feed.next("the end", |e| e["id"] == recovered["id"]);
        assert_eq!(heard, recovered);
    }
    let course = [
        "gpu_driver",
        "gpu_warning",
        "gpu_critical",
        "gpu_emergency",
        "gpu_recovered",
    ];
    for feed in [&first, &second, &third] {
        assert_eq!(feed.order(&course), course);
    }
    // Every kind carries the whole status; what is not known is null.
    for event in first.heard.iter().filter(|e| e["kind"] != "gpu_driver") {
        let status = event["status"].as_object().unwrap();
        assert_eq!(status["name"], "Stub H100", "{event}");
        assert!(
            status["memory_used"].is_null() && status.len() == 20,
            "{event}"
        );
        assert!(status["timestamp_ms"].as_u64() > Some(1_600_000_000_000));
    }
}

/// behaviour: gpu-04, gpu-21, gpu-02, multi-10
#[test]
fn a_status_comes_with_every_look_and_is_kept_nowhere_but_in_a_bounded_history() {
    let host = Host::with_one_gpu();
    let daemon = host.daemon_with(&[("BACKPROPD_GPUS__HISTORY", "5")]);
    let mut feed = Feed::of(&daemon);
    let began = Instant::now();
    let looks = feed.looks(0, 11);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(900), "{took:?}");
    let times: Vec<u64> = looks
        .iter()
        .map(|look| look["status"]["timestamp_ms"].as_u64().unwrap())
        .collect();
    let span = times[10] - times[0];
    assert!(
        (900..3000).contains(&span),
        "ten intervals of 0.1 s took {span} ms"
    );
    assert!(looks.iter().all(|look| look.get("id").is_none()));
    let history = daemon.json(&["gpus", "history", "0"]);
    assert_eq!(history.as_array().unwrap().len(), 5);
    let mut later = Feed::since(&daemon, "?since=0");
    later.looks(0, 1);
    let kept: Vec<_> = later.heard.iter().filter(|e| e["id"].is_u64()).collect();
    assert_eq!(kept.len(), 1, "the driver alone: {kept:?}");
    let refused = daemon.ctl(&["gpus", "history", "7"]);
    assert_eq!(refused.status.code(), Some(83));
}

/// behaviour: gpu-14, gpu-20
#[test]
fn a_paused_monitor_is_silent_and_says_so_and_there_is_only_ever_one() {
    let host = Host::with_one_gpu();
    let daemon = host.daemon();
    let mut feed = Feed::of(&daemon);
    feed.looks(0, 1);
    for _ in 0..2 {
        let view = daemon.json(&["gpus", "pause"]);
        assert_eq!(view["watching"], "paused");
    }
    host.temperature(0, "91");
    until("looks go on", || {
        let view = daemon.json(&["gpus"]);
        (view["gpus"][0]["condition"] == "critical").then_some(())
    });
    let status = daemon.ctl(&["status"]);
    let status = String::from_utf8_lossy(&status.stdout);
    assert!(
        status.contains("paused: no thermal protection is active"),
        "{status}"
    );
    for _ in 0..2 {
        let view = daemon.json(&["gpus", "resume"]);
        assert_eq!(view["watching"], "on");
    }
    feed.kind("gpu_critical");
    let silent = feed
        .heard
        .iter()
        .filter(|e| e["kind"] == "gpu_status")
        .count();
    assert!(silent <= 4, "{silent} statuses");
    let looks = feed.looks(0, 5);
    let times: Vec<_> = looks
        .iter()
        .map(|l| l["status"]["timestamp_ms"].as_u64())
        .collect();
    assert!(times.is_sorted_by(|a, b| a < b), "one a look: {times:?}");
    let threads = std::fs::read_dir(format!("/proc/{}/task", daemon.child.id())).unwrap();
    let monitors = threads
        .filter_map(|t| std::fs::read_to_string(t.unwrap().path().join("comm")).ok())
        .filter(|name| name.trim() == "gpu-monitor");
    assert_eq!(monitors.count(), 1);
}

/// behaviour: gpu-23, double-01
#[test]
fn without_a_driver_or_with_the_monitor_off_one_line_says_that_nothing_protects() {
    let host = Host::with_steps("gpus 1\ntemperature 0 99\n", 10);
    let nowhere = host.fixture.path("libnvidia-ml.so");
    for (settings, in_log, in_status) in [
        (
            ("BACKPROPD_NVML", nowhere.to_str().unwrap()),
            "gpus: none (no NVIDIA driver",
            "gpus: none (no NVIDIA driver",
        ),
        (
            ("BACKPROPD_GPUS__MONITOR", "false"),
            "gpus: not watched (gpus.monitor)",
            "gpus: not watched: no thermal protection is active",
        ),
    ] {
        let mut child = Daemon::command(&host.fixture)
            .env("BACKPROPD_NVML", host.stub.library())
            .env("BACKPROPD_GPUS__INTERVAL_SECONDS", "0.1")
            .envs([settings])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = child.stderr.take().unwrap();
        let daemon = Daemon {
            fixture: &host.fixture,
            child,
        };
        until("the daemon answers", || {
            daemon.ctl(&["status"]).status.success().then_some(())
        });
        let run = daemon.submit(settings.0, &[]);
        daemon.reaches(run, "completed");
        let status = daemon.ctl(&["status"]);
        let status = String::from_utf8_lossy(&status.stdout);
        assert!(status.contains(in_status), "{status}");
        let table = daemon.ctl(&["gpus"]);
        assert!(String::from_utf8_lossy(&table.stdout).contains(in_status));
        assert_eq!(daemon.json(&["status"])["gpus"]["protected"], false);
        drop(daemon);
        let lines: Vec<String> = BufReader::new(log).lines().map_while(Result::ok).collect();
        let said = lines
            .iter()
            .filter(|line| line.contains("no thermal protection"));
        let said: Vec<_> = said.collect();
        assert!(said.len() == 1 && said[0].contains(in_log), "{lines:#?}");
    }
}

/// behaviour: gpu-05, gpu-08, gpu-09, gpu-18, double-02, double-03, double-09
#[test]
fn memory_power_errors_and_slow_clocks_are_told_and_pause_nothing() {
    let host = Host::with_steps(
        "driver 570.00\ngpus 1\nname 0 NVIDIA RTX 4090\nuuid 0 GPU-a\ntemperature 0 60\n\
         memory.total 0 17179869184\nmemory.used 0 0\npower 0 100000\nlimit 0 450000\n\
         utilisation 0 0\nthrottle 0 0\necc.corrected 0 0\necc.uncorrected 0 0\n",
        4000,
    );
    let daemon = host.daemon();
    let mut feed = Feed::of(&daemon);
    let run = daemon.submit("run", &[]);
    daemon.trains(run, 1, None);
    let table = daemon.ctl(&["gpus"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    for part in ["NVIDIA RTX 4090", "60 °C", "22 %", "GPU 0: run 1"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    host.stub.set("memory.used", 0, "16834000000");
    host.stub.set("power", 0, "450000");
    let critical = feed.kind("gpu_critical");
    let status = &critical["status"];
    assert_eq!(status["condition"], "critical");
    assert_eq!(status["memory_total"], 17_179_869_184_u64);
    assert_eq!(status["reasons"][0], "memory 98 % ≥ critical limit 95 %");
    assert_eq!(
        status["reasons"][1],
        "power 100 % ≥ warning limit 100 %, the card's power limit"
    );
    host.stub.set("ecc.corrected", 0, "2");
    host.stub.set("ecc.uncorrected", 0, "1");
    let ecc = feed.kind("gpu_ecc");
    assert_eq!(ecc["gpu"]["uuid"], "GPU-a");
    // At its power limit it is told as it happens, by its heat it is kept.
    host.stub.set("throttle", 0, "4");
    let capped = feed.kind("gpu_throttle");
    assert_eq!(
        (capped["started"][0].as_str(), capped.get("id")),
        (Some("power_cap"), None)
    );
    host.stub.set("throttle", 0, "64");
    let hot = feed.next("a thermal brake", |e| e["started"][0] == "hardware_thermal");
    assert!(hot["id"].is_u64());
    assert_eq!(daemon.show(run)["state"], "running");
    let status = backpropd()
        .args(["ctl", "status", "--socket"])
        .arg(daemon.socket())
        .output()
        .unwrap();
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("gpus: 0 critical 60 °C"), "{status}");
}

/// behaviour: gpu-10, gpu-11
#[test]
fn a_driver_that_hangs_holds_up_neither_training_nor_control() {
    let host = Host::new("gpus 1\nuuid 0 GPU-a\ntemperature 0 60*5 hang 60\n");
    let daemon = host.daemon_with(&[("BACKPROPD_GPUS__TIMEOUT_SECONDS", "0.05")]);
    let mut feed = Feed::of(&daemon);
    let run = daemon.submit("run", &[]);
    let hung = feed.next("the hang", |e| e["driver"]["state"] == "hung");
    assert!(hung["id"].is_u64());
    let asked = Instant::now();
    let view = knows(&daemon, 1);
    assert!(asked.elapsed() < Duration::from_secs(5));
    assert_eq!(
        (&view["gpus"][0]["stale"], &view["driver"]["state"]),
        (&true.into(), &"hung".into())
    );
    feed.kind("monitoring_blind");
    let other = daemon.submit("other", &[]);
    daemon.reaches(run, "completed");
    feed.looks(0, 3);
    assert_eq!(
        daemon.show(other)["state"],
        "queued",
        "who starts there may hang"
    );
    host.stub.release();
    feed.kind("monitoring_restored");
    daemon.reaches(other, "completed");
}

/// Limits that change with a reload judge the next look.
#[test]
fn a_reload_changes_the_limits() {
    let host = Host::with_one_gpu();
    let file = host.fixture.path("daemon.toml");
    std::fs::write(&file, "[gpus]\ninterval_seconds = 0.1\n").unwrap();
    let mut command = Daemon::command(&host.fixture);
    command.env("BACKPROPD_NVML", host.stub.library());
    let daemon = Daemon::start_of(command.arg("--config").arg(&file), &host.fixture);
    let condition = || knows(&daemon, 1)["gpus"][0]["condition"].clone();
    until("70 °C is fine", || (condition() == "ok").then_some(()));
    let limits = "[gpus]\ninterval_seconds = 0.1\nlimits = { temperature_warning = 60 }\n";
    std::fs::write(&file, limits).unwrap();
    let done = daemon.json(&["reload"]);
    assert_eq!(done["changed"]["gpus.limits"]["temperature_warning"], 60.0);
    assert_eq!(done["restart"], serde_json::json!([]));
    until("70 °C is not", || (condition() == "warning").then_some(()));
}

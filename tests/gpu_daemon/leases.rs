//! Which run computes where.

use super::common::until;
use super::host::{Feed, Host, knows, variable};
use rustix::process::Signal;

const TWO: &str = "gpus 2\nuuid 0 GPU-a\nuuid 1 GPU-b\ntemperature 0 60\ntemperature 1 60\n";

#[test]
fn each_run_gets_a_gpu_of_its_own_and_heat_concerns_its_own_runs() {
    let host = Host::with_steps(TWO, 4000);
    let daemon = host.daemon_with(&[("BACKPROPD_WORKERS__LIMIT", "3")]);
    let runs: Vec<u64> = (0..3)
        .map(|n| daemon.submit(&format!("run{n}"), &[]))
        .collect();
    let mut devices = Vec::new();
    for run in &runs[..2] {
        let pid = daemon.trains(*run, 1, None);
        let shown = daemon.show(*run);
        let device = variable(pid, "CUDA_VISIBLE_DEVICES").unwrap();
        assert_eq!(shown["gpu"]["uuid"], device.as_str());
        assert_eq!(shown["gpu"]["device"], device.as_str());
        assert_eq!(variable(pid, "CUDA_DEVICE_ORDER").unwrap(), "PCI_BUS_ID");
        devices.push(device);
    }
    devices.sort();
    assert_eq!(devices, ["GPU-a", "GPU-b"]);
    assert_eq!(
        daemon.show(runs[2])["state"],
        "queued",
        "there is no third GPU"
    );
    let view = daemon.json(&["gpus"]);
    let of = |index: usize| view["gpus"][index]["runs"][0].as_u64().unwrap();
    assert_eq!((of(0), of(1)), (runs[0], runs[1]));

    host.temperature(1, "91");
    daemon.reaches(runs[1], "paused");
    assert_eq!(daemon.show(runs[0])["state"], "running");
    // A run that waits keeps its GPU, and what it was given outlives the daemon.
    daemon.json(&["abort", &runs[0].to_string()]);
    let pid = daemon.trains(runs[2], 1, None);
    assert_eq!(variable(pid, "CUDA_VISIBLE_DEVICES").unwrap(), "GPU-a");
    daemon.signal(Signal::KILL);
    let daemon = host.daemon_with(&[("BACKPROPD_WORKERS__LIMIT", "3")]);
    let pid = daemon.trains(runs[2], 1, Some(pid));
    assert_eq!(variable(pid, "CUDA_VISIBLE_DEVICES").unwrap(), "GPU-a");
}

/// behaviour: double-01
#[test]
fn settings_say_which_gpus_and_how_many_runs_on_each() {
    let host = Host::with_steps(TWO, 4000);
    let settings = [
        ("BACKPROPD_WORKERS__LIMIT", "5"),
        ("BACKPROPD_GPUS__RUNS_PER_GPU", "2"),
        ("BACKPROPD_GPUS__DEVICES", "1"),
    ];
    let daemon = host.daemon_with(&settings);
    for n in 0..3 {
        daemon.submit(&format!("run{n}"), &[]);
    }
    for run in [1, 2] {
        daemon.trains(run, 1, None);
        assert_eq!(daemon.show(run)["gpu"]["index"], 1);
    }
    assert_eq!(daemon.show(3)["state"], "queued");
    drop(daemon);

    // On the CPU there are no GPUs to wait for.
    let host = Host::with_steps(TWO, 4000);
    let settings = [
        ("BACKPROPD_WORKERS__LIMIT", "3"),
        ("BACKPROPD_WORKERS__DEVICE", "cpu"),
    ];
    let daemon = host.daemon_with(&settings);
    knows(&daemon, 2);
    for n in 1..=3 {
        daemon.submit(&format!("run{n}"), &[]);
        let pid = daemon.trains(n, 1, None);
        assert!(daemon.show(n)["gpu"].is_null());
        assert_eq!(variable(pid, "CUDA_VISIBLE_DEVICES"), None);
    }
}

#[test]
fn nothing_begins_on_a_gpu_that_is_gone_or_cannot_be_trusted() {
    let host = Host::with_steps(
        "gpus 2\nuuid 0 GPU-a\nuuid 1 GPU-b\ntemperature 0 60\n\
                                 temperature 1 60\n",
        30,
    );
    let daemon = host.daemon_with(&[("BACKPROPD_WORKERS__LIMIT", "2")]);
    let mut feed = Feed::of(&daemon);
    knows(&daemon, 2);
    host.stub.raise_xid(0, 79);
    let xid = feed.kind("gpu_xid");
    assert_eq!(
        (&xid["xid"]["number"], &xid["xid"]["advice"]),
        (&79.into(), &"drain".into())
    );
    host.temperature(1, "!15");
    until("GPU 1 is gone", || {
        let view = daemon.json(&["gpus"]);
        (view["gpus"][1]["available"] == false).then_some(())
    });
    let run = daemon.submit("run", &[]);
    feed.looks(0, 3);
    assert_eq!(daemon.show(run)["state"], "queued");
    let table = daemon.ctl(&["gpus"]);
    let table = String::from_utf8_lossy(&table.stdout);
    for part in [
        "XID 79: the GPU fell off the bus",
        "unknown (gone)",
        "GPU 1 cannot be read",
    ] {
        assert!(table.contains(part), "{table}");
    }
    host.temperature(1, "60");
    let shown = daemon.reaches(run, "completed");
    assert!(shown["gpu"].is_null(), "given back");
    let started = feed.kind("run_started");
    assert_eq!(started["run"], run);
}

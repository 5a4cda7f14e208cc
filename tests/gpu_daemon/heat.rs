//! What heat does to runs.

use super::common::daemon::Daemon;
use super::host::{Feed, Host};
use rustix::process::Signal;
use serde_json::Value;

/// What a run says of the monitor's hold on it.
fn stance(daemon: &Daemon<'_>, run: u64) -> Value {
    daemon.show(run)["hold"]["stance"].clone()
}

/// behaviour: e2e-03, gpu-15, gpu-17, multi-12, multi-13
#[test]
fn a_run_waits_while_its_gpu_is_hot_goes_on_when_it_is_cool_and_ends_the_same() {
    let host = Host::with_one_gpu();
    let daemon = host.daemon();
    let mut feed = Feed::of(&daemon);
    let run = daemon.submit("run", &[]);
    daemon.trains(run, 10, None);
    host.temperature(0, "82");
    feed.kind("gpu_warning");
    assert_eq!(daemon.show(run)["state"], "running");
    host.temperature(0, "91");
    let critical = feed.kind("gpu_critical");
    let reason = "temperature 91 °C ≥ critical limit 90 °C";
    assert_eq!(critical["status"]["reasons"][0], reason);
    let paused = feed.kind("paused");
    let newest = feed.heard.iter().rfind(|e| e["kind"] == "checkpoint_saved");
    assert_eq!(newest.unwrap()["step"], paused["step"]);
    let shown = daemon.reaches(run, "paused");
    assert_eq!(shown["hold"]["stance"], "paused");
    assert_eq!(shown["hold"]["reason"], reason);
    // Neither what cannot be read nor what is only just below the limit is recovery.
    host.temperature(0, "!999");
    feed.next("a look in the dark", |e| {
        e["kind"] == "gpu_status" && e["status"]["temperature_c"].is_null()
    });
    feed.kind("monitoring_blind");
    host.temperature(0, "86");
    feed.kind("monitoring_restored");
    feed.looks(0, 3);
    assert_eq!(daemon.show(run)["state"], "paused");
    assert_eq!(daemon.show(run)["step"], paused["step"]);
    host.temperature(0, "84");
    feed.kind("gpu_recovered");
    feed.kind("run_completed");
    let course = [
        "gpu_warning",
        "gpu_critical",
        "gpu_action",
        "paused",
        "monitoring_blind",
        "monitoring_restored",
        "gpu_recovered",
        "resumed",
        "run_completed",
    ];
    assert_eq!(
        feed.order(&course),
        [
            "gpu_warning",
            "gpu_critical",
            "gpu_action",
            "paused",
            "monitoring_blind",
            "monitoring_restored",
            "gpu_recovered",
            "gpu_action",
            "resumed",
            "run_completed",
        ]
    );
    assert!(stance(&daemon, run).is_null());
    assert_eq!(host.fixture.result("run"), host.undisturbed());
}

/// behaviour: gpu-16, gpu-07, e2e-04
#[test]
fn an_emergency_ends_a_run_with_a_checkpoint_and_a_reason() {
    let host = Host::with_one_gpu();
    let daemon = host.daemon();
    let mut feed = Feed::of(&daemon);
    let run = daemon.submit("run", &[]);
    daemon.trains(run, 10, None);
    host.temperature(0, "95");
    feed.kind("gpu_emergency");
    feed.action("abort_with_checkpoint");
    let aborted = feed.kind("aborted");
    let checkpoint = aborted["checkpoint"].as_str().unwrap();
    let step = aborted["step"].as_u64().unwrap();
    assert!(
        checkpoint.ends_with(&format!("step-{step:08}")),
        "{checkpoint} {step}"
    );
    assert!(std::path::Path::new(checkpoint).is_dir());
    let shown = daemon.reaches(run, "aborted");
    assert!(shown["pid"].is_null() && shown["gpu"].is_null());
    let watched = daemon.ctl(&["watch", &run.to_string()]);
    let said = String::from_utf8_lossy(&watched.stderr);
    assert_eq!(watched.status.code(), Some(66), "{said}");
    for part in [
        "gpu-emergency: GPU 0: temperature 95 °C ≥ emergency limit 95 °C",
        "`retry`",
    ] {
        assert!(said.contains(part), "{said}");
    }
    // Nothing new begins there, and a retry waits for it to cool down.
    daemon.json(&["retry", &run.to_string()]);
    feed.looks(0, 3);
    assert_eq!(daemon.show(run)["state"], "queued");
    host.temperature(0, "60");
    daemon.reaches(run, "completed");
    assert_eq!(host.fixture.result("run"), host.undisturbed());
}

/// behaviour: gpu-17
#[test]
fn what_a_person_says_counts_more_than_the_monitor() {
    let host = Host::with_steps("gpus 1\ntemperature 0 70\n", 4000);
    let daemon = host.daemon();
    let mut feed = Feed::of(&daemon);
    let run = daemon.submit("run", &[]);
    let id = run.to_string();
    let changed = |command: &str| daemon.json(&[command, &id])["changed"].clone();
    daemon.trains(run, 5, None);

    // A person's pause outlives the heat.
    host.temperature(0, "91");
    daemon.reaches(run, "paused");
    assert_eq!(changed("pause"), true, "taken over");
    assert_eq!(changed("pause"), false);
    assert!(stance(&daemon, run).is_null());
    host.temperature(0, "70");
    feed.kind("gpu_recovered");
    feed.looks(0, 3);
    assert_eq!(daemon.show(run)["state"], "paused");

    // A person's resume does not wait for the cold, and is not undone by the next looks.
    assert_eq!(changed("resume"), true);
    daemon.reaches(run, "running");
    host.temperature(0, "91");
    daemon.reaches(run, "paused");
    assert_eq!(changed("resume"), true);
    daemon.reaches(run, "running");
    feed.looks(0, 3);
    assert_eq!(daemon.show(run)["state"], "running");
    assert_eq!(stance(&daemon, run), "overruled");

    // The next heat is another one.
    host.temperature(0, "70");
    super::common::until("the heat is over", || {
        stance(&daemon, run).is_null().then_some(())
    });
    host.temperature(0, "91");
    daemon.reaches(run, "paused");
    // And so is an emergency.
    changed("resume");
    host.temperature(0, "96");
    daemon.reaches(run, "aborted");
}

/// behaviour: gpu-17
#[test]
fn why_a_run_waits_is_known_to_the_next_daemon() {
    let host = Host::with_one_gpu();
    let daemon = host.daemon();
    let run = daemon.submit("run", &[]);
    let by_hand = daemon.submit("other", &[]);
    daemon.json(&["pause", &by_hand.to_string()]);
    daemon.trains(run, 5, None);
    host.temperature(0, "91");
    daemon.reaches(run, "paused");
    daemon.signal(Signal::KILL);
    // It comes back blind, and then sees less than the limit but not well below it.
    host.temperature(0, "!999");
    let daemon = host.daemon();
    let mut feed = Feed::of(&daemon);
    daemon.reaches(run, "held");
    feed.looks(0, 3);
    host.temperature(0, "86");
    feed.kind("gpu_warning");
    feed.looks(0, 3);
    assert_eq!(daemon.show(run)["state"], "held");
    assert_eq!(stance(&daemon, run), "paused");
    host.temperature(0, "70");
    daemon.reaches(run, "completed");
    assert_eq!(
        daemon.show(by_hand)["state"],
        "held",
        "a person's pause stays"
    );
    assert_eq!(host.fixture.result("run"), host.undisturbed());
}

/// behaviour: gpu-22, gpu-06
#[test]
fn a_run_may_ask_for_less_heat_than_the_host_allows() {
    let host = Host::with_one_gpu();
    let daemon = host.daemon();
    let mut feed = Feed::of(&daemon);
    let run = daemon.submit("run", &["--max-temperature", "85"]);
    daemon.trains(run, 5, None);
    super::common::until("the limit holds", || {
        let view = daemon.json(&["gpus"]);
        (view["gpus"][0]["max_temperature"] == 85.0).then_some(())
    });
    host.temperature(0, "86");
    let critical = feed.kind("gpu_critical");
    let reason = &critical["status"]["reasons"][0];
    assert_eq!(reason, "temperature 86 °C ≥ critical limit 85 °C");
    daemon.reaches(run, "paused");
    host.temperature(0, "79");
    daemon.reaches(run, "completed");
    super::common::until("the limit is lifted", || {
        let view = daemon.json(&["gpus"]);
        view["gpus"][0]["max_temperature"].is_null().then_some(())
    });
    // Nor does it hold for those that come after it.
    host.temperature(0, "86");
    let next = daemon.submit("next", &[]);
    daemon.reaches(next, "completed");
    let refused = daemon.ctl(&["submit", "run.toml", "--max-temperature", "500"]);
    assert_eq!(refused.status.code(), Some(2));
}

/// behaviour: gpu-22, gpu-06
#[test]
fn a_sweep_that_does_not_say_asks_for_85_degrees() {
    let host = Host::with_one_gpu();
    let daemon = host.daemon();
    let mut feed = Feed::of(&daemon);
    let sweep = "run = \"run.toml\"\n[grid]\nseed = [1, 2]\n";
    std::fs::write(host.fixture.path("sweep.toml"), sweep).unwrap();
    let id = daemon.json(&["sweep", "submit", "sweep.toml"])["id"].to_string();
    feed.kind("step");
    // Who follows the sweep hears how the GPUs are.
    let mut of_sweep = Feed::at(&daemon, &format!("/v1/sweeps/{id}/events?since=0"));
    of_sweep.kind("step");
    for look in of_sweep.looks(0, 2) {
        assert_eq!(look["status"]["temperature_c"], 70.0);
    }
    super::common::until("the limit holds", || {
        let view = daemon.json(&["gpus"]);
        (view["gpus"][0]["max_temperature"] == 85.0).then_some(())
    });
    host.temperature(0, "86");
    feed.kind("gpu_critical");
    feed.kind("paused");
}

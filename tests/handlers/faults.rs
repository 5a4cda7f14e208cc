//! Handlers that panic, err, block and loop, and those that are merely slow.

use crate::bus::{Bus, Fall, record};
use crate::common::until;
use backpropd::actors::handlers::ReleaseHandler;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn full() -> bool {
    std::env::var_os("BACKPROPD_FULL").is_some()
}

fn bad(name: &str, how: &str, on: &str) -> Value {
    json!({
        "name": name, "kind": "bad", "events": ["*"], "how": how, "on": on,
        "deadline_seconds": 0.3, "restarts": 2,
    })
}

/// behaviour: event-12, event-14, gpu-11
#[test]
fn a_handler_that_fails_costs_nobody_else_anything_and_is_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let specs = [
        bad("panics", "panic", "step"),
        bad("errs", "error", "run_failed"),
        record("well", &["*"]),
    ];
    let bus = Bus::start(dir.path(), &specs);
    let run = bus.run();
    for kind in ["run_started", "step", "run_completed", "run_failed"] {
        bus.say(Some(run), kind);
    }
    let heard = &bus.recorder;
    heard.wait("well", "run_failed", 1);
    // A lossy event is not tried again, so that the one after it is.
    let failed = heard.wait("well", "handler_failed", 1);
    heard.wait("well", "handler_restarted", 1);
    let panicked = until("the panic is told", || {
        let failed = heard.of("well", "handler_failed").into_iter();
        failed
            .map(|event| event.fields)
            .find(|f| f["handler"] == "panics")
    });
    assert_eq!(panicked["event_kind"], "step");
    let cause = panicked["cause"].as_str().unwrap();
    assert!(
        cause.contains("on purpose") && cause.contains("bus.rs:"),
        "{cause}"
    );
    assert!(failed.iter().all(|event| event.run.is_none()));
    let view = until("it goes on", || {
        let view = bus.view("panics");
        (view.last_event >= 4).then_some(view)
    });
    let counters = view.counters;
    assert_eq!((counters.failed, counters.restarted), (1, 1));

    // One that must not be lost is tried until the intensity is spent.
    let spent = heard.wait("well", "handler_quarantined", 1);
    assert_eq!(spent[0].fields["handler"], "errs");
    let view = bus.reaches("errs", "quarantined");
    assert_eq!((view.counters.failed, view.counters.restarted), (3, 2));
    let failed = heard.of("well", "handler_failed").into_iter();
    let mut of_errs = failed.filter(|event| event.fields["handler"] == "errs");
    let on = of_errs.next().unwrap().fields["event"].as_u64().unwrap();
    assert!(view.last_event < on, "the event is not done with");
    assert!(
        view.last_cause
            .unwrap()
            .contains("handler-failed: bad: on purpose")
    );
    // Released, it fails on the same event again: nothing was passed over.
    bus.tell(ReleaseHandler("errs".into())).unwrap();
    heard.wait("well", "handler_quarantined", 2);
    assert!(bus.view("errs").last_event < on);
}

/// Row 7 of the faults. In full what blocks sleeps for a minute, after which nothing it says
/// counts.
///
/// behaviour: event-12, event-15
#[test]
fn a_handler_that_blocks_or_loops_is_given_up_at_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let (how, events) = if full() {
        ("sleep", 500)
    } else {
        ("block", 50)
    };
    let specs = [
        bad("blocks", how, "epoch"),
        bad("loops", "loop", "epoch"),
        record("well", &["*"]),
    ];
    let bus = Bus::start(dir.path(), &specs);
    let run = bus.run();
    bus.say(Some(run), "epoch");
    let said = Instant::now();
    let hung = until("both deadlines are told", || {
        let told = bus.recorder.of("well", "handler_failed");
        let of = |name: &str| {
            told.iter()
                .find(|event| event.fields["handler"] == name)
                .cloned()
        };
        Some([of("blocks")?, of("loops")?])
    });
    let after = said.elapsed();
    assert!(
        after < Duration::from_millis(1300),
        "{after:?} for a deadline of 300 ms"
    );
    for event in hung {
        assert_eq!(event.fields["event_kind"], "epoch");
        let cause = event.fields["cause"].as_str().unwrap();
        assert!(cause.contains("blocking its thread"), "{cause}");
    }
    // Meanwhile the others hear at once, and who asks is answered.
    let (mut waits, mut answers) = (Vec::new(), Vec::new());
    for n in 1..=events {
        let said = Instant::now();
        bus.say(Some(run), "checkpoint_saved");
        bus.recorder.wait("well", "checkpoint_saved", n);
        waits.push(said.elapsed());
        let asked = Instant::now();
        bus.views();
        answers.push(asked.elapsed());
    }
    for (what, mut times) in [("event", waits), ("answer", answers)] {
        times.sort();
        let (median, p99) = (times[events / 2], times[events * 99 / 100]);
        assert!(median < Duration::from_millis(100), "{what} {median:?}");
        if full() {
            assert!(p99 <= Duration::from_millis(50), "{what} {p99:?}");
        }
    }
    // Each was tried three times with three threads, and no more.
    for name in ["blocks", "loops"] {
        let view = bus.reaches(name, "quarantined");
        assert_eq!((view.counters.failed, view.counters.delivered), (3, 0));
    }
    if full() {
        std::thread::sleep(Duration::from_secs(62).saturating_sub(said.elapsed()));
        let view = bus.view("blocks");
        assert_eq!((view.counters.failed, view.counters.delivered), (3, 0));
        assert_eq!(view.state, "quarantined");
    }
}

/// behaviour: event-12
#[test]
fn handlers_that_fail_on_each_others_failures_come_to_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let specs = [
        bad("a", "error", "*"),
        bad("b", "panic", "*"),
        record("well", &["handler_*"]),
    ];
    let bus = Bus::start(dir.path(), &specs);
    bus.say(None, "warning");
    bus.recorder.wait("well", "handler_quarantined", 2);
    let told = bus.recorder.of("well", "handler_failed").len();
    // Three failures of each on the warning; those on news of the other are not told.
    assert!(told <= 6, "{told}");
    for name in ["a", "b"] {
        assert_eq!(bus.view(name).state, "quarantined");
    }
}

/// What is said of a failure may make another one fail, and the other way round; that is not
/// told on, or it would never end.
#[test]
fn failures_on_what_is_said_of_failures_are_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut specs = [bad("a", "once", "*"), bad("b", "once", "*")];
    for spec in &mut specs {
        spec["restarts"] = json!(1000);
    }
    let bus = Bus::start(
        dir.path(),
        &[&specs[..], &[record("well", &["*"])]].concat(),
    );
    bus.say(None, "warning");
    until("both are done with all that is said", || {
        let newest = bus.view("well").last_event;
        let done = |name| {
            let view = bus.view(name);
            view.state == "running" && view.waiting == 0 && view.last_event == newest
        };
        // Each has failed on the warning, and on what was told of the other.
        let failed = |name| bus.view(name).counters.failed >= 2;
        (["a", "b"]
            .into_iter()
            .all(|name| done(name) && failed(name)))
        .then_some(())
    });
    assert_eq!(bus.recorder.of("well", "handler_failed").len(), 2);
}

/// Row 14 of the faults: slow subscribers cost a bounded amount of memory, miss only what is
/// lossy, know exactly how much, and slow nobody down.
///
/// behaviour: event-15, stream-06
#[test]
fn slow_handlers_miss_only_lossy_events_and_count_them() {
    let (steps, each) = if full() { (100_000, 50) } else { (5_000, 5) };
    let dir = tempfile::tempdir().unwrap();
    let mut specs = vec![json!({
        "name": "fast", "kind": "jsonl", "events": ["*"], "queue": 65_536, "path": "events.jsonl",
    })];
    for n in 0..each {
        for (kind, how) in [("stalled", "block"), ("slow", "slow")] {
            let mut spec = bad(&format!("{kind}-{n}"), how, "step");
            spec["queue"] = json!(1000);
            spec["deadline_seconds"] = json!(3600);
            specs.push(spec);
        }
    }
    let bus = Bus::start(dir.path(), &specs);
    let run = bus.run();
    let before = resident();
    let fields = json!({ "step": 1, "loss": 0.5, "text": "x".repeat(1024) });
    for batch in 0..steps / 100 {
        bus.say_all(Some(run), "step", vec![fields.clone(); 100]);
        if batch % 10 == 9 {
            bus.say(Some(run), "checkpoint_saved");
        }
        // As fast as the fast one hears, which gets all of it.
        until("the fast one has heard", || {
            let heard = bus.view("fast").counters.delivered;
            (heard + 2000 > (batch as u64 + 1) * 100).then_some(())
        });
    }
    let saved = steps / 1000;
    until("the fast one has heard", || {
        let heard = bus.view("fast").counters.delivered;
        (heard >= (steps + saved) as u64).then_some(())
    });
    let grown = resident().saturating_sub(before);
    assert!(grown <= 64 << 20, "{} MiB", grown >> 20);
    for view in bus.views() {
        let (counters, waiting) = (view.counters, view.waiting as u64);
        assert_eq!(counters.lagged, 0, "nothing that matters found no room");
        let accounted = counters.delivered + counters.dropped + waiting;
        if view.spec.name == "fast" {
            assert_eq!(
                (counters.delivered, counters.dropped),
                ((steps + saved) as u64, 0)
            );
        } else {
            assert_eq!(accounted, (steps + saved) as u64, "{view:?}");
            assert!(waiting <= 1001);
        }
        if view.spec.name.starts_with("stalled") {
            assert_eq!(waiting, 1001, "one in hand, the newest in the queue");
        }
    }
}

#[test]
fn the_restart_of_a_part_of_the_daemon_is_an_event() {
    let dir = tempfile::tempdir().unwrap();
    let bus = Bus::start(dir.path(), &[record("well", &["actor_restarted"])]);
    bus.fragile.try_send(Fall).unwrap();
    let told = bus.recorder.wait("well", "actor_restarted", 1);
    let fields = &told[0].fields;
    assert_eq!(
        (&fields["actor"], &fields["restarts"]),
        (&json!("fragile"), &json!(1))
    );
    assert!(fields["cause"].as_str().unwrap().contains("on purpose"));
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

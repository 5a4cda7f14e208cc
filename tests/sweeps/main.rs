//! Sweeps as a user has them: the real daemon, its workers, real signals.

#[path = "../common/mod.rs"]
mod common;

mod crash;
mod ends;
mod halving;
mod order;
mod queue;
mod spec;
mod watch;

use common::Fixture;
use common::daemon::Daemon;
use serde_json::Value;

/// A fixture with `sweep.toml` over a run of `steps` steps.
fn fixture(steps: u64, sweep: &str) -> Fixture {
    let fixture = Fixture::new(steps);
    write(&fixture, sweep);
    fixture
}

fn write(fixture: &Fixture, sweep: &str) {
    let text = format!("run = \"run.toml\"\nname = \"s\"\noutput = \"out\"\n{sweep}");
    std::fs::write(fixture.path("sweep.toml"), text).unwrap();
}

/// What tests ask of a daemon with sweeps.
trait Sweeps {
    fn begin(&self) -> u64;
    fn sweep(&self, id: u64) -> Value;
    /// Every event of the sweep up to its end.
    fn events_of(&self, id: u64) -> Vec<Value>;
    fn sweep_reaches(&self, id: u64, state: &str) -> Value;
}

impl Sweeps for Daemon<'_> {
    fn begin(&self) -> u64 {
        let sweep = self.json(&["sweep", "submit", "sweep.toml"]);
        sweep["id"].as_u64().unwrap()
    }

    fn sweep(&self, id: u64) -> Value {
        self.json(&["sweep", "show", &id.to_string()])
    }

    fn events_of(&self, id: u64) -> Vec<Value> {
        let watched = self.ctl(&["sweep", "watch", &id.to_string(), "--json"]);
        common::lines(&watched.stdout)
    }

    fn sweep_reaches(&self, id: u64, state: &str) -> Value {
        common::until(state, || {
            let sweep = self.sweep(id);
            (sweep["state"] == state).then_some(sweep)
        })
    }
}

/// Where in `events` those are that `is` holds for.
fn places(events: &[Value], is: impl Fn(&Value) -> bool) -> Vec<usize> {
    (0..events.len()).filter(|n| is(&events[*n])).collect()
}

/// Where the event of `kind` of run `index` is; there is one.
fn place(events: &[Value], kind: &str, index: u64) -> usize {
    let found = places(events, |e| e["kind"] == kind && e["run_idx"] == index);
    assert_eq!(found.len(), 1, "{kind} of run {index}");
    found[0]
}

fn is_step(index: u64) -> impl Fn(&Value) -> bool {
    move |event| event["kind"] == "step" && event["run_idx"] == index
}

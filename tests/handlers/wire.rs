//! The payload of every kind of event is fixed.

use backpropd::domain::gpu::GpuFact;
use backpropd::protocol::api::Event;
use backpropd::protocol::sweep::OfSweep;
use backpropd::protocol::{AssetFact, DaemonFact, Fact, VERSION, kinds};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// An example of each kind, as it was written when the kind was introduced. A line here
/// never changes within a version of the protocol; a field that is added is optional.
const EXAMPLES: &str = include_str!("../data/events.jsonl");

fn round_trip(event: &Event) -> Option<Value> {
    let fact = event.fact().map(|fact: Fact| json!(fact));
    let own = || event.daemon_fact().map(|fact: DaemonFact| json!(fact));
    let gpu = || event.gpu_fact().map(|fact: GpuFact| json!(fact));
    let asset = || event.asset_fact().map(|fact: AssetFact| json!(fact));
    let sweep = || event.sweep_fact().map(|fact: OfSweep| json!(fact));
    let daemon = fact.or_else(own).or_else(gpu);
    daemon.or_else(asset).or_else(sweep)
}

/// behaviour: event-04, multi-02, stream-04, gpu-08
#[test]
fn the_payload_of_every_kind_is_fixed_and_versioned() {
    let mut seen = BTreeSet::new();
    for line in EXAMPLES.lines() {
        let event: Event = serde_json::from_str(line).unwrap();
        assert_eq!(event.v, VERSION);
        let whole: Value = serde_json::from_str(line).unwrap();
        assert_eq!(json!(event), whole, "the envelope keeps every field");
        seen.insert(event.kind.clone());
        if event.kind == "gap" {
            continue;
        }
        let fact = round_trip(&event).unwrap_or_else(|| panic!("{line}"));
        for (key, value) in &event.fields {
            assert_eq!(&fact[key], value, "{}.{key}", event.kind);
        }
        // A payload of another type is refused.
        let mut broken = event.clone();
        for value in broken.fields.values_mut() {
            *value = json!({ "of another type": [] });
        }
        assert_eq!(round_trip(&broken), None, "{}", event.kind);
    }
    let all: BTreeSet<String> = kinds::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(seen, all, "an example of each kind");
}

/// behaviour: event-07, stream-04
#[test]
fn what_is_not_finite_is_null_and_what_is_unknown_can_be_passed_over() {
    let step = |loss: f64| {
        let text = EXAMPLES
            .lines()
            .find(|line| line.contains("\"kind\":\"step\""))
            .unwrap();
        let event: Event = serde_json::from_str(text).unwrap();
        let Some(Fact::Step(mut step)) = event.fact() else {
            panic!("{event:?}");
        };
        step.sites[0].fvu = loss;
        json!(Fact::Step(step))
    };
    assert_eq!(step(f64::NAN)["sites"][0]["fvu"], Value::Null);
    assert_eq!(step(f64::INFINITY)["sites"][0]["fvu"], Value::Null);
    let unknown = json!({
        "v": 1, "id": 1, "run": null, "seq": null, "at": 0, "kind": "of tomorrow", "x": 1,
    });
    let event: Event = serde_json::from_value(unknown.clone()).unwrap();
    assert_eq!((round_trip(&event), json!(event)), (None, unknown));
}

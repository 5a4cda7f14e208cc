//! What a run was expected to need, beside what it took.

mod common;

use common::{Fixture, of_kind};
use std::path::Path;

/// How far the estimate may be off: what the allocator and the system make of it is theirs.
const SHARE: std::ops::RangeInclusive<f64> = 0.75..=1.4;

/// behaviour: engine-08, train-12
#[test]
fn the_estimate_of_a_run_stands_against_its_measured_peak() {
    let fixture = Fixture::new(1);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart");
    let path = |name: &str| format!("path = \"{}\"", folder.join(name).display());
    let toml = std::fs::read_to_string(folder.join("run.toml")).unwrap();
    let toml = toml
        .replace("path = \"model\"", &path("model"))
        .replace("path = \"austen.txt\"", &path("austen.txt"));
    std::fs::write(fixture.path("run.toml"), toml).unwrap();
    let short = [
        "schedule.lr_warm_up=0",
        "schedule.lr_decay=0",
        "eval.every=0",
        "eval.contexts=8",
    ];
    // Soon enough that AuxK has work.
    let dead = "sae.dead_after=8000";
    let (few, more) = ("training.tokens=6144", "training.tokens=40960");
    let standard = "sae={ variant = \"standard\", d_sae = 2048 }";
    for (out, settings) in [
        ("fresh", &[more, dead][..]),
        ("cached", &[more, dead]),
        ("wide", &[few, dead, "sae.d_sae=16384"]),
        (
            "large",
            &["training.tokens=16384", "training.batch_size=8192"],
        ),
        ("dense", &[few, standard]),
    ] {
        let set = short
            .iter()
            .chain(settings)
            .flat_map(|item| ["--set", item]);
        let events = fixture.events(out, &set.collect::<Vec<_>>());
        // Tokenising leaves memory behind, so the last word follows it.
        let estimates = of_kind(&events, "estimate");
        assert_eq!(estimates.len(), if out == "fresh" { 2 } else { 1 });
        let estimate = estimates.last().unwrap();
        let peak = &events.last().unwrap()["peak_memory"];
        let share = estimate["bytes"].as_f64().unwrap() / peak.as_f64().unwrap();
        println!("{out}: {share:.2} of {peak}");
        let parts = &estimate["parts"];
        assert!(
            SHARE.contains(&share),
            "{out}: {share:.2} of {peak}: {parts}"
        );
    }
}

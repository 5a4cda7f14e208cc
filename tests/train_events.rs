//! What a run says while it works, and what it leaves behind.

mod common;

use common::{Fixture, of_kind};
use serde_json::Value;
use std::path::Path;

/// behaviour: e2e-01
/// behaviour: event-06
/// behaviour: event-08
/// behaviour: event-09
/// behaviour: event-10
/// behaviour: train-09
/// behaviour: train-13
#[test]
fn a_run_says_each_fact_once_and_in_order() {
    let fixture = Fixture::new(12);
    let events = fixture.events("run", &["--set", "training.batch_size=512"]);

    let numbers: Vec<u64> = events.iter().map(|e| e["seq"].as_u64().unwrap()).collect();
    assert!(
        numbers
            .iter()
            .eq((1..=numbers.len() as u64).collect::<Vec<_>>().iter())
    );
    assert!(events.iter().all(|e| e["v"] == 1 && e["run"] == "tiny"));

    let steps = of_kind(&events, "step");
    let counted: Vec<u64> = steps.iter().map(|e| e["step"].as_u64().unwrap()).collect();
    assert_eq!(counted, (1..=12).collect::<Vec<_>>());
    assert!(
        steps
            .iter()
            .all(|e| e["loss"].as_f64().unwrap().is_finite())
    );

    let started = of_kind(&events, "run_started")[0];
    let epoch_tokens = started["epoch_tokens"].as_u64().unwrap();
    let epochs: Vec<(u64, u64)> = of_kind(&events, "epoch")
        .iter()
        .map(|e| (e["epoch"].as_u64().unwrap(), e["step"].as_u64().unwrap()))
        .collect();
    let expected: Vec<(u64, u64)> = (1..=12 * 512 / epoch_tokens)
        .map(|n| (n, (n * epoch_tokens).div_ceil(512)))
        .collect();
    assert!(!expected.is_empty(), "the text is long enough for an epoch");
    assert_eq!(epochs, expected);

    let saved: Vec<u64> = of_kind(&events, "checkpoint_saved")
        .iter()
        .map(|e| {
            let path = Path::new(e["path"].as_str().unwrap());
            assert!(path.is_absolute() || path.starts_with("run"));
            e["step"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(saved, [5, 10, 12]);
    let measured: Vec<u64> = of_kind(&events, "validation")
        .iter()
        .map(|e| e["step"].as_u64().unwrap())
        .collect();
    assert_eq!(measured, [10, 12]);

    assert_eq!(of_kind(&events, "run_completed").len(), 1);
    let last = events.last().unwrap();
    assert_eq!(last["kind"], "run_completed");
    assert_eq!(
        (&last["step"], &last["tokens"]),
        (&12.into(), &(12 * 512).into())
    );
    assert!(last["peak_memory"].as_u64().unwrap() > 0);
}

#[test]
fn the_run_folder_holds_what_the_readme_says() {
    let fixture = Fixture::new(10);
    fixture.events("run", &[]);
    let folder = fixture.path("run");
    for name in [
        "run.toml",
        "metrics.jsonl",
        "validation.jsonl",
        "report.html",
        "summary.json",
        "checkpoints/step-00000010/manifest.json",
        "export/saelens/cfg.json",
        "export/saelens/sae_weights.safetensors",
        "export/sparsify/blocks.1.hook_resid_post/cfg.json",
        "export/sparsify/blocks.1.hook_resid_post/sae.safetensors",
        "export/dictionary_learning/trainer_0/ae.pt",
        "export/dictionary_learning/trainer_0/config.json",
    ] {
        assert!(folder.join(name).is_file(), "{name} is missing");
    }
    let metrics = common::lines(&std::fs::read(folder.join("metrics.jsonl")).unwrap());
    assert_eq!(metrics.len(), 10);
    for key in [
        "loss",
        "l0",
        "explained_variance",
        "fvu",
        "dead",
        "lr",
        "grad_norm",
        "parts",
    ] {
        assert!(!metrics[9][key].is_null(), "{key}: {}", metrics[9]);
    }
    let report = std::fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(report.matches("<svg").count() >= 8);
    assert!(!report.contains("http-equiv") && !report.contains("src=\"http"));
}

/// behaviour: cli-03
#[test]
fn quiet_says_nothing_and_json_says_a_line_an_event() {
    let fixture = Fixture::new(3);
    let output = common::backpropd()
        .current_dir(fixture.dir.path())
        .env("BACKPROPD_CACHE", fixture.path("token-cache"))
        .args(["train", "run.toml", "--quiet", "--out", "quiet"])
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    let output = fixture.run("json", &[]);
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(common::lines(&output.stdout).iter().all(Value::is_object));
}

/// behaviour: cli-01
#[test]
fn without_a_terminal_a_person_gets_lines_and_a_table() {
    let fixture = Fixture::new(5);
    let output = common::backpropd()
        .current_dir(fixture.dir.path())
        .env("BACKPROPD_CACHE", fixture.path("token-cache"))
        .args(["train", "run.toml", "--out", "run"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("step 5/5") && said.contains("ETA"), "{said}");
    assert!(
        !said.contains('\x1b'),
        "no escape codes without a terminal: {said:?}"
    );
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(
        table.contains("CE recovered") && table.contains("run/report.html"),
        "{table}"
    );
}

/// behaviour: event-13
#[test]
fn a_reader_that_goes_away_does_not_end_the_run() {
    let fixture = Fixture::new(20);
    let mut child = fixture
        .command("run", &[])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert!(fixture.path("run/summary.json").is_file());
}

#[test]
fn several_hook_points_train_an_autoencoder_each() {
    let fixture = Fixture::new(6);
    let hooks = "model.hooks=[\"blocks.0.hook_mlp_out\", \"blocks.1.hook_resid_post\"]";
    let events = fixture.events("both", &["--set", hooks]);
    let sites = of_kind(&events, "step")[0]["sites"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(sites, 2);
    assert!(
        fixture
            .path("both/export/saelens/blocks.0.hook_mlp_out/cfg.json")
            .is_file()
    );
    let metrics = common::lines(&std::fs::read(fixture.path("both/metrics.jsonl")).unwrap());
    assert_eq!(metrics.len(), 12);
}

#[test]
fn cached_activations_train_the_same_autoencoder_as_live_ones() {
    let fixture = Fixture::new(12);
    fixture.events("live", &[]);
    let cache = "activations.cache=cache";
    fixture.events("first", &["--set", cache]);
    fixture.events("again", &["--set", cache]);
    let live = fixture.result("live");
    assert_eq!(fixture.result("first"), live);
    assert_eq!(fixture.result("again"), live);
}

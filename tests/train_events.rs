//! What a run says while it works, and what it leaves behind.

mod common;

use common::{Fixture, of_kind};
use serde_json::Value;
use std::path::Path;

/// behaviour: e2e-01
/// behaviour: train-04
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

    // Checked, estimated, placed on a device, and only then begun.
    let before: Vec<&str> = events.iter().map(|e| e["kind"].as_str().unwrap()).collect();
    let begun = before
        .iter()
        .position(|kind| *kind == "run_started")
        .unwrap();
    assert_eq!(before[0], "estimate");
    // Once more after the text: what tokenising leaves behind is measured.
    let told = |kind: &&str| ["progress", "estimate"].contains(kind);
    assert!(before[1..begun].iter().all(told));
    let started = of_kind(&events, "run_started")[0];
    assert!(started["device"].as_str().unwrap().starts_with("cpu"));
    assert!(fixture.path("run/checkpoints").is_dir());
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
        "export/saelens/sparsity.safetensors",
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

/// behaviour: train-08
#[test]
fn accumulation_clipping_and_warm_ups_run_exactly_the_asked_steps() {
    let fixture = Fixture::new(10);
    let standard = "sae = { variant = \"standard\", d_sae = 96, l1_coefficient = 0.5 }";
    let always = [
        standard,
        "training.micro_batch_size=16",
        "schedule.lr_warm_up=4",
    ];
    let set = |more: &'static str| {
        let all = always.into_iter().chain([more]);
        all.flat_map(|value| ["--set", value]).collect::<Vec<_>>()
    };
    let events = fixture.events("warm", &set("schedule.sparsity_warm_up=4"));
    let steps = of_kind(&events, "step");
    let numbers = steps.iter().map(|s| s["step"].as_u64().unwrap());
    assert!(numbers.eq(1..=10), "each step once, in order");
    for (step, factor) in steps.iter().zip([0.25, 0.5, 0.75, 1.0, 1.0]) {
        assert_eq!(step["lr"].as_f64().unwrap(), 0.003 * factor);
    }
    let l1 = |steps: &[&Value]| steps[0]["sites"][0]["parts"]["l1_loss"].as_f64().unwrap();
    let cold = fixture.events("cold", &set("seed=7"));
    let ratio = l1(&steps) / l1(&of_kind(&cold, "step"));
    assert!(
        (ratio - 0.25).abs() < 1e-6,
        "the first of four steps: {ratio}"
    );

    // A limit that every gradient exceeds makes the first step another one, though Adam
    // forgives a factor: its second moment does not forget eps.
    let clip = fixture.events("clip", &set("optimizer.clip_norm=1e-9"));
    let last = |events: &[Value]| of_kind(events, "step")[9]["loss"].as_f64().unwrap();
    assert_ne!(last(&clip), last(&cold));
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

/// behaviour: train-04
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

/// behaviour: train-10
/// behaviour: engine-02
#[test]
fn where_memory_runs_out_the_same_step_runs_again_in_smaller_pieces() {
    let fixture = Fixture::new(2);
    // Dense at first: some 16 million edges.
    let set = [
        "--set",
        "sae = { variant = \"standard\", d_sae = 4096 }",
        "--set",
        "training.batch_size=8192",
        "--set",
        "activations.window_batches=1",
    ];
    let command = fixture.command("small", &set);
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -v 600000 && exec \"$0\" \"$@\""])
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(fixture.dir.path())
        .env("BACKPROPD_CACHE", fixture.path("token-cache"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let events = common::lines(&output.stdout);
    let oom = of_kind(&events, "oom");
    let last = oom.last().expect("memory ran out");
    assert_eq!(last["step"], 1);
    let micro = last["micro_batch"].as_u64().unwrap();
    assert_eq!(micro * last["accumulation"].as_u64().unwrap(), 8192);
    let steps = of_kind(&events, "step");
    assert_eq!(steps.len(), 2, "no step is lost, none is told twice");

    let pieces = format!("training.micro_batch_size={micro}");
    fixture.events("pieces", &[&set[..], &["--set", &pieces]].concat());
    assert_eq!(fixture.result("small"), fixture.result("pieces"));
}

//! Bad input gets one line with a stable code, an exit status of its own, and loses
//! nothing.

mod common;

use common::Fixture;
use std::fs;
use std::process::Output;

/// Asserts that `output` is one line of error with `code`, `status` and all of `parts`.
fn refused(output: &Output, code: &str, status: i32, parts: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{code}: {said}");
    assert_eq!(said.lines().count(), 1, "{code}: one line: {said}");
    assert!(
        said.starts_with(&format!("error: {code}: ")),
        "{code}: {said}"
    );
    for part in parts {
        assert!(said.contains(part), "{code}: {part:?} is not in: {said}");
    }
}

#[test]
fn values_that_cannot_be_are_refused_by_file_key_and_value() {
    let fixture = Fixture::new(5);
    let cases: &[(&str, &[&str])] = &[
        ("sae.k=97", &["run.toml:", "sae.k", "97", "96"]),
        (
            "training.batch_size=0",
            &["run.toml:", "training.batch_size", "0"],
        ),
        ("training.batchsize=4", &["training.batchsize", "unknown"]),
        ("sae.kk=4", &["sae", "kk"]),
        ("training.epochs=1", &["training.epochs", "training.steps"]),
        ("data.context_size=1", &["data.context_size", "1"]),
        ("sae.variant=topp", &["sae", "topp"]),
        ("name=a/b", &["run.toml:1: name", "a/b"]),
        ("model.hooks=[]", &["model.hooks"]),
    ];
    for (set, parts) in cases {
        let output = fixture.run("run", &["--set", set]);
        refused(&output, "config-invalid", 10, parts);
        assert!(!fixture.path("run").exists(), "{set} left a folder");
    }
    let output = fixture.run("run", &["--set", "sae.k"]);
    refused(&output, "usage", 2, &["--set sae.k"]);
}

/// behaviour: engine-13
#[test]
fn what_is_missing_is_named() {
    let fixture = Fixture::new(5);
    let cases: &[(&[&str], &str, i32, &[&str])] = &[
        (
            &["--set", "model.path=nowhere"],
            "model-missing",
            20,
            &["nowhere"],
        ),
        (
            &["--set", "data.path=nowhere.txt"],
            "data-missing",
            31,
            &["nowhere.txt"],
        ),
        (
            &["--set", "model.hooks=[\"blocks.9.hook_resid_post\"]"],
            "hook-unknown",
            26,
            &["blocks.9.hook_resid_post", "blocks 0 to 2"],
        ),
        (
            &["--resume"],
            "checkpoint-missing",
            41,
            &["run", "without --resume"],
        ),
        (
            &["--device", "cuda"],
            "device-unavailable",
            63,
            &["cuda", "--device cpu"],
        ),
    ];
    for (args, code, status, parts) in cases {
        refused(&fixture.run("run", args), code, *status, parts);
    }
    let output = common::backpropd()
        .args(["train", "no.toml"])
        .output()
        .unwrap();
    refused(&output, "config-missing", 11, &["no.toml"]);
}

#[test]
fn unusable_text_is_named_by_file_and_row() {
    let fixture = Fixture::new(5);
    let path = |name: &str| format!("data.path={name}");
    fs::write(fixture.path("empty.txt"), "").unwrap();
    fs::write(
        fixture.path("rows.jsonl"),
        "{\"text\": \"a b c\"}\n{\"text\": 5}\n",
    )
    .unwrap();
    fs::write(fixture.path("other.csv"), "title,body\na,b\n").unwrap();
    let run = |name: &str| fixture.run("run", &["--set", &path(name)]);
    refused(&run("empty.txt"), "data-empty", 32, &["empty.txt"]);
    refused(
        &run("rows.jsonl"),
        "data-row-invalid",
        34,
        &["rows.jsonl", "2"],
    );
    refused(
        &run("other.csv"),
        "data-column-missing",
        33,
        &["other.csv", "text", "title"],
    );
}

#[test]
fn a_run_folder_is_not_overwritten_nor_shared() {
    let fixture = Fixture::new(2000);
    let running = fixture.start_until("run", &[], 6);
    let pid = running.child.id().to_string();
    refused(
        &fixture.run("run", &["--resume"]),
        "run-busy",
        43,
        &["run", &pid],
    );
    assert_eq!(running.signal(rustix::process::Signal::TERM), 143);
    refused(
        &fixture.run("run", &[]),
        "run-exists",
        44,
        &["run", "--resume", "--out"],
    );
}

/// behaviour: train-12
/// behaviour: engine-08
#[test]
fn a_run_that_cannot_fit_is_refused_with_the_numbers_before_it_starts() {
    let fixture = Fixture::new(5);
    let output = fixture.run("run", &["--set", "training.max_memory_mib=1"]);
    refused(
        &output,
        "memory-estimate",
        62,
        &["MiB", "1 MiB", "micro_batch_size"],
    );
}

/// behaviour: event-07
#[test]
fn a_loss_that_is_not_finite_fails_the_run_or_is_counted_as_the_policy_says() {
    let fixture = Fixture::new(8);
    let explode = ["--set", "optimizer.lr=1e30"];
    let output = fixture.run("fail", &explode);
    refused(&output, "non-finite", 60, &["step"]);
    let mut skip = explode.to_vec();
    skip.extend(["--set", "training.on_non_finite=skip"]);
    let output = fixture.run("skip", &skip);
    assert!(output.status.success());
    let events = common::lines(&output.stdout);
    let skipped = common::of_kind(&events, "non_finite").len();
    assert!(skipped > 0);
    assert_eq!(common::of_kind(&events, "step").len(), 8 - skipped);
    assert_eq!(events.last().unwrap()["skipped"], skipped);
}

/// behaviour: event-11
#[test]
fn a_failure_is_the_last_event_and_stands_alone() {
    let fixture = Fixture::new(8);
    let output = fixture.run("run", &["--set", "optimizer.lr=1e30"]);
    let events = common::lines(&output.stdout);
    let last = events.last().unwrap();
    assert_eq!(
        (&last["kind"], &last["code"]),
        (&"run_failed".into(), &"non-finite".into())
    );
    assert_eq!(common::of_kind(&events, "run_failed").len(), 1);
    assert!(common::of_kind(&events, "run_completed").is_empty());
}

//! Runs that refer to models and datasets by name.

use crate::common::daemon::Daemon;
use crate::common::{data, text};
use crate::{add, named, refused};
use serde_json::{Value, json};

/// behaviour: train-06, train-07, double-12
#[test]
fn a_run_by_names_is_the_run_by_paths_and_datasets_are_joined() {
    let fixture = named();
    let daemon = Daemon::start(&fixture);
    let second = fixture.path("second.txt");
    std::fs::write(&second, text(500)).unwrap();
    let model = add(&daemon, "models", "m", &data("lm/llama"));
    add(&daemon, "datasets", "d", &fixture.path("text.txt"));
    add(&daemon, "datasets", "e", &second);
    let submit = |toml: &str, out: &str, path: &str| {
        let (out, path) = (format!("output={out}"), format!("data.path={path}"));
        let args = ["submit", toml, "--key", &out, "--set", &out, "--set", &path];
        let run = daemon.json(&args);
        let run = run["id"].as_u64().unwrap();
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        (run, args)
    };
    let (by_name, args) = submit("named.toml", "by-name", "[\"dataset:d\", \"dataset:e\"]");
    daemon.reaches(by_name, "completed");
    let (by_path, _) = submit("run.toml", "by-path", "[\"text.txt\", \"second.txt\"]");
    daemon.reaches(by_path, "completed");
    assert_eq!(fixture.result("by-name"), fixture.result("by-path"));
    // The sizes are those of the model and of the request.
    let export = std::fs::read(fixture.path("by-name/export/saelens/cfg.json")).unwrap();
    let export: Value = serde_json::from_slice(&export).unwrap();
    assert_eq!(export["d_in"], model["description"]["hidden_size"]);
    assert_eq!(export["d_sae"], 96);
    // Said again after its end, also when its model is gone: nothing happens.
    daemon.json(&["models", "rm", "m"]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let again = daemon.json(&args);
    assert_eq!(
        (&again["id"], &again["state"]),
        (&json!(by_name), &json!("completed"))
    );
}

/// behaviour: train-04, train-06, engine-13
#[test]
fn what_is_not_known_or_not_ready_is_refused_by_name_before_it_is_queued() {
    let fixture = named();
    let daemon = Daemon::start(&fixture);
    let (status, said) = refused(&daemon, &["submit", "named.toml"]);
    assert!(status == 83 && said.contains("model m"), "{said}");
    let hollow = fixture.path("hollow");
    std::fs::create_dir(&hollow).unwrap();
    std::fs::copy(data("lm/llama/config.json"), hollow.join("config.json")).unwrap();
    let hollow = hollow.to_str().unwrap();
    refused(&daemon, &["models", "add", "m", hollow, "--watch"]);
    let (status, said) = refused(&daemon, &["submit", "named.toml"]);
    assert!(
        status == 27 && said.contains("model m") && said.contains("error"),
        "{said}"
    );
    daemon.json(&["models", "rm", "m"]);
    add(&daemon, "models", "m", &data("lm/llama"));
    let (status, said) = refused(&daemon, &["submit", "named.toml"]);
    assert!(status == 83 && said.contains("dataset d"), "{said}");
    add(&daemon, "datasets", "d", &fixture.path("text.txt"));
    for (set, status, part) in [
        (
            "model.hooks=[\"blocks.9.hook_resid_post\"]",
            26,
            "blocks.9.hook_resid_post",
        ),
        ("data.text_column=body", 10, "dataset d"),
        ("data.path=dataset:../d", 2, "../d"),
        ("model.path=model:", 2, "no name"),
    ] {
        let (found, said) = refused(&daemon, &["submit", "named.toml", "--set", set]);
        assert!(
            found == status && said.contains(part),
            "{set}: {found} {said}"
        );
    }
    assert_eq!(daemon.json(&["runs"]), json!([]));
    // Without a daemon nobody knows the names.
    let output = crate::common::backpropd()
        .current_dir(fixture.dir.path())
        .args(["train", "named.toml"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(10), "{said}");
    assert!(
        said.contains("model:m") && said.contains("ctl submit"),
        "{said}"
    );
}

#[test]
fn a_dataset_that_waits_in_the_queue_is_not_deleted() {
    let fixture = named();
    let daemon = Daemon::start(&fixture);
    add(&daemon, "models", "m", &data("lm/llama"));
    add(&daemon, "datasets", "d", &fixture.path("text.txt"));
    let long = ["--set", "training.steps=100000"];
    let first = daemon.submit("first", &long);
    daemon.trains(first, 1, None);
    let second = daemon.json(&["submit", "named.toml", "--set", "output=second"]);
    let second = second["id"].as_u64().unwrap().to_string();
    daemon.json(&["pause", &second]);
    daemon.json(&["abort", &first.to_string()]);
    daemon.reaches(first, "aborted");
    for kind in ["models", "datasets"] {
        let name = if kind == "models" { "m" } else { "d" };
        let (status, said) = refused(&daemon, &[kind, "rm", name]);
        assert!(
            status == 28 && said.contains(&format!("run {second}")),
            "{said}"
        );
    }
    daemon.json(&["abort", &second]);
    daemon.json(&["datasets", "rm", "d"]);
    daemon.json(&["models", "rm", "m"]);
}

//! `ctl datasets`.

use crate::common::daemon::Daemon;
use crate::common::{Fixture, data, until};
use crate::{add, events, named, refused, show};
use serde_json::{Value, json};
use std::path::PathBuf;

/// A dataset of a thousand rows in one of the formats, chosen by its name.
fn thousand(fixture: &Fixture, name: &str) -> PathBuf {
    let path = fixture.path(name);
    let row = |n: u32| format!("row number {n} of the sea");
    let rows = 0..1000;
    let text: String = match path.extension().unwrap().to_str().unwrap() {
        "jsonl" => rows
            .map(|n| format!("{}\n", json!({ "text": row(n), "input_ids": [n, 1, 2] })))
            .collect(),
        "csv" => std::iter::once("id,text\n".to_owned())
            .chain(rows.map(|n| format!("{n},\"{}\"\n", row(n))))
            .collect(),
        _ => rows.map(|n| row(n) + ". ").collect(),
    };
    std::fs::write(&path, text).unwrap();
    path
}

/// behaviour: data-02, double-06, double-07
#[test]
fn local_files_of_every_format_become_ready_datasets() {
    let fixture = Fixture::new(1);
    let daemon = Daemon::start(&fixture);
    let parquet = data("two-rows.parquet");
    for (name, path, rows, columns) in [
        (
            "jsonl",
            thousand(&fixture, "a.jsonl"),
            1000,
            json!(["input_ids", "text"]),
        ),
        (
            "csv",
            thousand(&fixture, "a.csv"),
            1000,
            json!(["id", "text"]),
        ),
        ("txt", thousand(&fixture, "a.txt"), 1, json!([])),
        ("parquet", parquet, 2, Value::Null),
    ] {
        let ready = add(&daemon, "datasets", name, &path);
        let report = &ready["report"];
        assert_eq!(
            (&ready["state"], &report["valid"]),
            (&json!("ready"), &json!(true))
        );
        assert_eq!(report["rows"], rows, "{name}");
        assert_eq!(report["formats"], json!([name]));
        if columns != Value::Null {
            assert_eq!(report["columns"], columns, "{name}");
        }
    }
    let folder = fixture.path("folder");
    std::fs::create_dir(&folder).unwrap();
    for name in ["folder/a.jsonl", "folder/b.csv"] {
        thousand(&fixture, name);
    }
    let report = add(&daemon, "datasets", "folder", &folder)["report"].clone();
    assert_eq!(
        (&report["rows"], &report["files"]),
        (&json!(2000), &json!(2))
    );
    assert_eq!(report["duplicate_rows"], 1000);
    let listed = String::from_utf8_lossy(&daemon.ctl(&["datasets"]).stdout).into_owned();
    assert!(
        listed.contains("folder") && listed.contains("2,000"),
        "{listed}"
    );
    let (status, said) = refused(&daemon, &["datasets", "add", "none", "nowhere.txt"]);
    assert!(status == 31 && said.contains("nowhere.txt"), "{said}");
}

/// behaviour: data-09, data-10
#[test]
fn a_dataset_with_bad_rows_lists_them_and_cannot_be_used() {
    let fixture = named();
    let daemon = Daemon::start(&fixture);
    add(&daemon, "models", "m", &data("lm/llama"));
    let path = fixture.path("bad.jsonl");
    let rows = "{\"text\":\"good\"}\n{\"text\":1}\n{\"body\":\"x\"}\n{\"text\":\"\"}\nnonsense\n";
    std::fs::write(&path, rows).unwrap();
    let path = path.to_str().unwrap();
    let (status, said) = refused(&daemon, &["datasets", "add", "d", path, "--watch"]);
    assert_eq!(status, 34, "{said}");
    assert!(said.contains("row 2") && said.contains("2 more"), "{said}");
    let shown = show(&daemon, "datasets", "d");
    assert_eq!(shown["state"], "error");
    let report = &shown["report"];
    assert_eq!(
        (&report["valid"], &report["rows"]),
        (&json!(false), &json!(5))
    );
    assert_eq!(
        (&report["empty_rows"], &report["faulty"]),
        (&json!(1), &json!(3))
    );
    let faults = report["faults"].as_array().unwrap();
    let rows: Vec<&Value> = faults.iter().map(|fault| &fault["row"]).collect();
    assert_eq!(rows, [2, 3, 5]);
    assert_eq!(faults[1]["code"], "data-column-missing");
    let printed =
        String::from_utf8_lossy(&daemon.ctl(&["datasets", "show", "d"]).stdout).into_owned();
    assert!(printed.contains("row 5"), "{printed}");

    let (status, said) = refused(&daemon, &["datasets", "tokenize", "d", "--model", "m"]);
    assert!(status == 27 && said.contains("dataset d"), "{said}");
    let (status, said) = refused(&daemon, &["submit", "named.toml"]);
    assert!(status == 27 && said.contains("dataset d"), "{said}");
    assert_eq!(daemon.json(&["runs"]), json!([]));

    // Corrected, it is checked again.
    std::fs::write(path, "{\"text\":\"good\"}\n").unwrap();
    daemon.json(&["datasets", "check", "d", "--watch"]);
    assert_eq!(show(&daemon, "datasets", "d")["state"], "ready");
}

/// behaviour: data-08
#[test]
fn cancelled_work_leaves_a_dataset_that_is_not_ready() {
    let fixture = Fixture::new(1);
    let settings = [("BACKPROPD_WORKERS__STOP_SECONDS", "1")];
    let daemon = Daemon::start_with(&fixture, &settings);
    // Reading it never ends: nobody writes.
    let path = fixture.path("endless.txt");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let begun = daemon.json(&["datasets", "add", "d", path.to_str().unwrap()]);
    assert_eq!(begun["state"], "validating");
    let (status, said) = refused(&daemon, &["datasets", "rm", "d"]);
    assert!(status == 28 && said.contains("is validating"), "{said}");
    daemon.json(&["datasets", "cancel", "d"]);
    let given_up = until("the work ends", || {
        let shown = show(&daemon, "datasets", "d");
        (shown["state"] == "registered").then_some(shown)
    });
    assert_eq!(given_up["error"]["code"], "cancelled");
    assert_eq!(events(&daemon, "dataset_given_up").len(), 1);
    // The same by the death of the daemon.
    daemon.json(&["datasets", "check", "d"]);
    daemon.signal(rustix::process::Signal::KILL);
    let daemon = Daemon::start(&fixture);
    let shown = show(&daemon, "datasets", "d");
    assert_eq!(
        (&shown["state"], &shown["error"]["code"]),
        (&json!("registered"), &json!("cancelled"))
    );
    assert_eq!(daemon.json(&["datasets", "rm", "d"])["files"], 0);
    assert!(path.exists());
}

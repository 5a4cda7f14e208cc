//! `ctl datasets tokenize`.

use crate::common::daemon::Daemon;
use crate::common::{Fixture, data, text, until};
use crate::{add, events, quickstart, refused, show};
use serde_json::{Value, json};

fn token_sets(shown: &Value) -> Vec<Value> {
    shown["token_sets"].as_array().unwrap().clone()
}

/// behaviour: data-07
#[test]
fn a_token_set_is_keyed_by_every_setting_and_served_again() {
    let fixture = Fixture::new(6);
    let daemon = Daemon::start(&fixture);
    add(&daemon, "models", "m", &data("lm/llama"));
    add(&daemon, "datasets", "d", &fixture.path("text.txt"));
    let tokenize = |set: &[&str]| {
        let mut args = vec!["datasets", "tokenize", "d", "--model", "m", "--watch"];
        args.extend(set.iter().flat_map(|item| ["--set", item]));
        token_sets(&daemon.json(&args))
    };
    let as_the_run = ["context_size=16", "holdout=0.1"];
    let first = tokenize(&as_the_run);
    assert_eq!(first.len(), 1);
    let set = &first[0];
    assert_eq!(
        (&set["reused"], &set["model"]),
        (&json!(false), &json!("m"))
    );
    assert_eq!(set["settings"]["context_size"], 16);
    let number = |key: &str| set[key].as_u64().unwrap();
    assert!(number("tokens") > 0 && number("held_out") > 0);
    assert_eq!(
        set["mean_document"],
        number("tokens") as f64 / number("documents") as f64
    );
    // Pads, BOS and held-out contexts are no training tokens.
    let positions = 16 * (number("contexts") - number("held_out"));
    assert!(number("training_tokens") < positions);
    let file = std::path::PathBuf::from(set["file"].as_str().unwrap());
    assert_eq!(file.metadata().unwrap().len(), number("bytes"));

    let again = tokenize(&as_the_run);
    assert_eq!(again.len(), 1);
    assert_eq!(
        (&again[0]["key"], &again[0]["reused"]),
        (&set["key"], &json!(true))
    );
    let mut keys = vec![set["key"].clone()];
    for (n, other) in [
        "context_size=8",
        "stride=4",
        "packing=one_per_context",
        "separator=none",
        "prepend_bos=false",
        "exclude_special_tokens=true",
        "holdout=0.2",
    ]
    .into_iter()
    .enumerate()
    {
        let sets = tokenize(&["context_size=16", "holdout=0.1", other]);
        assert_eq!(sets.len(), n + 2, "{other}");
        keys.push(sets[n + 1]["key"].clone());
    }
    keys.sort_by_key(Value::to_string);
    keys.dedup();
    assert_eq!(keys.len(), 8);

    // A run with these settings does not tokenise again.
    let run = daemon.submit("run", &[]);
    daemon.reaches(run, "completed");
    let stages = events(&daemon, "progress");
    assert!(stages.iter().any(|event| event["stage"] == "loading_model"));
    assert!(stages.iter().all(|event| event["stage"] != "tokenizing"));

    let args = ["datasets", "tokenize", "d", "--model", "m", "--set"];
    let (status, said) = refused(&daemon, &[&args[..], &["context_size=0"]].concat());
    assert!(status == 10 && said.contains("context_size"), "{said}");
    assert_eq!(show(&daemon, "datasets", "d")["state"], "ready");
    let (status, said) = refused(&daemon, &["datasets", "tokenize", "d", "--model", "other"]);
    assert!(status == 83 && said.contains("model other"), "{said}");
    // What the model cannot do says nothing about the text.
    let args = [&args[..], &["separator=no such token", "--watch"]].concat();
    let (status, said) = refused(&daemon, &args);
    assert!(status == 10 && said.contains("no such token"), "{said}");
    let shown = show(&daemon, "datasets", "d");
    assert_eq!(
        (&shown["state"], &shown["error"]["code"]),
        (&json!("ready"), &json!("config-invalid"))
    );
}

/// behaviour: data-04, data-08, engine-18
#[test]
fn tokenising_shows_how_far_it_is_and_a_cancel_leaves_nothing() {
    let fixture = Fixture::new(1);
    let daemon = Daemon::start(&fixture);
    add(&daemon, "models", "m", &quickstart().join("model"));
    // Documents of words that differ, so that the tokenizer remembers few of them.
    let words = text(2000);
    let rows: String = (0..6000_u64)
        .map(|n| {
            let from = (n as usize * 7) % 4000;
            let row = format!(
                "{} {:x}",
                &words[from..from + 4000],
                n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            );
            format!("{}\n", json!({ "text": row }))
        })
        .collect();
    let path = fixture.path("large.jsonl");
    std::fs::write(&path, rows).unwrap();
    add(&daemon, "datasets", "d", &path);
    let tokenize = ["datasets", "tokenize", "d", "--model", "m"];
    assert_eq!(daemon.json(&tokenize)["state"], "tokenizing");
    let (status, said) = refused(&daemon, &tokenize);
    assert!(status == 28 && said.contains("is tokenizing"), "{said}");
    until("it tokenises", || {
        let shown = show(&daemon, "datasets", "d");
        assert_eq!(shown["state"], "tokenizing", "{shown}");
        (shown["progress"]["stage"] == "tokenizing").then_some(())
    });
    daemon.json(&["datasets", "cancel", "d"]);
    let shown = until("it has given up", || {
        let shown = show(&daemon, "datasets", "d");
        (shown["state"] == "ready").then_some(shown)
    });
    assert_eq!(token_sets(&shown), [] as [Value; 0]);
    assert_eq!(
        (&shown["error"]["code"], &shown["progress"]),
        (&json!("cancelled"), &Value::Null)
    );
    let left: Vec<_> = std::fs::read_dir(fixture.path("token-cache"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, [".tokens.lock"], "nothing half-written");

    let done = daemon.json(&[&tokenize[..], &["--watch"]].concat());
    assert_eq!(token_sets(&done).len(), 1);
    let told = events(&daemon, "dataset_");
    let from = told
        .iter()
        .rposition(|event| event["kind"] == "dataset_tokenizing")
        .unwrap();
    let (last, told) = told[from + 1..].split_last().unwrap();
    assert_eq!(last["kind"], "dataset_ready");
    let stages: Vec<&str> = told
        .iter()
        .map(|event| event["stage"].as_str().unwrap())
        .collect();
    assert!(stages.is_sorted_by_key(|stage| {
        ["preprocessing", "tokenizing", "saving"]
            .iter()
            .position(|known| known == stage)
    }));
    for pair in told.windows(2) {
        let number = |event: &Value, key: &str| event[key].as_u64().unwrap();
        if pair[0]["stage"] != pair[1]["stage"] {
            continue;
        }
        assert!(
            number(&pair[0], "done") <= number(&pair[1], "done"),
            "{pair:?}"
        );
        assert_eq!(pair[0]["total"], pair[1]["total"]);
        assert!(number(&pair[1], "done") <= number(&pair[1], "total"));
        let apart = number(&pair[1], "at") - number(&pair[0], "at");
        assert!(apart >= 300, "told too often: {pair:?}");
    }
    let paced = told.iter().filter(|event| event["stage"] == "tokenizing");
    let paced = paced.filter(|event| event["per_second"].as_f64() > Some(0.0));
    assert!(
        paced
            .clone()
            .all(|event| event["eta_seconds"].as_f64().is_some())
    );
    assert!(paced.count() > 0, "{told:?}");
}

#[test]
fn token_sets_go_with_the_last_dataset_that_has_them() {
    let fixture = Fixture::new(1);
    let daemon = Daemon::start(&fixture);
    add(&daemon, "models", "m", &data("lm/llama"));
    let copy = fixture.path("copy.txt");
    std::fs::copy(fixture.path("text.txt"), &copy).unwrap();
    add(&daemon, "datasets", "a", &fixture.path("text.txt"));
    add(&daemon, "datasets", "b", &copy);
    let tokenize = |dataset: &str, size: &str| {
        let set = format!("context_size={size}");
        let args = [
            "datasets", "tokenize", dataset, "--model", "m", "--watch", "--set", &set,
        ];
        let sets = token_sets(&daemon.json(&args));
        std::path::PathBuf::from(sets.last().unwrap()["file"].as_str().unwrap())
    };
    let shared = tokenize("a", "16");
    assert_eq!(
        tokenize("b", "16"),
        shared,
        "the text decides, not its name"
    );
    let own = tokenize("a", "32");
    let bytes = own.metadata().unwrap().len();
    let deleted = daemon.json(&["datasets", "rm", "a"]);
    assert_eq!(
        (&deleted["files"], &deleted["bytes_freed"]),
        (&json!(1), &json!(bytes))
    );
    assert!(!own.exists() && shared.exists());
    daemon.json(&["datasets", "rm", "b"]);
    assert!(!shared.exists());
    assert!(fixture.path("text.txt").exists() && copy.exists());
}

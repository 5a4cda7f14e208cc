//! `ctl models`.

use crate::common::daemon::Daemon;
use crate::common::{Fixture, data, until};
use crate::{add, copy_model, events, refused, show};
use serde_json::{Value, json};
use std::path::PathBuf;

/// A folder with the config of the smallest GPT-2, and nothing else.
fn config_only(fixture: &Fixture) -> PathBuf {
    let folder = fixture.path("gpt2");
    std::fs::create_dir(&folder).unwrap();
    let config = json!({
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 12,
        "n_embd": 768, "n_head": 12, "vocab_size": 50257, "n_positions": 1024,
        "bos_token_id": 50256, "eos_token_id": 50256,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    folder
}

/// behaviour: model-08, engine-08
#[test]
fn a_model_is_described_from_its_config_alone() {
    let fixture = Fixture::new(1);
    let daemon = Daemon::start(&fixture);
    let folder = config_only(&fixture);
    let added = daemon.json(&["models", "add", "gpt2", folder.to_str().unwrap()]);
    assert_eq!(added["state"], "verifying");
    let known = &added["description"];
    for (key, value) in [
        ("family", json!("gpt2")),
        ("architecture", json!("GPT2LMHeadModel")),
        ("layers", json!(12)),
        ("hidden_size", json!(768)),
        ("heads", json!(12)),
        ("kv_heads", json!(12)),
        ("intermediate_size", json!(3072)),
        ("vocab_size", json!(50257)),
        ("context", json!(1024)),
        ("context_is_limit", json!(true)),
        ("parameters", json!(124_439_808)),
    ] {
        assert_eq!(known[key], value, "{key}");
    }
    let hooks = known["hook_points"].as_array().unwrap();
    assert_eq!(hooks.len(), 60);
    assert_eq!(hooks[0], "blocks.0.hook_resid_pre");
    assert_eq!(hooks[59], "blocks.11.hook_resid_post");
    let size = std::fs::metadata(folder.join("config.json")).unwrap().len();
    assert_eq!(known["disk_bytes"], size);
    let memory = |key: &str| known["memory"][key].as_u64().unwrap();
    // Weights as 32-bit numbers, the tied embedding twice.
    assert_eq!(memory("load"), 4 * (124_439_808 + 50257 * 768));
    assert!(memory("load") < memory("capture") && memory("capture") < memory("training"));
    // There is nothing to read, which the record says.
    let failed = until("it is found wanting", || {
        let shown = show(&daemon, "models", "gpt2");
        (shown["state"] == "error").then_some(shown)
    });
    assert_eq!(failed["error"]["code"], "tokenizer-invalid");
    assert_eq!(failed["description"], *known);
    let shown = daemon.ctl(&["models", "show", "gpt2"]);
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(
        shown.contains("12 layers, hidden size 768, 12 heads"),
        "{shown}"
    );
}

/// behaviour: engine-14, engine-18
#[test]
fn a_sound_model_becomes_ready_in_the_background() {
    let fixture = Fixture::new(1);
    let daemon = Daemon::start(&fixture);
    let ready = add(&daemon, "models", "llama", &data("lm/llama"));
    assert_eq!(
        (&ready["state"], &ready["error"]),
        (&json!("ready"), &Value::Null)
    );
    assert_eq!(ready["check"]["dtypes"], json!(["F32"]));
    assert!(ready["check"]["tensors"].as_u64().unwrap() > 10);
    // A request for more work is answered before that is done.
    let answer = daemon.http("POST", "/v1/models/llama/verify", "");
    assert_eq!(
        (answer.status, &answer.json()["state"]),
        (200, &json!("verifying"))
    );
    until("it is read again", || {
        (show(&daemon, "models", "llama")["state"] == "ready").then_some(())
    });
    let kinds: Vec<Value> = events(&daemon, "model_")
        .into_iter()
        .map(|event| event["kind"].clone())
        .filter(|kind| kind != "model_progress")
        .collect();
    let once = ["model_verifying", "model_ready"];
    let expected = [&["model_registered"], &once[..], &once[..]].concat();
    assert_eq!(kinds, expected);
    let listed = String::from_utf8_lossy(&daemon.ctl(&["models"]).stdout).into_owned();
    assert!(
        listed.contains("llama") && listed.contains("ready"),
        "{listed}"
    );
    // Every weight was read.
    let spoilt = fixture.path("spoilt");
    copy_model("llama", &spoilt);
    let file = spoilt.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    let path = spoilt.to_str().unwrap();
    let (status, said) = refused(&daemon, &["models", "add", "spoilt", path, "--watch"]);
    assert_eq!(status, 25, "{said}");
    assert_eq!(show(&daemon, "models", "spoilt")["state"], "error");
}

/// behaviour: model-09, engine-13
#[test]
fn a_config_that_cannot_be_read_changes_no_record() {
    let fixture = Fixture::new(1);
    let daemon = Daemon::start(&fixture);
    let (status, said) = refused(&daemon, &["models", "add", "none", "nowhere"]);
    assert!(
        status == 20 && said.contains("nowhere/config.json"),
        "{said}"
    );
    assert_eq!(daemon.json(&["models"]), json!([]));
    let folder = fixture.path("llama");
    copy_model("llama", &folder);
    let ready = add(&daemon, "models", "llama", &folder);
    let config = folder.join("config.json");
    std::fs::write(&config, "{\"model_type\": \"llama\"").unwrap();
    let (status, said) = refused(&daemon, &["models", "check", "llama"]);
    assert!(
        status == 21 && said.contains("model-config-invalid"),
        "{said}"
    );
    assert_eq!(show(&daemon, "models", "llama"), ready);
    std::fs::remove_file(&config).unwrap();
    let (status, said) = refused(&daemon, &["models", "check", "llama"]);
    assert!(status == 20 && said.contains("model-missing"), "{said}");
    assert_eq!(show(&daemon, "models", "llama"), ready);
    let (status, said) = refused(&daemon, &["models", "check", "other"]);
    assert!(status == 83 && said.contains("model other"), "{said}");
}

/// behaviour: model-10, model-11
#[test]
fn deleting_frees_what_is_the_daemons_own_and_nothing_else() {
    let fixture = Fixture::new(400);
    let daemon = Daemon::start(&fixture);
    let theirs = fixture.path("theirs");
    copy_model("llama", &theirs);
    add(&daemon, "models", "theirs", &theirs);
    let (status, said) = refused(&daemon, &["models", "rm", "theirs", "--files"]);
    assert!(status == 36 && said.contains("path-refused"), "{said}");
    assert_eq!(show(&daemon, "models", "theirs")["state"], "ready");
    let deleted = daemon.json(&["models", "rm", "theirs"]);
    assert_eq!(
        (&deleted["files"], &deleted["bytes_freed"]),
        (&json!(0), &json!(0))
    );
    assert!(theirs.join("model.safetensors").exists());

    let own = fixture.path("state/models/llama");
    copy_model("llama", &own);
    add(&daemon, "models", "own", &own);
    let bytes: u64 = std::fs::read_dir(&own)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    let path = format!("model.path={}", own.display());
    let run = daemon.submit("run", &["--set", &path]).to_string();
    let (status, said) = refused(&daemon, &["models", "rm", "own", "--files"]);
    assert!(
        status == 28 && said.contains(&format!("run {run} uses it")),
        "{said}"
    );
    daemon.json(&["abort", &run]);
    let id = run.parse().unwrap();
    daemon.reaches(id, "aborted");
    let deleted = daemon.json(&["models", "rm", "own", "--files"]);
    assert_eq!(deleted["bytes_freed"], bytes);
    assert!(!own.exists());
    assert_eq!(daemon.json(&["models"]), json!([]));
    let events = events(&daemon, "model_deleted");
    assert_eq!(events.len(), 2);
    assert_eq!(
        (&events[1]["name"], &events[1]["bytes_freed"]),
        (&json!("own"), &json!(bytes))
    );

    // What is gone already is no error.
    copy_model("llama", &own);
    add(&daemon, "models", "own", &own);
    std::fs::remove_dir_all(&own).unwrap();
    assert_eq!(daemon.json(&["models", "rm", "own", "--files"])["files"], 0);
}

#[test]
fn a_name_stands_for_one_path() {
    let fixture = Fixture::new(1);
    let daemon = Daemon::start(&fixture);
    let first = add(&daemon, "models", "m", &data("lm/llama"));
    let other = data("lm/gpt2");
    let (status, said) = refused(&daemon, &["models", "add", "m", other.to_str().unwrap()]);
    assert!(status == 29 && said.contains("asset-exists"), "{said}");
    let again = add(&daemon, "models", "m", &data("lm/llama"));
    assert_eq!(again["created_at"], first["created_at"]);
}

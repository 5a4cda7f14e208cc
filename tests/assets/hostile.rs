//! Files and names from elsewhere. The full sizes need BACKPROPD_FULL=1.

use crate::common::daemon::Daemon;
use crate::common::{Fixture, data};
use crate::worker::work;
use crate::{copy_model, refused};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

fn full() -> bool {
    std::env::var_os("BACKPROPD_FULL").is_some()
}

/// Numbers that look random, the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

const EVIL: [&str; 12] = [
    "-1",
    "0",
    "1e999",
    "18446744073709551616",
    "16777216",
    "null",
    "[]",
    "{}",
    "\"\"",
    "\"\\ud800\"",
    "[[[[[[[[[[",
    "\u{0}",
];

/// `good` with something wrong in it.
fn mutant(good: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = good.to_vec();
    // Headers and configs are small beside what follows them.
    let reach = bytes.len().min(6000);
    for _ in 0..=random.below(3) {
        let at = random.below(reach.min(bytes.len()));
        match random.below(6) {
            0 => bytes.truncate(at),
            1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            2 => {
                let evil = EVIL[random.below(EVIL.len())];
                bytes.splice(at..at, evil.bytes());
            }
            3 => {
                // A number that says something else.
                let digits = bytes[at..].iter().position(u8::is_ascii_digit);
                if let Some(from) = digits.map(|from| at + from) {
                    let len = bytes[from..]
                        .iter()
                        .take_while(|b| b.is_ascii_digit())
                        .count();
                    let evil = EVIL[random.below(EVIL.len())];
                    bytes.splice(from..from + len, evil.bytes());
                }
            }
            4 => {
                let len = random.below(64).min(bytes.len() - at);
                let piece = bytes[at..at + len].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => {
                let len = random.below(16).min(bytes.len() - at);
                bytes.drain(at..at + len);
            }
        }
    }
    bytes
}

/// Looks at the model in `folder`, which may be anything: it is refused with a code of its
/// own or found sound, soon, and with little memory.
fn examine(folder: &Path, what: &str) -> Option<String> {
    let ended = work(&json!({ "do": "verify", "model": folder }));
    let patience = if full() {
        Duration::from_secs(5)
    } else {
        Duration::from_secs(20)
    };
    assert!(ended.took < patience, "{what}: {:?}", ended.took);
    let peak = ended.peak_memory();
    assert!(peak < 64 << 20, "{what}: {peak} bytes");
    let code = ended.code().map(str::to_owned);
    match &code {
        None => assert!(ended.status.success(), "{what}"),
        Some(code) => {
            let known = [
                "model-config-invalid",
                "model-unsupported",
                "model-file-corrupt",
                "model-tensor-mismatch",
                "model-non-finite",
                "model-missing",
                "tokenizer-invalid",
                "out-of-memory",
            ];
            assert!(known.contains(&code.as_str()), "{what}: {}", ended.last);
            let line = ended.last["problem"]["detail"].as_str().unwrap();
            assert!(!line.contains('\n') && line.len() < 1000, "{what}: {line}");
        }
    }
    code
}

#[test]
fn mutants_of_model_files_are_refused_or_sound() {
    let count = if full() { 100_000 / 3 } else { 25 };
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(7);
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let good = std::fs::read(data("lm/llama").join(name)).unwrap();
        let folder = dir.path().join(name.replace('.', "-"));
        copy_model("llama", &folder);
        let mut refused = 0;
        for n in 0..count {
            std::fs::write(folder.join(name), mutant(&good, &mut random)).unwrap();
            refused += u32::from(examine(&folder, &format!("{name} {n}")).is_some());
        }
        assert!(refused as usize > count / 3, "{name}: {refused} of {count}");
    }
}

#[test]
fn bombs_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut number = 0;
    let mut bomb = |name: &str, content: &[u8], code: &str| {
        number += 1;
        let folder = dir.path().join(number.to_string());
        copy_model("llama", &folder);
        std::fs::write(folder.join(name), content).unwrap();
        assert_eq!(
            examine(&folder, &format!("bomb {number}")).as_deref(),
            Some(code)
        );
    };
    let config: Value =
        serde_json::from_slice(&std::fs::read(data("lm/llama/config.json")).unwrap()).unwrap();
    let with = |changes: &[(&str, Value)]| {
        let mut config = config.clone();
        for (key, value) in changes {
            config[*key] = value.clone();
        }
        config.to_string().into_bytes()
    };
    let huge = json!(1 << 24);
    bomb(
        "config.json",
        "[".repeat(1 << 20).as_bytes(),
        "model-config-invalid",
    );
    bomb("config.json", &vec![b' '; 5 << 20], "model-config-invalid");
    // More than any machine holds, in one dimension and in all of them.
    bomb(
        "config.json",
        &with(&[("vocab_size", huge.clone())]),
        "model-tensor-mismatch",
    );
    bomb(
        "config.json",
        &with(&[("intermediate_size", huge.clone())]),
        "model-tensor-mismatch",
    );
    let all = ["vocab_size", "hidden_size", "intermediate_size", "head_dim"];
    let all: Vec<_> = all.iter().map(|key| (*key, huge.clone())).collect();
    bomb("config.json", &with(&all), "model-config-invalid");
    bomb(
        "config.json",
        &with(&[("num_hidden_layers", json!(4096))]),
        "model-tensor-mismatch",
    );

    let mut header = u64::MAX.to_le_bytes().to_vec();
    bomb("model.safetensors", &header, "model-file-corrupt");
    // A header of 95 MiB that is all there.
    header[..8].copy_from_slice(&(95_u64 << 20).to_le_bytes());
    header.resize(8 + (95 << 20), b' ');
    bomb("model.safetensors", &header, "model-file-corrupt");
    let nested = "{\"a\":".repeat(1 << 18);
    header[..8].copy_from_slice(&(nested.len() as u64).to_le_bytes());
    header.truncate(8);
    header.extend(nested.bytes());
    bomb("model.safetensors", &header, "model-file-corrupt");
    bomb(
        "tokenizer.json",
        "[".repeat(1 << 20).as_bytes(),
        "tokenizer-invalid",
    );
    bomb("tokenizer.json", b"{}", "tokenizer-invalid");
}

#[test]
fn a_config_that_never_ends_costs_some_seconds() {
    let fixture = Fixture::new(1);
    let daemon = Daemon::start(&fixture);
    let folder = fixture.path("endless");
    std::fs::create_dir(&folder).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(folder.join("config.json"))
        .status();
    assert!(made.unwrap().success());
    let (status, said) = refused(&daemon, &["models", "add", "m", folder.to_str().unwrap()]);
    assert!(status == 89 && said.contains("worker-hung"), "{said}");
    assert_eq!(daemon.json(&["models"]), json!([]));
}

#[test]
fn names_lead_nowhere() {
    let fixture = Fixture::new(1);
    let daemon = Daemon::start(&fixture);
    let mut names: Vec<String> = [
        "..",
        ".",
        "../x",
        "../../etc/passwd",
        "/etc/passwd",
        "a/../b",
        "a/b",
        "a\\b",
        "a\0b",
        "a\nb",
        "a\rb",
        "\u{1b}[2J",
        "a b",
        "\u{202e}",
        "ﬁ",
        "%2e%2e",
        ".hidden",
        "-rf",
        "",
    ]
    .map(str::to_owned)
    .into();
    names.push("x".repeat(101));
    let mut random = Random(3);
    let parts = [
        "..", "/", "\0", "a", ".", "%2f", "\\", "~", "\n", "é", " ", "$(x)", "'",
    ];
    for _ in 0..if full() { 5000 } else { 100 } {
        let some = |random: &mut Random| parts[random.below(parts.len())];
        let mut name: String = (0..2 + random.below(4))
            .map(|_| some(&mut random))
            .collect();
        if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.') && !name.starts_with('.') {
            name += "/";
        }
        names.push(name);
    }
    let path = fixture.path("text.txt");
    for name in &names {
        let body = json!({ "name": name, "path": path }).to_string();
        let answer = daemon.http("POST", "/v1/datasets", &body);
        assert_eq!(answer.status, 422, "{name:?}: {answer:?}");
        assert_eq!(answer.json()["code"], "usage");
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for (method, path) in [
            ("GET", format!("/v1/models/{encoded}")),
            ("DELETE", format!("/v1/datasets/{encoded}?files=true")),
        ] {
            let answer = daemon.http(method, &path, "");
            assert!(
                [404, 405, 422].contains(&answer.status),
                "{name:?}: {answer:?}"
            );
        }
    }
    for path in ["relative", "../up", ""] {
        let body = json!({ "name": "a", "path": path }).to_string();
        for kind in ["models", "datasets"] {
            let answer = daemon.http("POST", &format!("/v1/{kind}"), &body);
            assert_eq!(answer.status, 422, "{kind} {path:?}: {answer:?}");
        }
    }
    assert_eq!(daemon.json(&["datasets"]), json!([]));
    assert_eq!(daemon.json(&["models"]), json!([]));
}

//! Rules about the source itself: which folder may use which, how long a file may be,
//! and where `unsafe` may stand.

use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file. A longer one is two ideas.
const MAX_LINES: usize = 500;

/// Each folder (or file) of `src/` and the ones that it may use. What is missing here is
/// an error, so that a new folder states its place.
const EDGES: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("protocol", &["domain"]),
    ("system", &["domain"]),
    ("tensorfile", &["domain", "system"]),
    ("device", &["domain", "system"]),
    ("sae", &["device", "domain"]),
    ("lm", &["device", "domain", "tensorfile"]),
    ("data", &["domain", "system"]),
    (
        "activations",
        &["data", "device", "domain", "lm", "system", "tensorfile"],
    ),
    ("checkpoint", &["domain", "sae", "system", "tensorfile"]),
    (
        "eval",
        &["data", "device", "domain", "lm", "protocol", "sae"],
    ),
    ("report", &["protocol"]),
    // run.toml embeds the settings of the parts that it configures.
    (
        "config",
        &["activations", "data", "domain", "protocol", "sae"],
    ),
    ("handlers", &["domain", "protocol"]),
    (
        "worker",
        &[
            "activations",
            "checkpoint",
            "config",
            "data",
            "device",
            "domain",
            "eval",
            "lm",
            "protocol",
            "report",
            "sae",
            "system",
            "tensorfile",
        ],
    ),
    ("store", &["domain", "protocol", "system"]),
    // Supervision knows nothing of what it supervises.
    ("supervise", &[]),
    ("gpu", &["domain"]),
    (
        "actors",
        &[
            "config",
            "domain",
            "gpu",
            "handlers",
            "protocol",
            "store",
            "supervise",
            "system",
        ],
    ),
    (
        "control",
        &[
            "actors",
            "config",
            "domain",
            "handlers",
            "protocol",
            "report",
            "store",
            "supervise",
            "system",
        ],
    ),
    (
        "service",
        &[
            "actors",
            "config",
            "control",
            "domain",
            "protocol",
            "supervise",
            "system",
        ],
    ),
    ("ctl", &["domain", "protocol", "report"]),
    (
        "cli",
        &[
            "actors",
            "config",
            "control",
            "ctl",
            "data",
            "device",
            "domain",
            "handlers",
            "lm",
            "protocol",
            "report",
            "sae",
            "service",
            "store",
            "supervise",
            "system",
            "tensorfile",
            "worker",
        ],
    ),
];

/// Places outside `src/device/` that may hold `unsafe`: leaf modules with their own tests.
const UNSAFE: &[&str] = &[
    "src/device/",
    "src/tensorfile",
    "src/system/map",
    "src/gpu/raw",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path
            .extension()
            .is_some_and(|e| e == "rs" || e == "cu" || e == "cuh")
        {
            found.push(path);
        }
    }
}

/// (path relative to the project, text) of every source file.
fn all(folders: &[&str]) -> Vec<(String, String)> {
    let mut paths = Vec::new();
    for folder in folders {
        let dir = root().join(folder);
        if dir.exists() {
            sources(&dir, &mut paths);
        }
    }
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// The code of a line: without comments and string literals.
fn code(line: &str) -> String {
    let line = line.split("//").next().unwrap_or("");
    line.split('"').step_by(2).collect()
}

fn part_of(name: &str) -> &str {
    let inner = name.strip_prefix("src/").unwrap();
    inner.split(['/', '.']).next().unwrap()
}

#[test]
fn no_file_is_longer_than_one_idea() {
    let long: Vec<String> = all(&["src", "tests", "kernels", "benches", "examples"])
        .iter()
        .filter(|(_, text)| text.lines().count() > MAX_LINES)
        .map(|(name, text)| format!("{name}: {} lines", text.lines().count()))
        .collect();
    assert!(long.is_empty(), "past {MAX_LINES} lines: {long:#?}");
}

#[test]
fn folders_use_only_what_the_design_allows() {
    let mut broken = Vec::new();
    for (name, text) in all(&["src"]) {
        let part = part_of(&name);
        if part == "lib" || part == "main" {
            continue;
        }
        let Some((_, allowed)) = EDGES.iter().find(|(p, _)| *p == part) else {
            broken.push(format!("{name}: `{part}` has no row in EDGES"));
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            // Unit tests may use anything; they stand at the end of a file.
            if line.starts_with("#[cfg(test)]") {
                break;
            }
            for used in code(line).split("crate::").skip(1) {
                let used: String = used
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect();
                if used != part && !used.is_empty() && !allowed.contains(&used.as_str()) {
                    broken.push(format!("{name}:{}: {part} uses {used}", number + 1));
                }
            }
        }
    }
    broken.retain(|b| !b.contains("/tests.rs:"));
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn unsafe_stands_only_in_leaf_modules() {
    let broken: Vec<String> = all(&["src"])
        .iter()
        .filter(|(name, _)| !UNSAFE.iter().any(|place| name.starts_with(place)))
        .flat_map(|(name, text)| {
            text.lines()
                .enumerate()
                .filter(|(_, line)| {
                    code(line)
                        .split(|c: char| !c.is_alphanumeric() && c != '_')
                        .any(|word| word == "unsafe")
                })
                .map(move |(number, _)| format!("{name}:{}", number + 1))
        })
        .collect();
    assert!(
        broken.is_empty(),
        "`unsafe` outside {UNSAFE:?}: {broken:#?}"
    );
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let mut broken = Vec::new();
    for (name, text) in all(&["src"]) {
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let here = code(line);
            if !here.contains("unsafe {") && !here.contains("unsafe impl") {
                continue;
            }
            let said = lines[i.saturating_sub(8)..=i]
                .iter()
                .any(|l| l.contains("SAFETY"));
            if !said {
                broken.push(format!("{name}:{}", i + 1));
            }
        }
    }
    assert!(broken.is_empty(), "no SAFETY comment: {broken:#?}");
}

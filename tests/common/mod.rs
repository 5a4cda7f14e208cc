//! A small real run for tests: a tiny random Llama, a generated text, the real binary.
#![allow(dead_code)] // every test binary uses a part of it

pub mod daemon;
pub mod recorder;

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

/// Keys whose values are wall-clock rates.
const RATES: [&str; 3] = ["tokens_per_second", "seconds", "peak_memory"];

/// A folder with a run.toml and what it needs.
pub struct Fixture {
    pub dir: tempfile::TempDir,
}

/// The project's folder: where cargo says that it is, or where it was compiled.
fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// A folder of the project's test data.
pub fn data(name: &str) -> PathBuf {
    root().join("tests/data").join(name)
}

/// Sentences without end, the same for everyone.
pub fn text(words: usize) -> String {
    const WORDS: [&str; 12] = [
        "the", "sea", "was", "calm", "and", "she", "walked", "home", "before", "night", "had",
        "fallen",
    ];
    let (mut state, mut out) = (1u32, String::new());
    for n in 0..words {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.push_str(WORDS[(state >> 16) as usize % WORDS.len()]);
        out.push_str(if n % 11 == 10 { ". " } else { " " });
    }
    out
}

/// A run of `steps` steps of 64 tokens on a model of width 32.
pub fn run_toml(model: &Path, steps: u64) -> String {
    format!(
        r#"name = "tiny"
seed = 7

[model]
path = "{model}"
hooks = ["blocks.1.hook_resid_post"]

[data]
path = "text.txt"
context_size = 16
holdout = 0.1

[activations]
window_batches = 4
lm_batch = 4

[sae]
variant = "topk"
d_sae = 96
k = 8
dead_after = 640

[optimizer]
lr = 0.003

[training]
steps = {steps}
batch_size = 64

[checkpoints]
every = 5

[eval]
every = 10
contexts = 8
"#,
        model = model.display()
    )
}

impl Fixture {
    /// The run of [`run_toml`] in a folder of its own.
    pub fn new(steps: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("text.txt"), text(3000)).unwrap();
        let toml = run_toml(&data("lm/llama"), steps);
        std::fs::write(dir.path().join("run.toml"), toml).unwrap();
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `backpropd train run.toml --out NAME --json ARGS…`, started in the folder.
    pub fn command(&self, out: &str, args: &[&str]) -> Command {
        let mut command = backpropd();
        command
            .current_dir(self.dir.path())
            .args([
                "train",
                "run.toml",
                "--json",
                "--threads",
                "2",
                "--out",
                out,
            ])
            .args(args)
            // Neither the user's cache nor one that another test waits for.
            .env("BACKPROPD_CACHE", self.path("token-cache"))
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, out: &str, args: &[&str]) -> Output {
        self.command(out, args).output().unwrap()
    }

    /// Runs it, which must succeed, and returns its events.
    pub fn events(&self, out: &str, args: &[&str]) -> Vec<Value> {
        let output = self.run(out, args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        lines(&output.stdout)
    }

    /// Starts it and reads its events until one of `step` ≥ `step` was printed.
    pub fn start_until(&self, out: &str, args: &[&str], step: u64) -> Running {
        self.start_with(self.command(out, args), step)
    }

    #[allow(clippy::zombie_processes)] // a run that ends early fails the test
    /// … of a command of its own.
    pub fn start_with(&self, mut command: Command, step: u64) -> Running {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut events = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        loop {
            line.clear();
            let read = events.read_line(&mut line).unwrap();
            assert!(read > 0, "the run ended before step {step}");
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["kind"] == "step" && event["step"].as_u64().unwrap() >= step {
                return Running { child, events };
            }
        }
    }

    /// Everything that two equal runs must agree on, bit for bit: the tensors and the
    /// state of the last checkpoint, and the metrics without their wall-clock rates.
    pub fn result(&self, out: &str) -> RunResult {
        let folder = self.path(out);
        let mut checkpoints: Vec<PathBuf> = std::fs::read_dir(folder.join("checkpoints"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| {
                p.file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .starts_with("step-")
            })
            .collect();
        checkpoints.sort();
        let last = checkpoints.last().expect("a checkpoint");
        let read = |name: &str| std::fs::read(last.join(name)).unwrap();
        let log = |name: &str| {
            lines(&std::fs::read(folder.join(name)).unwrap())
                .into_iter()
                .map(without_rates)
                .collect()
        };
        RunResult {
            tensors: blake3::hash(&read("tensors.safetensors")),
            metrics: log("metrics.jsonl"),
            validations: log("validation.jsonl"),
        }
    }
}

#[derive(Debug, PartialEq)]
pub struct RunResult {
    pub tensors: blake3::Hash,
    pub metrics: Vec<Value>,
    pub validations: Vec<Value>,
}

/// A run that goes on.
pub struct Running {
    pub child: Child,
    events: BufReader<ChildStdout>,
}

impl Running {
    /// Sends a signal and waits for the end; the exit status as a shell gives it.
    pub fn signal(mut self, signal: rustix::process::Signal) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
        let drain = std::thread::spawn(move || {
            let mut sink = std::io::sink();
            std::io::copy(&mut self.events, &mut sink).unwrap();
        });
        let status = self.child.wait().unwrap();
        drain.join().unwrap();
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap())
    }
}

/// The binary under test, which test programs that were carried to another machine are told of.
pub fn backpropd() -> Command {
    let carried = std::env::var_os("CARGO_BIN_EXE_backpropd");
    Command::new(carried.unwrap_or_else(|| env!("CARGO_BIN_EXE_backpropd").into()))
}

/// JSON lines.
pub fn lines(bytes: &[u8]) -> Vec<Value> {
    String::from_utf8_lossy(bytes)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

fn without_rates(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        for key in RATES {
            object.remove(key);
        }
    }
    value
}

/// The values of `key` of the events of `kind`.
pub fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|e| e["kind"] == kind).collect()
}

/// Polls until `found` finds something, for a minute at most.
pub fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let began = std::time::Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(began.elapsed().as_secs() < 60, "waited in vain: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

//! What training loses under the daemon, with handlers that listen and handlers that hang.

use super::served::{Served, program};
use crate::domain::{Code, Error, Result};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;

/// Handlers that take every event.
const LISTENING: usize = 15;
/// Handlers that never answer.
const STALLED: usize = 5;

/// What was measured; seconds are of the whole run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    tokens: u64,
    handlers: usize,
    stalled: usize,
    /// In the foreground and under the daemon, in turn.
    seconds: Vec<(f64, f64)>,
    /// Median of the pairs' ratios.
    ratio: f64,
}

impl Figures {
    pub fn lines(&self) -> String {
        let mut text = format!(
            "training under the daemon, {} handlers of which {} stalled: {:.4} times the \
             seconds in the foreground (aim 1.01)\n",
            self.handlers, self.stalled, self.ratio
        );
        for (foreground, served) in &self.seconds {
            let ratio = served / foreground;
            let _ = writeln!(text, "  {foreground:.2} s, {served:.2} s: {ratio:.4}");
        }
        text
    }
}

pub(super) fn measure(folder: &Path, run: &Path, tokens: u64, pairs: usize) -> Result<Figures> {
    let run = std::path::absolute(run).map_err(|e| Error::read(run, &e))?;
    let daemon = Served::start(folder, &settings(folder))?;
    let sets = format!("training.tokens={tokens}");
    // The text is tokenised and the files are in memory before anything is timed.
    foreground(folder, &run, &sets, "warm")?;
    let mut seconds = Vec::new();
    for pair in 0..pairs {
        // In turn first, so that neither always comes after the other.
        let times = if pair % 2 == 0 {
            let foreground = foreground(folder, &run, &sets, &format!("f{pair}"))?;
            (
                foreground,
                served(folder, &daemon, &run, &sets, &format!("d{pair}"))?,
            )
        } else {
            let served = served(folder, &daemon, &run, &sets, &format!("d{pair}"))?;
            (
                foreground(folder, &run, &sets, &format!("f{pair}"))?,
                served,
            )
        };
        seconds.push(times);
    }
    let mut ratios: Vec<f64> = seconds.iter().map(|(f, d)| d / f).collect();
    ratios.sort_by(f64::total_cmp);
    Ok(Figures {
        tokens,
        handlers: LISTENING + STALLED,
        stalled: STALLED,
        ratio: ratios[ratios.len() / 2],
        seconds,
    })
}

/// daemon.toml with the handlers.
fn settings(folder: &Path) -> String {
    let mut toml = String::new();
    for n in 0..LISTENING {
        let path = folder.join(format!("events-{n}.jsonl"));
        let _ = write!(
            toml,
            "[[handlers]]\nname = \"listens-{n}\"\nkind = \"jsonl\"\npath = {:?}\n\
             events = [\"*\"]\n\n",
            path
        );
    }
    for n in 0..STALLED {
        let _ = write!(
            toml,
            "[[handlers]]\nname = \"hangs-{n}\"\nkind = \"exec\"\n\
             command = [\"/bin/sleep\", \"1000\"]\ndeadline_seconds = 1000\n\
             events = [\"*\"]\n\n"
        );
    }
    toml
}

fn foreground(folder: &Path, run: &Path, sets: &str, out: &str) -> Result<f64> {
    let out = folder.join(out);
    let done = program()
        .arg("train")
        .arg(run)
        .args(["--quiet", "--set", sets, "--out"])
        .arg(&out)
        .status()
        .map_err(|e| Error::new(Code::Internal, "train", e))?;
    if !done.success() {
        return Err(Error::new(
            Code::Internal,
            "the run in the foreground",
            done,
        ));
    }
    seconds(&out)
}

fn served(folder: &Path, daemon: &Served, run: &Path, sets: &str, out: &str) -> Result<f64> {
    let out = folder.join(out);
    let output = format!("output={}", out.display());
    let done = program()
        .args(["ctl", "--socket"])
        .arg(&daemon.socket)
        .arg("submit")
        .arg(run)
        .args(["--watch", "--json", "--set", sets, "--set", &output])
        .status()
        .map_err(|e| Error::new(Code::Internal, "ctl submit", e))?;
    if !done.success() {
        return Err(Error::new(Code::Internal, "the run under the daemon", done));
    }
    seconds(&out)
}

fn seconds(run: &Path) -> Result<f64> {
    let path = run.join("summary.json");
    let text = std::fs::read(&path).map_err(|e| Error::read(&path, &e))?;
    let summary: Value = serde_json::from_slice(&text).unwrap_or_default();
    let found = summary.get("seconds").and_then(Value::as_f64);
    found.ok_or_else(|| Error::new(Code::Internal, path.display(), "has no `seconds`"))
}

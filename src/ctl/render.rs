//! Answers of the daemon as text.

use crate::domain::gpu::{GpuHold, Stance};
use crate::protocol::api::{RunView, Status};
use crate::report::{duration, thousands};
use comfy_table::{CellAlignment, Table, presets};
use std::fmt::Write;

/// `ctl status`.
pub fn status(status: &Status) -> String {
    let mut text = format!(
        "backpropd {} (pid {}), up {}",
        status.version,
        status.pid,
        duration(status.uptime)
    );
    if let Some(bytes) = status.memory {
        let _ = write!(text, ", {} MiB", bytes.div_ceil(1 << 20));
    }
    let training = status.active.iter().filter(|run| run.pid.is_some()).count();
    let _ = writeln!(
        text,
        "; {training} of {} workers busy, {} queued",
        status.limit, status.queued
    );
    let _ = writeln!(
        text,
        "{}",
        cut(&format!("gpus: {}", status.gpus.line), WIDTH)
    );
    for sweep in &status.sweeps {
        let (id, name, state) = (sweep.id, &sweep.name, sweep.state);
        let (begun, planned) = (sweep.runs_begun, sweep.runs_planned);
        let _ = writeln!(
            text,
            "sweep {id} ({name}) is {state}; {begun} of {planned} runs have begun"
        );
    }
    for down in &status.down {
        let _ = writeln!(text, "! {} is {}: {}", down.actor, down.state, down.cause);
    }
    if !status.active.is_empty() {
        text += "\n";
        text += &runs(&status.active);
    }
    if !status.recent.is_empty() {
        text += "\nended lately\n";
        text += &runs(&status.recent);
    }
    if status.active.is_empty() && status.recent.is_empty() && status.queued == 0 {
        text += "no runs yet; queue one with: backpropd ctl submit RUN.toml\n";
    }
    text
}

/// Characters of a terminal that nobody made wider.
const WIDTH: usize = 80;
/// Characters of a run's name in a list; `ctl show` and --json have all of it.
const NAME: usize = 14;

/// `text`, or as much of it as fits.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width - 1).collect();
    kept + "…"
}

/// A table without lines.
pub fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns);
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
    table
}

/// `ctl runs`.
pub fn runs(runs: &[RunView]) -> String {
    if runs.is_empty() {
        return "no runs\n".into();
    }
    let mut table = table(&[
        "ID", "NAME", "STATE", "PROGRESS", "LOSS", "L0", "TOK/S", "ETA",
    ]);
    for run in runs {
        table.add_row([
            run.id.to_string(),
            cut(&run.name, NAME),
            state(run),
            share(run),
            run.loss.map_or_else(dash, |loss| format!("{loss:.4}")),
            run.l0.map_or_else(dash, |l0| format!("{l0:.1}")),
            run.tokens_per_second
                .map_or_else(dash, |rate| thousands(rate.round() as u64)),
            run.eta_seconds.map_or_else(dash, duration),
        ]);
    }
    for column in [0, 4, 5, 6, 7] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}

/// `ctl show`.
pub fn run(run: &RunView) -> String {
    let mut text = format!("run {} ({}) is {}\n", run.id, run.name, state(run));
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:10} {value}");
    };
    if let Some((sweep, index)) = run.sweep.zip(run.run_idx) {
        line("sweep", format!("run {index} of sweep {sweep}"));
    }
    line("progress", progress(run));
    if let (Some(loss), Some(l0)) = (run.loss, run.l0) {
        line("last step", format!("loss {loss:.4}, L0 {l0:.1}"));
    }
    if let Some(rate) = run.tokens_per_second {
        line(
            "pace",
            format!("{} tokens/s", thousands(rate.round() as u64)),
        );
    }
    if let Some(seconds) = run.eta_seconds {
        line("ETA", duration(seconds));
    }
    if let Some(folder) = &run.folder {
        line("folder", folder.display().to_string());
    }
    if let Some(pid) = run.pid {
        line("worker", format!("pid {pid}"));
    }
    if let Some(gpu) = &run.gpu {
        line("GPU", format!("{} ({})", gpu.gpu.index, gpu.device));
    }
    if let Some(hold) = &run.hold {
        line("held", held(hold));
    }
    if run.workers > 1 {
        line("workers", format!("{} so far", run.workers));
    }
    if let Some(problem) = &run.error {
        line("error", problem.line());
    }
    text
}

/// What the GPU monitor has to do with a run that does not go on.
fn held(hold: &GpuHold) -> String {
    let GpuHold {
        gpu,
        stance,
        reason,
    } = hold;
    match stance {
        Stance::Paused => format!("until GPU {} has recovered: {reason}", gpu.index),
        Stance::Ending => format!("saves and ends because of GPU {}: {reason}", gpu.index),
        Stance::Overruled => format!("no more: resumed in spite of GPU {}", gpu.index),
    }
}

fn state(run: &RunView) -> String {
    run.state.as_str().replace('_', " ")
}

/// The progress in few characters.
fn share(run: &RunView) -> String {
    match run.steps {
        Some(steps) if steps > 0 => {
            // All of it is 100 %, and nothing less.
            let percent = run.step * 100 / steps;
            format!("{percent} % of {}", thousands(steps))
        }
        _ => dash(),
    }
}

fn progress(run: &RunView) -> String {
    match run.steps {
        Some(steps) if steps > 0 => {
            let percent = 100.0 * run.step as f64 / steps as f64;
            format!(
                "{}/{} ({percent:.0} %)",
                thousands(run.step),
                thousands(steps)
            )
        }
        _ => dash(),
    }
}

fn dash() -> String {
    "–".into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(name: &str) -> RunView {
        let run = json!({
            "id": 1234, "name": name, "state": "running", "priority": 0, "folder": null,
            "step": 99_999, "steps": 100_000, "loss": 1234.5678, "l0": 64.0,
            "tokens_per_second": 123_456.0, "eta_seconds": 86_399.0, "workers": 1,
            "pid": 12, "error": null, "queued_at": 1, "started_at": 2, "ended_at": null,
        });
        serde_json::from_value(run).unwrap()
    }

    #[test]
    fn a_list_of_runs_fits_a_terminal_of_eighty_columns() {
        let text = runs(&[run("a"), run(&"a name that is far too long".repeat(3))]);
        assert!(
            text.contains("99 % of 100,000") && text.contains('…'),
            "{text}"
        );
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }

    #[test]
    fn what_is_too_long_says_so() {
        assert_eq!(cut("abcd", 4), "abcd");
        assert_eq!(cut("äbcde", 4), "äbc…");
    }
}

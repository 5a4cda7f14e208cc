//! Sweeps as text.

use crate::domain::Printable;
use crate::protocol::sweep::{RunResult, SweepRunView, SweepView};
use crate::report::{duration, keys_of, thousands};
use comfy_table::{CellAlignment, Table, presets};
use std::fmt::Write;

/// `ctl sweep list`.
pub fn list(sweeps: &[SweepView]) -> String {
    if sweeps.is_empty() {
        return "no sweeps yet; begin one with: backpropd ctl sweep submit SWEEP.toml\n".into();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["ID", "NAME", "STATE", "BEGUN", "RUNS"]);
    for sweep in sweeps {
        table.add_row([
            sweep.id.to_string(),
            sweep.name.clone(),
            sweep.state.to_string(),
            sweep.runs_begun.to_string(),
            sweep.runs_planned.to_string(),
        ]);
    }
    format!("{}\n", table.trim_fmt())
}

/// `ctl sweep show`.
pub fn sweep(sweep: &SweepView) -> String {
    let mut text = format!("sweep {} ({}) is {}", sweep.id, sweep.name, sweep.state);
    if let Some(reason) = &sweep.reason {
        let _ = write!(text, ": {}", Printable(reason));
    }
    let complete = sweep.runs.iter().filter(|run| run.complete).count();
    let _ = writeln!(
        text,
        "\n{complete} of {} runs complete; best: {}\nfolder {}\n",
        sweep.runs_planned,
        best(sweep),
        sweep.folder.display()
    );
    if sweep.runs.is_empty() {
        return text;
    }
    let keys = keys_of(sweep);
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let before = ["RUN", "ID"].map(str::to_owned);
    let after = ["STATE", "STEP", "LOSS", "CE RECOVERED", "EV", "L0"].map(str::to_owned);
    let header = before.into_iter().chain(keys.iter().cloned()).chain(after);
    table.set_header(header);
    for one in &sweep.runs {
        table.add_row(row(sweep, one, &keys));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        if index != keys.len() + 2 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let _ = writeln!(text, "{}", table.trim_fmt());
    text
}

fn row(sweep: &SweepView, one: &SweepRunView, keys: &[String]) -> Vec<String> {
    let is_best = sweep
        .best
        .as_ref()
        .is_some_and(|b| b.run_idx == one.run_idx);
    let measure = |name: &str, digits: usize| {
        let value = one.measures.get(name);
        value.map_or_else(dash, |value| format!("{value:.digits$}"))
    };
    let mut row = vec![
        format!("{}{}", if is_best { "*" } else { "" }, one.run_idx),
        one.run.id.to_string(),
    ];
    let own = |key: &String| one.overrides.get(key).cloned().unwrap_or_else(dash);
    row.extend(keys.iter().map(own));
    row.extend([
        one.run.state.as_str().replace('_', " "),
        match one.run.steps {
            Some(steps) => format!("{}/{}", thousands(one.run.step), thousands(steps)),
            None => dash(),
        },
        one.run.loss.map_or_else(dash, |loss| format!("{loss:.4}")),
        measure("ce_recovered", 4),
        measure("explained_variance", 4),
        measure("l0", 1),
    ]);
    row
}

fn best(sweep: &SweepView) -> String {
    match &sweep.best {
        Some(best) => format!("run {} ({} {:.4})", best.run_idx, best.metric, best.value),
        None => dash(),
    }
}

/// The line of a run that is over.
pub fn complete(run: &RunResult, runs: u64) -> String {
    let mut line = format!(
        "run {} of {runs} ({}) is {}",
        run.run_idx,
        run.name,
        run.state.as_str().replace('_', " ")
    );
    match run.steps {
        Some(steps) if run.step == steps => {
            let _ = write!(line, " after {} steps", thousands(steps));
        }
        Some(steps) => {
            let _ = write!(line, " after {} of {} steps", run.step, thousands(steps));
        }
        None => {}
    }
    if let Some(seconds) = run.seconds {
        let _ = write!(line, " in {}", duration(seconds));
    }
    for (name, text) in [
        ("ce_recovered", "CE recovered"),
        ("explained_variance", "explained variance"),
        ("l0", "L0"),
        ("loss", "loss"),
    ] {
        if let Some(value) = run.measures.get(name) {
            let _ = write!(line, ", {text} {value:.4}");
        }
    }
    if let Some(code) = &run.error {
        let _ = write!(line, ": {code}");
    }
    line
}

fn dash() -> String {
    "–".into()
}

//! `ctl gpus`.

use super::Session;
use crate::domain::Result;
use crate::domain::gpu::GpuStatus;
use crate::protocol::gpus::{GpuView, GpusView};
use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, Table, presets};
use std::fmt::Write;

/// The GPUs
#[derive(Args)]
pub struct GpusArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// The last statuses of one GPU, oldest first
    History {
        /// The driver's index of the GPU
        index: u32,
    },
    /// Neither tell nor act; no thermal protection is active then
    Pause,
    /// Tell and act again
    Resume,
}

/// Runs the command.
pub fn gpus(session: &Session, args: GpusArgs) -> Result<()> {
    let view: GpusView = match args.verb {
        None => session.client.get("/v1/gpus")?,
        Some(Verb::Pause) => session.client.post("/v1/gpus/pause", &())?,
        Some(Verb::Resume) => session.client.post("/v1/gpus/resume", &())?,
        Some(Verb::History { index }) => {
            let history: Vec<GpuStatus> =
                session.client.get(&format!("/v1/gpus/{index}/history"))?;
            session.print(&history, |history| table(history.iter().map(row)));
            return Ok(());
        }
    };
    session.print(&view, table_of);
    Ok(())
}

fn table_of(view: &GpusView) -> String {
    let summary = view.summary();
    if view.gpus.is_empty() || !summary.protected {
        let text = format!("gpus: {}\n", summary.line);
        if view.gpus.is_empty() {
            return text;
        }
        return text + &details(view);
    }
    details(view)
}

fn details(view: &GpusView) -> String {
    let mut text = table(view.gpus.iter().map(|gpu| row(&gpu.status)));
    for gpu in &view.gpus {
        notes(&mut text, gpu);
    }
    text
}

/// What a row has no room for.
fn notes(text: &mut String, gpu: &GpuView) {
    let index = gpu.status.reading.index;
    if !gpu.runs.is_empty() {
        let runs: Vec<String> = gpu.runs.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "GPU {index}: run {}", runs.join(", "));
    }
    if let Some(why) = &gpu.drained {
        let _ = writeln!(text, "GPU {index}: given to no further run: {why}");
    }
    if let Some(max_temperature) = gpu.max_temperature {
        let _ = writeln!(
            text,
            "GPU {index}: a run on it pauses from {max_temperature} °C on"
        );
    }
    for reason in &gpu.status.reasons {
        let _ = writeln!(text, "GPU {index}: {reason}");
    }
}

fn table(rows: impl Iterator<Item = [String; 7]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "GPU",
        "NAME",
        "CONDITION",
        "TEMP",
        "MEMORY",
        "POWER",
        "BUSY",
    ]);
    table.add_rows(rows);
    for column in [0, 3, 4, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}

fn row(status: &GpuStatus) -> [String; 7] {
    let reading = &status.reading;
    let percent = |value: Option<f64>| value.map(|v| format!("{v:.0} %"));
    let dash = |text: Option<String>| text.unwrap_or_else(|| "–".into());
    let mut condition = status.condition.to_string();
    match (status.available, status.stale) {
        (_, true) => condition += " (stale)",
        (false, false) => condition += " (gone)",
        (true, false) => {}
    }
    [
        reading.index.to_string(),
        dash(reading.name.clone()),
        condition,
        dash(reading.temperature_c.map(|t| format!("{t:.0} °C"))),
        dash(percent(status.memory_percent)),
        dash(percent(status.power_percent)),
        dash(percent(reading.utilisation_percent)),
    ]
}

//! The table at the end of a run.

use crate::protocol::{Ending, Validation};
use crate::report::{duration, thousands};
use comfy_table::{CellAlignment, Table, presets};
use std::fmt::Write as _;
use std::io::Write as _;

/// Prints what was trained, how good it is, and where it lies.
pub fn print(ending: &Ending, early: Option<&String>) {
    let mut text = format!(
        "\n{} steps, {} tokens in {}",
        thousands(ending.step),
        thousands(ending.tokens),
        duration(ending.seconds)
    );
    if ending.skipped > 0 {
        let _ = write!(
            text,
            "; {} steps skipped for non-finite numbers",
            ending.skipped
        );
    }
    if let Some(bytes) = ending.peak_memory {
        let _ = write!(text, "; peak memory {} MiB", bytes >> 20);
    }
    if let Some(bytes) = ending.peak_gpu_memory {
        let _ = write!(text, "; of the GPU {} MiB", bytes >> 20);
    }
    text.push('\n');
    if let Some(why) = early {
        let _ = writeln!(
            text,
            "ended early: {why}; to go on: --resume --set early_stopping.patience=N"
        );
    }
    if let Some(validation) = &ending.validation {
        let _ = writeln!(
            text,
            "On {} tokens of held-out text:\n{}",
            thousands(validation.tokens),
            table(validation)
        );
    }
    let folder = ending.folder.display();
    let _ = writeln!(text, "report       {folder}/report.html");
    let _ = writeln!(text, "autoencoder  {folder}/export/");
    let _ = writeln!(text, "metrics      {folder}/metrics.jsonl");
    drop(std::io::stdout().write_all(text.as_bytes()));
}

/// Prints how to go on.
pub fn print_stopped(ending: &Ending) {
    let mut text = format!("\nstopped after step {} of {}", ending.step, ending.steps);
    match &ending.checkpoint {
        Some(path) => {
            let _ = write!(text, "; saved {}\ngo on with --resume\n", path.display());
        }
        None => text.push_str("; nothing was saved\n"),
    }
    drop(std::io::stdout().write_all(text.as_bytes()));
}

fn table(validation: &Validation) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header([
        "hook point",
        "CE recovered",
        "CE clean",
        "CE with SAE",
        "CE zeroed",
        "explained variance",
        "cosine",
        "L0",
        "never fired",
    ]);
    for s in &validation.sites {
        table.add_row([
            s.hook.clone(),
            s.ce_recovered
                .map_or("–".into(), |v| format!("{:.1} %", v * 100.0)),
            format!("{:.4}", s.ce_clean),
            format!("{:.4}", s.ce_sae),
            format!("{:.4}", s.ce_zero),
            format!("{:.4}", s.explained_variance),
            format!("{:.4}", s.cosine),
            format!("{:.1}", s.l0),
            format!("{} of {}", s.dead, s.d_sae),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

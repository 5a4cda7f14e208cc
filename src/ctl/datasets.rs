//! `ctl datasets`.

use super::Session;
use super::assets::{Assets, One, Removal, absolute, head, line, table};
use crate::domain::Result;
use crate::domain::asset::{AssetKind, AssetName, DataReport, DatasetFacts, TokenSetFacts};
use crate::protocol::asset::{AssetView, NewDataset, Tokenize};
use crate::report::thousands;
use clap::{Args, Subcommand};
use indicatif::HumanBytes;
use std::path::PathBuf;

/// Faults that are shown; `--json` has more.
const SHOWN: usize = 10;

/// Datasets that runs may refer to as `dataset:NAME`
#[derive(Args)]
pub struct DatasetsArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// All datasets (the default)
    List,
    /// Know a text file or folder under a name, and read all of it
    Add {
        /// What it is to be called
        name: AssetName,
        /// A .txt, .jsonl, .csv or .parquet file, or a folder of them
        path: PathBuf,
        /// The column that holds the text
        #[arg(long, default_value = "text")]
        text_column: String,
        /// Follow the reading
        #[arg(long)]
        watch: bool,
    },
    /// One dataset: its report and token sets
    Show(One),
    /// Read every row again
    Check {
        /// Its name
        name: AssetName,
        /// Follow it
        #[arg(long)]
        watch: bool,
    },
    /// Tokenise a dataset for a model, so that runs need not
    Tokenize {
        /// Its name
        name: AssetName,
        /// The model whose tokenizer is used
        #[arg(long)]
        model: AssetName,
        /// A setting of [data], e.g. --set context_size=256; may be repeated
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Follow it
        #[arg(long)]
        watch: bool,
    },
    /// End the work on a dataset
    Cancel(One),
    /// Forget a dataset
    Rm(Removal),
}

type View = AssetView<DatasetFacts>;

/// Runs the command.
pub fn datasets(session: &Session, args: DatasetsArgs) -> Result<()> {
    let datasets = Assets {
        session,
        kind: AssetKind::Dataset,
    };
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => {
            let all: Vec<View> = session.client.get(&datasets.path(""))?;
            session.print(&all, |all| list(all));
        }
        Verb::Add {
            name,
            path,
            text_column,
            watch,
        } => {
            let new = NewDataset {
                name,
                path: absolute(&path)?,
                text_column,
            };
            datasets.work::<DatasetFacts>("", &new, watch)?;
        }
        Verb::Show(one) => {
            let view: View = datasets.get(&one.name)?;
            session.print(&view, show);
        }
        Verb::Check { name, watch } => {
            datasets.work::<DatasetFacts>(&format!("/{name}/validate"), &(), watch)?;
        }
        Verb::Tokenize {
            name,
            model,
            set,
            watch,
        } => {
            let request = Tokenize { model, set };
            datasets.work::<DatasetFacts>(&format!("/{name}/tokenize"), &request, watch)?;
        }
        Verb::Cancel(one) => {
            datasets.work::<DatasetFacts>(&format!("/{}/cancel", one.name), &(), false)?;
        }
        Verb::Rm(removal) => datasets.remove(&removal)?,
    }
    Ok(())
}

fn list(all: &[View]) -> String {
    if all.is_empty() {
        return "no datasets; add one with: backpropd ctl datasets add NAME PATH\n".into();
    }
    let known = |view: &View, value: fn(&DataReport) -> String| {
        let known = view.record.facts.report.as_ref();
        known.map_or("–".into(), value)
    };
    let row = |view: &View| {
        vec![
            view.name.clone(),
            view.state.to_string(),
            known(view, |report| thousands(report.rows)),
            known(view, |report| HumanBytes(report.bytes).to_string()),
            view.record.facts.token_sets.len().to_string(),
            view.path.display().to_string(),
        ]
    };
    let header = ["NAME", "STATE", "ROWS", "SIZE", "TOKEN SETS", "PATH"];
    table(&header, &[2, 3, 4], all.iter().map(row).collect())
}

fn show(view: &View) -> String {
    let mut text = head(AssetKind::Dataset, view);
    let facts = &view.record.facts;
    text += &line("text", format!("column {}", facts.text_column));
    if let Some(report) = &facts.report {
        text += &describe(report);
    }
    for set in &facts.token_sets {
        text += &line("tokens", tokens(set));
    }
    text
}

fn describe(report: &DataReport) -> String {
    let mut text = line(
        "files",
        format!(
            "{} ({}), {}, {}",
            thousands(report.files),
            report.formats.join(", "),
            HumanBytes(report.bytes),
            report.encoding
        ),
    );
    if !report.columns.is_empty() {
        text += &line("columns", report.columns.join(", "));
    }
    let least = if report.duplicates_exact {
        ""
    } else {
        "at least "
    };
    text += &line(
        "rows",
        format!(
            "{}; {} empty, {least}{} duplicates, {} unusable",
            thousands(report.rows),
            thousands(report.empty_rows),
            thousands(report.duplicate_rows),
            thousands(report.faulty)
        ),
    );
    if let Some(lengths) = &report.lengths {
        text += &line(
            "characters",
            format!(
                "{} to {}, median {}, mean {:.0}, 95 % up to {}",
                thousands(lengths.min),
                thousands(lengths.max),
                thousands(lengths.median),
                lengths.mean,
                thousands(lengths.p95)
            ),
        );
    }
    for fault in report.faults.iter().take(SHOWN) {
        let row = fault
            .row
            .map_or(String::new(), |row| format!(": row {row}"));
        text += &line(
            "!",
            format!("{}{row}: {}", fault.file.display(), fault.reason),
        );
    }
    if report.faulty > SHOWN as u64 {
        text += &line(
            "!",
            format!("and {} more", thousands(report.faulty - SHOWN as u64)),
        );
    }
    text
}

fn tokens(set: &TokenSetFacts) -> String {
    format!(
        "{} for model {}: {} contexts of {}, {} tokens, mean document {:.1}",
        &set.key[..set.key.len().min(8)],
        set.model,
        thousands(set.contexts),
        set.settings["context_size"],
        thousands(set.tokens),
        set.mean_document
    )
}

//! What `ctl models` and `ctl datasets` share.

use super::Session;
use crate::domain::asset::{AssetKind, AssetName};
use crate::domain::{Code, Error, Result};
use crate::protocol::asset::{AssetView, Deleted, WorkProgress};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks at work that is followed.
const LOOK: Duration = Duration::from_millis(200);

/// Which model or dataset
#[derive(Args)]
pub struct One {
    /// Its name
    pub name: AssetName,
}

/// Which one to delete, and how
#[derive(Args)]
pub struct Removal {
    /// Its name
    name: AssetName,
    /// Remove its files too, where they lie in the daemon's own folder
    #[arg(long)]
    files: bool,
}

/// A kind of things that a daemon knows by name.
pub struct Assets<'a> {
    pub session: &'a Session,
    pub kind: AssetKind,
}

impl Assets<'_> {
    /// The address of all, or of something below.
    pub fn path(&self, below: &str) -> String {
        format!("/v1/{}s{below}", self.kind)
    }

    /// One by its name.
    pub fn get<F: DeserializeOwned>(&self, name: &AssetName) -> Result<AssetView<F>> {
        self.session.client.get(&self.path(&format!("/{name}")))
    }

    /// Asks for work, and with `watch` follows it to its end.
    pub fn work<F>(&self, path: &str, body: &impl Serialize, watch: bool) -> Result<()>
    where
        F: Serialize + DeserializeOwned,
    {
        let mut view: AssetView<F> = self.session.client.post(&self.path(path), body)?;
        if watch {
            view = self.follow(view)?;
        }
        self.session.print(&view, |view| {
            let (kind, name, state) = (self.kind, &view.name, view.state);
            match state.is_at_work() {
                true => format!("{kind} {name} is {state}; `ctl {kind}s show {name}` says more\n"),
                false => format!("{kind} {name} is {state}\n"),
            }
        });
        match view.record.error {
            Some(problem) if watch => Err(problem.into()),
            _ => Ok(()),
        }
    }

    /// Shows how far work is until it ends, through restarts of the daemon.
    fn follow<F: DeserializeOwned>(&self, mut view: AssetView<F>) -> Result<AssetView<F>> {
        let bar = match self.session.json {
            true => ProgressBar::hidden(),
            false => ProgressBar::no_length(),
        };
        let name: AssetName = view.name.parse()?;
        while view.state.is_at_work() {
            if let Some(progress) = &view.record.progress {
                show(&bar, progress);
            }
            std::thread::sleep(LOOK);
            match self.get(&name) {
                Ok(now) => view = now,
                Err(error) if error.code == Code::DaemonUnavailable => {
                    bar.set_message("the daemon went away; waiting for it");
                }
                Err(error) => return Err(error),
            }
        }
        bar.finish_and_clear();
        Ok(view)
    }

    /// Deletes one.
    pub fn remove(&self, removal: &Removal) -> Result<()> {
        let below = format!("/{}?files={}", removal.name, removal.files);
        let deleted: Deleted = self.session.client.delete(&self.path(&below))?;
        self.session.print(&deleted, |deleted| {
            let gone = match removal.files {
                true => format!(
                    "; {} files and folders, {} are gone",
                    deleted.files,
                    HumanBytes(deleted.bytes_freed)
                ),
                false if deleted.files > 0 => format!(
                    "; its files are untouched, {} token sets with {} are gone",
                    deleted.files,
                    HumanBytes(deleted.bytes_freed)
                ),
                false => "; its files are untouched".into(),
            };
            format!("{} {} is forgotten{gone}\n", self.kind, deleted.name)
        });
        Ok(())
    }
}

fn show(bar: &ProgressBar, progress: &WorkProgress) {
    let template = match progress.total {
        Some(_) => "{msg} {bar:30} {bytes}/{total_bytes}",
        None => "{msg} {spinner} {bytes}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    if let Some(total) = progress.total {
        bar.set_length(total);
    }
    bar.set_position(progress.done);
    let mut message = progress.stage.as_str().to_owned();
    if let Some(pace) = progress.per_second {
        message += &format!(" {}/s", HumanBytes(pace as u64));
    }
    if let Some(left) = progress.eta_seconds {
        message += &format!(", {} left", crate::report::duration(left));
    }
    bar.set_message(message);
}

/// `path` as the daemon, which works in another folder, finds it.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::read(path, &e))
}

/// A table without lines; `right` are the columns of numbers.
pub fn table(header: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}

/// A line of a description.
pub fn line(name: &str, value: impl std::fmt::Display) -> String {
    format!("{name:11} {value}\n")
}

/// The head of a description.
pub fn head<F>(kind: AssetKind, view: &AssetView<F>) -> String {
    let mut text = format!("{kind} {} is {}\n", view.name, view.state);
    text += &line("path", view.path.display());
    if let Some(problem) = &view.record.error {
        text += &line("error", problem.line());
    }
    if let Some(progress) = &view.record.progress {
        let total = progress
            .total
            .map_or("?".into(), |n| HumanBytes(n).to_string());
        let done = HumanBytes(progress.done);
        text += &line(
            "progress",
            format!("{} {done} of {total}", progress.stage.as_str()),
        );
    }
    text
}

//! `ctl handlers`.

use super::Session;
use crate::domain::{Code, Error, Result};
use crate::protocol::handlers::{HandlerRemoved, HandlerSpec, HandlerView};
use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, Table, presets};
use std::io::Read;
use std::path::PathBuf;

/// Event handlers: what is done with events; without a command, all of them
#[derive(Args)]
pub struct HandlersArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Add the handlers of a TOML file, which later daemons have as well
    Add(File),
    /// As add, in the place of handlers of the same name
    Replace(File),
    /// Remove a handler that was added
    Remove(One),
    /// Start a quarantined handler again
    Release(One),
}

/// A file
#[derive(Args)]
struct File {
    /// [[handlers]] as in daemon.toml, or the keys of one; - for standard input
    file: PathBuf,
}

/// A handler
#[derive(Args)]
struct One {
    /// Its name
    name: String,
}

/// Runs the command.
///
/// # Errors
/// `config-missing`, `config-invalid`, or what the daemon answers.
pub fn handlers(session: &Session, args: HandlersArgs) -> Result<()> {
    let client = &session.client;
    match args.verb {
        None => {
            let views: Vec<HandlerView> = client.get("/v1/handlers")?;
            session.print(&views, |views| table(views));
        }
        Some(Verb::Add(File { file })) => {
            for spec in read(&file)? {
                let view: HandlerView = client.post("/v1/handlers", &spec)?;
                session.print(&view, |view| {
                    format!("handler {} was added\n", view.spec.name)
                });
            }
        }
        Some(Verb::Replace(File { file })) => {
            for spec in read(&file)? {
                let path = format!("/v1/handlers/{}", spec.name);
                let view: HandlerView = client.put(&path, &spec)?;
                session.print(&view, |view| {
                    format!("handler {} was replaced\n", view.spec.name)
                });
            }
        }
        Some(Verb::Remove(One { name })) => {
            let said: HandlerRemoved = client.delete(&path(&name)?)?;
            session.print(&said, |_| format!("handler {name} was removed\n"));
        }
        Some(Verb::Release(One { name })) => {
            let view: HandlerView = client.post(&format!("{}/release", path(&name)?), &())?;
            session.print(&view, |view| format!("handler {name} is {}\n", view.state));
        }
    }
    Ok(())
}

/// A name that could be another path is none.
fn path(name: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match !name.is_empty() && name.chars().all(plain) {
        true => Ok(format!("/v1/handlers/{name}")),
        false => Err(Error::new(
            Code::NotFound,
            format_args!("handler {name}"),
            "is not known",
        )),
    }
}

fn read(file: &PathBuf) -> Result<Vec<HandlerSpec>> {
    let missing = |e: std::io::Error| {
        let message = format!("cannot be read: {e}");
        Error::new(Code::ConfigMissing, file.display(), message)
    };
    let mut text = String::new();
    match file.as_os_str() == "-" {
        true => {
            _ = std::io::stdin()
                .read_to_string(&mut text)
                .map_err(missing)?
        }
        false => text = std::fs::read_to_string(file).map_err(missing)?,
    }
    let invalid = |about: String, e: String| {
        Error::new(Code::ConfigInvalid, about, e.trim().replace('\n', " "))
    };
    let mut table: toml::Table = toml::from_str(&text)
        .map_err(|e| invalid(file.display().to_string(), e.message().to_owned()))?;
    let items = match table.remove("handlers") {
        Some(toml::Value::Array(items)) => items,
        Some(_) => {
            return Err(invalid(
                format!("{}: handlers", file.display()),
                "is no array of tables".into(),
            ));
        }
        None => vec![toml::Value::Table(table)],
    };
    let spec = |(n, item)| {
        serde_path_to_error::deserialize(item).map_err(
            |e: serde_path_to_error::Error<toml::de::Error>| {
                let about = format!("{}: handlers[{n}].{}", file.display(), e.path());
                invalid(about, e.inner().message().to_owned())
            },
        )
    };
    items.into_iter().enumerate().map(spec).collect()
}

fn table(views: &[HandlerView]) -> String {
    if views.is_empty() {
        return "no event handlers; add one with: backpropd ctl handlers add FILE\n".into();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "NAME",
        "KIND",
        "STATE",
        "WAITING",
        "DELIVERED",
        "DROPPED",
        "LAGGED",
        "FAILED",
        "RESTARTED",
        "EVENTS",
    ]);
    for view in views {
        let counters = view.counters;
        let events = match view.spec.events.is_empty() {
            true => "none".to_owned(),
            false => view.spec.events.join(" "),
        };
        table.add_row([
            view.spec.name.clone(),
            view.spec.kind.clone(),
            view.state.replace('_', " "),
            view.waiting.to_string(),
            counters.delivered.to_string(),
            counters.dropped.to_string(),
            counters.lagged.to_string(),
            counters.failed.to_string(),
            counters.restarted.to_string(),
            events,
        ]);
    }
    for column in 3..9 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = format!("{}\n", table.trim_fmt());
    for view in views.iter().filter(|view| view.state != "running") {
        if let Some(cause) = &view.last_cause {
            text += &format!(
                "! {} is {}: {cause}\n",
                view.spec.name,
                view.state.replace('_', " ")
            );
        }
    }
    text
}

//! `ctl config` and `ctl reload`.

use super::Session;
use crate::domain::Result;
use crate::protocol::service::Reloaded;
use serde_json::{Map, Value};
use std::fmt::Write;

/// Prints the settings in use.
pub fn config(session: &Session) -> Result<()> {
    let settings: Map<String, Value> = session.client.get("/v1/config")?;
    session.print(&settings, |settings| {
        let mut text = String::new();
        for (name, table) in settings {
            let Some(keys) = table.as_object() else {
                let _ = writeln!(text, "{name} = {table}");
                continue;
            };
            let _ = writeln!(text, "[{name}]");
            for (key, value) in keys {
                let _ = writeln!(text, "{key} = {value}");
            }
            text.push('\n');
        }
        text
    });
    Ok(())
}

/// Has daemon.toml read again.
pub fn reload(session: &Session) -> Result<()> {
    let done: Reloaded = session.client.post("/v1/reload", &())?;
    session.print(&done, |done| {
        let mut text = String::new();
        for (key, value) in &done.changed {
            let _ = writeln!(text, "{key} is {value} now");
        }
        if !done.restart.is_empty() {
            let keys = done.restart.join(", ");
            let _ = writeln!(text, "changed in the file, used after a restart: {keys}");
        }
        match text.is_empty() {
            true => "the settings are what they were\n".into(),
            false => text,
        }
    });
    Ok(())
}

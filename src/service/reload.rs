//! The settings, read again while the daemon works.

use super::Manager;
use crate::actors::gpus::{Gpus, Reconfigure};
use crate::actors::handlers::{Configured, Handlers, Parts};
use crate::config::redact::redact;
use crate::config::settings::{Change, Settings};
use crate::control::{Access, Rules};
use crate::domain::{Code, Error, Result};
use crate::protocol::service::Reloaded;
use crate::supervise::ChildRef;
use crate::system::log::{self, Level};
use std::sync::Arc;

/// Whatever must hear of other settings and does not look at them itself.
pub struct Reloader {
    /// The settings in use.
    pub settings: Settings,
    /// What is logged.
    pub level: Level,
    /// Who may do what.
    pub access: Arc<Access>,
    /// The event handlers, and what they are made from.
    pub handlers: (ChildRef<Handlers>, Parts),
    /// The monitor of the GPUs.
    pub gpus: ChildRef<Gpus>,
}

impl Reloader {
    /// Reads the settings again and uses what can change; says what cannot.
    ///
    /// # Errors
    /// What is wrong with the file; nothing has changed then.
    pub fn reload(&self) -> Result<Reloaded> {
        Manager.reloading();
        let done = self.apply();
        match &done {
            Ok(done) => tracing::info!("settings read again: {}", told(done)),
            Err(e) => tracing::error!("settings read again and not used; nothing changed: {e}"),
        }
        Manager.ready(match done {
            Ok(_) => "reloaded",
            Err(_) => "the settings cannot be used; the former ones are in use",
        });
        done
    }

    fn apply(&self) -> Result<Reloaded> {
        let Change {
            next,
            changed,
            restart,
        } = self.settings.again()?;
        // Everything that can fail, before anything changes.
        let filter = log::filter(&next.log.level)?;
        let rules = Rules::new(&next.control)?;
        let (handlers, parts) = &self.handlers;
        let (configured, watched) = (next.handlers.clone(), next.gpus.clone());
        parts.check(&configured)?;
        let mut shown = serde_json::to_value(&next).unwrap_or_default();
        redact(&mut shown);
        let value = |key: String| {
            let pointer = format!("/{}", key.replace('.', "/"));
            let value = shown.pointer(&pointer).cloned().unwrap_or_default();
            (key, value)
        };
        self.settings.set(next);
        self.level.set(filter);
        self.access.set(rules);
        if changed.iter().any(|key| key == "handlers") {
            handlers
                .try_send(Configured(configured))
                .map_err(|e| Error::new(Code::DaemonUnavailable, "handlers", e))?;
        }
        if changed.iter().any(|key| key.starts_with("gpus.")) {
            self.gpus
                .try_send(Reconfigure(watched))
                .map_err(|e| Error::new(Code::DaemonUnavailable, "gpus", e))?;
        }
        Ok(Reloaded {
            changed: changed.into_iter().map(value).collect(),
            restart,
        })
    }
}

/// In one line.
fn told(done: &Reloaded) -> String {
    let changed = done.changed.iter();
    let mut parts: Vec<String> = changed
        .map(|(key, value)| format!("{key} is {value} now"))
        .collect();
    if !done.restart.is_empty() {
        parts.push(format!("{} need a restart", done.restart.join(", ")));
    }
    match parts.is_empty() {
        true => "nothing else than before".to_owned(),
        false => parts.join("; "),
    }
}

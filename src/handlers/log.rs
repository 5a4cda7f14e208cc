//! `log`: each event is a record of the daemon's log.

use super::{EventHandler, Settings, line};
use crate::domain::Result;
use crate::protocol::api::Event;
use serde::Deserialize;

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    Debug,
    #[default]
    Info,
    Warn,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    #[serde(default)]
    level: Level,
}

/// A level of the log.
pub(super) struct Log(Level);

pub(super) fn prepare(settings: &Settings) -> Result<impl Fn() -> Result<Log> + use<>> {
    let keys: Keys = settings.decode()?;
    Ok(move || Ok(Log(keys.level)))
}

impl EventHandler for Log {
    fn handle(&mut self, event: &Event) -> Result<()> {
        let line = line::of(event);
        match self.0 {
            Level::Debug => tracing::debug!(event = %line),
            Level::Info => tracing::info!(event = %line),
            Level::Warn => tracing::warn!(event = %line),
        }
        Ok(())
    }
}

//! Event handlers as they are configured and shown.

use super::kinds;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One `[[handlers]]` of daemon.toml, or the body of `POST /v1/handlers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HandlerSpec {
    /// What it is called: letters, digits, `-` and `_`.
    pub name: String,
    /// What it does: `log`, `jsonl`, `exec`, `webhook`, `tensorboard`, `prometheus`.
    pub kind: String,
    /// The kinds of events that it gets; `gpu_*` is all that begin so, `*` is all. None by
    /// default.
    #[serde(default)]
    pub events: Vec<String>,
    /// Events that wait for it at most.
    #[serde(default = "queue")]
    pub queue: usize,
    /// Seconds that it may work on one event.
    #[serde(default = "deadline")]
    pub deadline_seconds: f64,
    /// Failures within `restart_period_seconds` that are answered by a restart; one more,
    /// and it is quarantined.
    #[serde(default = "restarts")]
    pub restarts: u32,
    /// See `restarts`.
    #[serde(default = "restart_period")]
    pub restart_period_seconds: u64,
    /// The kind's own settings.
    #[serde(flatten)]
    pub settings: Map<String, Value>,
    /// Where it was written, for errors.
    #[serde(skip)]
    pub origin: String,
}

fn queue() -> usize {
    4096
}

fn deadline() -> f64 {
    10.0
}

fn restarts() -> u32 {
    5
}

fn restart_period() -> u64 {
    60
}

impl HandlerSpec {
    /// What cannot be, as a key and a message. The kind's own settings are not looked at.
    ///
    /// # Errors
    /// The first such key.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(plain) {
            let message = format!("{:?} is not 1 to 64 letters, digits, - and _", self.name);
            return Err(("name", message));
        }
        if let Some(unknown) = self.events.iter().find(|kind| !kinds::is_known(kind)) {
            let known = kinds::ALL.join(", ");
            let message = format!("{unknown:?} is no kind of event; there are {known}, and *");
            return Err(("events", message));
        }
        if !(1..=65_536).contains(&self.queue) {
            return Err(("queue", "must be from 1 to 65536".into()));
        }
        if !(0.05..=3600.0).contains(&self.deadline_seconds) {
            return Err(("deadline_seconds", "must be from 0.05 to 3600".into()));
        }
        if self.restarts > 1000 {
            return Err(("restarts", "must be 1000 at most".into()));
        }
        if self.restart_period_seconds == 0 {
            return Err(("restart_period_seconds", "must be at least 1".into()));
        }
        Ok(())
    }
}

/// An event handler as `GET /v1/handlers` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HandlerView {
    /// Its settings.
    #[serde(flatten)]
    pub spec: HandlerSpec,
    /// Where it comes from.
    pub source: HandlerSource,
    /// `running`, `starting`, `backing_off`, `quarantined`, `stopping`.
    pub state: String,
    /// What it did since the daemon started.
    pub counters: HandlerCounters,
    /// Events that wait for it.
    pub waiting: usize,
    /// The last event that it is done with.
    pub last_event: u64,
    /// Why it last failed.
    pub last_cause: Option<String>,
}

/// Where an event handler comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HandlerSource {
    /// daemon.toml: it can be changed there.
    File,
    /// Added over the control socket, and kept in the database.
    Added,
}

/// What became of a handler's events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HandlerCounters {
    /// Handled.
    pub delivered: u64,
    /// Lossy ones that made room for newer ones, or found none.
    pub dropped: u64,
    /// Others that found no room and are read again from the database.
    pub lagged: u64,
    /// Attempts that ended in an error, a panic or a missed deadline.
    pub failed: u64,
    /// How often it was started again.
    pub restarted: u64,
}

/// What `DELETE /v1/handlers/{name}` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HandlerRemoved {
    /// The name of the handler that is gone.
    pub removed: String,
}

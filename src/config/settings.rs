//! The daemon's settings while it runs: read again on request, as far as they can change.

use super::daemon::DaemonConfig;
use crate::domain::{Code, Error, Result};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// Keys whose new value is used at once. Whoever uses one reads it from [`Settings::now`]
/// when it is needed, or follows [`Settings::watch`]. All others need a restart.
pub const LIVE: &[&str] = &[
    "control.readers",
    "control.writers",
    "control.tcp_hosts",
    "workers.limit",
    "workers.device",
    "workers.threads",
    "workers.hang_seconds",
    "workers.restarts",
    "workers.restart_period_seconds",
    "workers.stop_seconds",
    "gpus.interval_seconds",
    "gpus.timeout_seconds",
    "gpus.give_up_seconds",
    "gpus.history",
    "gpus.blind_after",
    "gpus.devices",
    "gpus.runs_per_gpu",
    "gpus.limits",
    "gpus.override",
    "events.keep",
    "handlers",
    "log.level",
];

/// The settings that are in use.
#[derive(Clone)]
pub struct Settings {
    file: Option<PathBuf>,
    now: Arc<watch::Sender<Arc<DaemonConfig>>>,
}

/// What reading the settings again comes to.
pub struct Change {
    /// The settings to be used from now on.
    pub next: DaemonConfig,
    /// Keys that have another value from now on.
    pub changed: Vec<String>,
    /// Keys that have another value in the file, for which a restart is needed.
    pub restart: Vec<String>,
}

impl Settings {
    /// The settings of `file`, as [`DaemonConfig::read`] finds them.
    ///
    /// # Errors
    /// As [`DaemonConfig::read`].
    pub fn read(file: Option<PathBuf>) -> Result<Self> {
        let now = DaemonConfig::read(file.as_deref())?;
        let now = Arc::new(watch::Sender::new(Arc::new(now)));
        Ok(Self { file, now })
    }

    /// The settings at this moment.
    pub fn now(&self) -> Arc<DaemonConfig> {
        self.now.borrow().clone()
    }

    /// The settings as they change.
    pub fn watch(&self) -> watch::Receiver<Arc<DaemonConfig>> {
        self.now.subscribe()
    }

    /// What reading them again would change; nothing is changed yet.
    ///
    /// # Errors
    /// As [`DaemonConfig::read`].
    pub fn again(&self) -> Result<Change> {
        Change::between(&self.now(), &DaemonConfig::read(self.file.as_deref())?)
    }

    /// Uses `next` from now on.
    pub fn set(&self, next: DaemonConfig) {
        self.now.send_replace(Arc::new(next));
    }
}

impl Change {
    fn between(now: &DaemonConfig, file: &DaemonConfig) -> Result<Self> {
        let internal = |e: &dyn std::fmt::Display| Error::new(Code::Internal, "daemon.toml", e);
        let value = |config| serde_json::to_value(config).map_err(|e| internal(&e));
        let (mut next, file) = (value(now)?, value(file)?);
        let (mut changed, mut restart) = (Vec::new(), Vec::new());
        for (name, table) in file.as_object().into_iter().flatten() {
            // Most are tables; one that is a list counts as one key.
            let Some(keys) = table.as_object() else {
                if next[name] != *table {
                    take(
                        &mut next[name],
                        table,
                        name.clone(),
                        &mut changed,
                        &mut restart,
                    );
                }
                continue;
            };
            for (key, value) in keys {
                if next[name][key] != *value {
                    let dotted = format!("{name}.{key}");
                    take(
                        &mut next[name][key],
                        value,
                        dotted,
                        &mut changed,
                        &mut restart,
                    );
                }
            }
        }
        let next = serde_json::from_value(next).map_err(|e| internal(&e))?;
        Ok(Self {
            next,
            changed,
            restart,
        })
    }
}

fn take(
    now: &mut Value,
    next: &Value,
    key: String,
    changed: &mut Vec<String>,
    restart: &mut Vec<String>,
) {
    if LIVE.contains(&key.as_str()) {
        now.clone_from(next);
        changed.push(key);
    } else {
        restart.push(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::daemon::LogFormat;

    #[test]
    fn what_can_change_changes_and_the_rest_is_named() {
        let now = DaemonConfig::default();
        let mut file = now.clone();
        file.workers.limit = 3;
        file.log.level = "debug".into();
        file.log.format = LogFormat::Json;
        file.control.socket = "/elsewhere".into();
        let change = Change::between(&now, &file).unwrap();
        assert_eq!(change.changed, ["log.level", "workers.limit"]);
        assert_eq!(change.restart, ["control.socket", "log.format"]);
        assert_eq!(change.next.workers.limit, 3);
        assert_eq!(change.next.log.level, "debug");
        assert_eq!(change.next.log.format, LogFormat::Text);
        assert_eq!(change.next.control.socket, now.control.socket);
        let again = Change::between(&now, &now).unwrap();
        assert!(again.changed.is_empty() && again.restart.is_empty());
    }

    #[test]
    fn every_live_key_is_a_key() {
        let all = serde_json::to_value(DaemonConfig::default()).unwrap();
        for key in LIVE {
            let pointer = format!("/{}", key.replace('.', "/"));
            assert!(all.pointer(&pointer).is_some(), "{key}");
        }
    }
}

//! The `[gpus]` table of `daemon.toml`.

use super::super::{Code, Error, Result};
use super::{LimitOverrides, Thresholds};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How GPUs are watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GpuSettings {
    /// Whether GPUs are watched at all. Without, no thermal protection is active.
    pub monitor: bool,
    /// Seconds between two looks.
    pub interval_seconds: f64,
    /// How long the driver may take for an answer before it counts as hung; at most one
    /// interval.
    pub timeout_seconds: f64,
    /// Seconds after which a hung thread is given up and another one started.
    pub give_up_seconds: f64,
    /// How many statuses of each GPU are kept.
    pub history: usize,
    /// After how many looks in a row without a temperature the monitor calls itself blind.
    pub blind_after: u32,
    /// The driver's library, where it is not found by its usual name; empty in the file
    /// where it is.
    #[serde(with = "maybe")]
    pub library: Option<PathBuf>,
    /// The GPUs that runs are given, as `CUDA_VISIBLE_DEVICES` names them; empty for those
    /// that the daemon's own `CUDA_VISIBLE_DEVICES` leaves.
    #[serde(deserialize_with = "list")]
    pub devices: String,
    /// Runs that compute on one GPU at once.
    pub runs_per_gpu: usize,
    /// Limits of every GPU.
    pub limits: Thresholds,
    /// What differs for single GPUs, by index or uuid.
    #[serde(rename = "override")]
    pub overrides: BTreeMap<String, LimitOverrides>,
}

impl Default for GpuSettings {
    fn default() -> Self {
        Self {
            monitor: true,
            interval_seconds: 5.0,
            timeout_seconds: 2.0,
            give_up_seconds: 60.0,
            history: 100,
            blind_after: 3,
            library: None,
            devices: String::new(),
            runs_per_gpu: 1,
            limits: Thresholds::default(),
            overrides: BTreeMap::new(),
        }
    }
}

impl GpuSettings {
    /// Whether the settings can be used.
    ///
    /// # Errors
    /// `config-invalid` about the key, relative to the table.
    pub fn validate(&self) -> Result<()> {
        let bad = |key: &str, message: String| Err(Error::new(Code::ConfigInvalid, key, message));
        for (key, value, low) in [
            ("interval_seconds", self.interval_seconds, 0.1),
            ("timeout_seconds", self.timeout_seconds, 0.01),
            ("give_up_seconds", self.give_up_seconds, 1.0),
        ] {
            if !(low..=86_400.0).contains(&value) {
                return bad(key, format!("{value} is not within {low} and 86400"));
            }
        }
        if !(1..=100_000).contains(&self.history) {
            return bad(
                "history",
                format!("{} is not within 1 and 100000", self.history),
            );
        }
        if self.blind_after == 0 {
            return bad("blind_after", "0 looks: it must be at least 1".to_owned());
        }
        if !(1..=64).contains(&self.runs_per_gpu) {
            return bad(
                "runs_per_gpu",
                format!("{} is not within 1 and 64", self.runs_per_gpu),
            );
        }
        let inside = |table: String| {
            move |mut error: Error| {
                error.about = format!("{table}.{}", error.about);
                error
            }
        };
        self.limits.validate().map_err(inside("limits".into()))?;
        for (gpu, overrides) in &self.overrides {
            let table = format!("override.{gpu}");
            if gpu.parse::<u32>().is_err() && !gpu.to_ascii_lowercase().starts_with("gpu-") {
                return bad(
                    &table,
                    "is neither an index nor a uuid that begins with GPU-".to_owned(),
                );
            }
            let limits = self.limits.with(overrides);
            limits.validate().map_err(inside(table))?;
        }
        Ok(())
    }

    /// The limits of one GPU. What is said by uuid (in capitals or not) beats what is said
    /// by index.
    pub fn limits_of(&self, index: u32, uuid: Option<&str>) -> Thresholds {
        let by_index = self.overrides.get(&index.to_string());
        let by_uuid = self.overrides.iter().find_map(|(key, overrides)| {
            uuid.is_some_and(|uuid| uuid.eq_ignore_ascii_case(key))
                .then_some(overrides)
        });
        [by_index, by_uuid]
            .into_iter()
            .flatten()
            .fold(self.limits.clone(), |limits, o| limits.with(o))
    }

    /// [`Self::interval_seconds`] as a duration.
    pub fn interval(&self) -> Duration {
        Duration::from_secs_f64(self.interval_seconds)
    }

    /// [`Self::timeout_seconds`] as a duration, at most one interval.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout_seconds.min(self.interval_seconds))
    }

    /// [`Self::give_up_seconds`] as a duration.
    pub fn give_up(&self) -> Duration {
        Duration::from_secs_f64(self.give_up_seconds)
    }
}

/// A single index is a number to those who wrote the file.
fn list<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum List {
        One(u32),
        Text(String),
    }
    Ok(match List::deserialize(from)? {
        List::One(index) => index.to_string(),
        List::Text(text) => text,
    })
}

/// A path that may be missing: TOML has no null, and a file that documents every key has to
/// write something.
mod maybe {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::path::PathBuf;

    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
        path.clone().unwrap_or_default().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
        let path = PathBuf::deserialize(from)?;
        Ok(Some(path).filter(|path| !path.as_os_str().is_empty()))
    }
}

//! One look at one GPU.

use super::{Condition, Hold};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A part of a GPU that is divided (MIG). What CUDA calls a device there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MigInstance {
    /// Its own identity: `MIG-…`.
    pub uuid: Option<String>,
    /// Bytes of memory in all.
    pub memory_total: Option<u64>,
    /// Bytes in use.
    pub memory_used: Option<u64>,
}

/// What could be read. What could not is `None`, null as JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reading {
    /// The driver's index of the GPU.
    pub index: u32,
    /// The product's name.
    pub name: Option<String>,
    /// The identity that survives reboots: `GPU-…`.
    pub uuid: Option<String>,
    /// Temperature of the GPU, °C.
    pub temperature_c: Option<f64>,
    /// Where the card switches itself off, °C.
    pub shutdown_c: Option<f64>,
    /// Bytes of memory in all.
    pub memory_total: Option<u64>,
    /// Bytes in use.
    pub memory_used: Option<u64>,
    /// Bytes free.
    pub memory_free: Option<u64>,
    /// Watts drawn.
    pub power_draw_w: Option<f64>,
    /// Watts that the card may draw.
    pub power_limit_w: Option<f64>,
    /// Share of the time in which a kernel ran, percent.
    pub utilisation_percent: Option<f64>,
    /// The instances that the GPU is divided into (MIG); null where it is not.
    pub mig: Option<Vec<MigInstance>>,
    /// When it was read: milliseconds since 1970, UTC.
    pub timestamp_ms: u64,
}

impl Reading {
    /// Memory in use, percent.
    pub fn memory_percent(&self) -> Option<f64> {
        match (self.memory_used, self.memory_total) {
            (Some(used), Some(total)) if total > 0 => Some(used as f64 / total as f64 * 100.0),
            _ => None,
        }
    }

    /// Power drawn, percent of the limit.
    pub fn power_percent(&self) -> Option<f64> {
        match (self.power_draw_w, self.power_limit_w) {
            (Some(draw), Some(limit)) if limit > 0.0 => Some(draw / limit * 100.0),
            _ => None,
        }
    }

    /// The same GPU with nothing read.
    pub fn nothing(&self, timestamp_ms: u64) -> Self {
        Self {
            index: self.index,
            name: self.name.clone(),
            uuid: self.uuid.clone(),
            timestamp_ms,
            ..Self::default()
        }
    }
}

/// A reading and what it means.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuStatus {
    /// Whether the driver knows this GPU and answers for it.
    pub available: bool,
    /// Whether the numbers are those of an earlier look, because the driver did not answer.
    /// `timestamp_ms` says when they were read.
    pub stale: bool,
    /// The numbers.
    #[serde(flatten)]
    pub reading: Reading,
    /// Memory in use, percent.
    pub memory_percent: Option<f64>,
    /// Power drawn, percent of the limit.
    pub power_percent: Option<f64>,
    /// The worst of all measures.
    pub condition: Condition,
    /// What is wanted of the runs on this GPU.
    #[serde(default)]
    pub hold: Hold,
    /// One line for each measure that is not in order, worst first; each names the value
    /// and its limit.
    pub reasons: Vec<String>,
}

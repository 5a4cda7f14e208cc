//! What the control socket answers about metrics, actors and settings.

use crate::domain::RunId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// `GET /v1/runs/{id}/metrics`: some of a run's points, by step and then by hook point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Metrics {
    /// The run.
    pub run: RunId,
    /// The points.
    pub points: Vec<Point>,
    /// Ask with `after` set to this for the points that follow; null when there are none
    /// for now.
    pub next: Option<String>,
}

/// The measures of one hook point at one step. What is not known is null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Point {
    /// 1, 2, 3, ….
    pub step: u64,
    /// The hook point.
    pub site: String,
    /// The loss that was minimised.
    pub loss: Option<f64>,
    /// Mean number of active latents a token.
    pub l0: Option<f64>,
    /// The L1 part of the loss.
    pub l1: Option<f64>,
    /// Share of dead latents.
    pub dead: Option<f64>,
    /// Fraction of variance unexplained.
    pub fvu: Option<f64>,
    /// The learning rate.
    pub lr: Option<f64>,
    /// Norm of the gradient before clipping.
    pub grad_norm: Option<f64>,
    /// Bytes of device memory in use.
    pub gpu_mem: Option<u64>,
    /// Tokens a second, of the run as a whole.
    pub tokens_per_second: Option<f64>,
}

/// `GET /v1/actors`: a part of the daemon, as its supervisor sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ActorView {
    /// Its name.
    pub name: String,
    /// `waiting`, `starting`, `running`, `stopping`, `backing_off`, `quarantined`, `stopped`.
    pub state: String,
    /// Whether it is at work, or ended for good.
    pub well: bool,
    /// Since when it is in that state: milliseconds since 1970.
    pub since: u64,
    /// Which instance this is, 1 for the first.
    pub generation: u64,
    /// How often it was started again.
    pub restarts: u64,
    /// What began the present series of failures.
    pub first_cause: Option<String>,
    /// Why it ended last.
    pub last_cause: Option<String>,
    /// Messages that it has not answered.
    pub mailbox: usize,
    /// How many it may hold.
    pub mailbox_bound: usize,
    /// Messages that went down with it.
    pub messages_lost: u64,
    /// What it did so far: messages answered, and progress that it reported.
    pub progress: u64,
    /// Milliseconds for which it has had work and done none of it.
    pub stalled_ms: u64,
    /// Past how many of them it is replaced; null where it is not watched.
    pub stall_limit_ms: Option<u64>,
    /// Earlier instances whose threads cannot be ended.
    pub abandoned: u64,
}

/// `POST /v1/reload`: what reading daemon.toml again came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// Keys that have another value from now on, with it.
    pub changed: BTreeMap<String, Value>,
    /// Keys that have another value in the file and need a restart of the daemon.
    pub restart: Vec<String>,
}

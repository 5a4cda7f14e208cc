//! What travels over the control socket: requests, answers, problems.

use super::gpus::GpuSummary;
use super::sweep::{OfSweep, SweepView};
use super::{AssetFact, DaemonFact, Fact};
use crate::domain::gpu::GpuFact;
use crate::domain::gpu::{GpuHold, Lease};
use crate::domain::run_state::RunState;
use crate::domain::{Code, Error, RunId, SweepId};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::PathBuf;

/// `POST /v1/runs`: a run.toml to queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    /// The text of run.toml.
    pub run_toml: String,
    /// The folder at which its relative paths start: absolute.
    pub base: PathBuf,
    /// What it is called in errors, e.g. the file's path.
    #[serde(default = "run_toml")]
    pub file: String,
    /// Replacements of the form `key=value`.
    #[serde(default)]
    pub set: Vec<String>,
    /// Higher ones are started first.
    #[serde(default)]
    pub priority: i64,
    /// Chosen by the submitter; the same key again names the run that it made, and queues
    /// nothing.
    #[serde(default)]
    pub key: Option<String>,
    /// °C of its GPU from which on it pauses; it only ever lowers what the host allows.
    #[serde(default)]
    pub max_temperature: Option<f64>,
}

fn run_toml() -> String {
    "run.toml".into()
}

/// A run as the daemon knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunView {
    /// 1, 2, 3, …, never used again.
    pub id: RunId,
    /// The name in its run.toml.
    pub name: String,
    /// Where it stands.
    pub state: RunState,
    /// Higher ones are started first.
    pub priority: i64,
    /// The sweep that it belongs to.
    pub sweep: Option<SweepId>,
    /// Its index in there: 1, 2, 3, ….
    pub run_idx: Option<u64>,
    /// Its folder.
    pub folder: Option<PathBuf>,
    /// Steps done.
    pub step: u64,
    /// Steps in all, once known.
    pub steps: Option<u64>,
    /// Loss of the last step.
    pub loss: Option<f64>,
    /// L0 of the last step, a mean over the hook points.
    pub l0: Option<f64>,
    /// Tokens a second, lately.
    pub tokens_per_second: Option<f64>,
    /// Seconds that are left at the pace so far.
    pub eta_seconds: Option<f64>,
    /// Workers that it has had.
    pub workers: u64,
    /// The worker's process.
    pub pid: Option<u32>,
    /// The GPU that it was given.
    pub gpu: Option<Lease>,
    /// Why it waits or ends though nobody asked for it, or that somebody overruled that.
    pub hold: Option<GpuHold>,
    /// °C from which on it pauses, where that is less than what the host allows.
    pub max_temperature: Option<f64>,
    /// Why it failed, or why its worker was last restarted.
    pub error: Option<Problem>,
    /// When it was submitted: milliseconds since 1970.
    pub queued_at: i64,
    /// When it first trained.
    pub started_at: Option<i64>,
    /// When it ended; none while it can still move.
    pub ended_at: Option<i64>,
}

/// `GET /v1/status`: the daemon at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Of the program.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime: f64,
    /// Peak resident memory, bytes.
    pub memory: Option<u64>,
    /// Runs that train at once, at most.
    pub limit: usize,
    /// Runs that wait.
    pub queued: usize,
    /// The GPUs.
    pub gpus: GpuSummary,
    /// Sweeps that have not ended, without their runs.
    pub sweeps: Vec<SweepView>,
    /// Runs that have a worker, or are paused.
    pub active: Vec<RunView>,
    /// The last ones that ended, newest first.
    pub recent: Vec<RunView>,
    /// Parts of the daemon that are not at work, with the reason.
    pub down: Vec<Down>,
}

/// `POST /v1/shutdown`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Leaving {
    /// That the daemon saves all runs and ends.
    pub leaving: bool,
}

/// A part of the daemon that is not at work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Down {
    /// Its name.
    pub actor: String,
    /// What it does instead: backing off, quarantined.
    pub state: String,
    /// The first cause.
    pub cause: String,
}

/// What a command did, as `POST /v1/runs/{id}/pause` and its like answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Acknowledged {
    /// Whether anything changes; a command that was given before changes nothing.
    pub changed: bool,
    /// One line.
    pub message: String,
    /// The run.
    pub run: RunView,
}

/// An event of the daemon's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// [`super::VERSION`].
    pub v: u32,
    /// Its place among all events, 1, 2, 3, …; a reader that missed some is told by an
    /// event of kind `gap`, which has the id of the last one missed. Absent (0 in memory)
    /// for what is told as it happens and kept nowhere, as `gpu_status`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub id: u64,
    /// The run that it is about.
    pub run: Option<RunId>,
    /// 1, 2, 3, … within the run, through all of its workers' lives.
    pub seq: Option<u64>,
    /// When it was stored: milliseconds since 1970.
    pub at: i64,
    /// What happened: a kind of [`Fact`], or one of the daemon's own, as `run_queued`.
    pub kind: String,
    /// The rest.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl Event {
    /// An event with `fields`, an object.
    pub fn new(
        id: u64,
        run: Option<RunId>,
        seq: Option<u64>,
        at: i64,
        kind: &str,
        fields: Value,
    ) -> Self {
        Self {
            v: super::VERSION,
            id,
            run,
            seq,
            at,
            kind: kind.to_owned(),
            fields: match fields {
                Value::Object(fields) => fields,
                _ => Map::new(),
            },
        }
    }

    /// An event that is told and not kept: it has no place among the others.
    pub fn passing(at: i64, kind: &str, fields: Value) -> Self {
        Self::new(0, None, None, at, kind, fields)
    }

    /// Whether it is told and not kept.
    pub fn is_passing(&self) -> bool {
        is_zero(&self.id)
    }

    /// The fact of a sweep that this event is, where it is one.
    pub fn sweep_fact(&self) -> Option<OfSweep> {
        self.payload()
    }

    /// The worker's fact that this event is, where it is one.
    pub fn fact(&self) -> Option<Fact> {
        self.payload()
    }

    /// The daemon's own fact that this event is, where it is one.
    pub fn daemon_fact(&self) -> Option<DaemonFact> {
        self.payload()
    }

    /// The GPU monitor's fact that this event is, where it is one.
    pub fn gpu_fact(&self) -> Option<GpuFact> {
        self.payload()
    }

    /// What happened to a model or a dataset, where this event is about one.
    pub fn asset_fact(&self) -> Option<AssetFact> {
        let of_asset = self.kind.starts_with("model_") || self.kind.starts_with("dataset_");
        let fields = of_asset.then(|| Value::Object(self.fields.clone()))?;
        serde_json::from_value(fields).ok()
    }

    fn payload<T: DeserializeOwned>(&self) -> Option<T> {
        let mut fields = self.fields.clone();
        fields.insert("kind".into(), self.kind.clone().into());
        serde_json::from_value(Value::Object(fields)).ok()
    }
}

fn is_zero(id: &u64) -> bool {
    *id == 0
}

/// An error as `application/problem+json` (RFC 9457).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// The stable code.
    pub code: String,
    /// What it is about.
    pub about: String,
    /// What happened.
    pub detail: String,
    /// What to do next.
    pub hint: String,
    /// HTTP's status.
    pub status: u16,
    /// Whether the same request can succeed later.
    pub retryable: bool,
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        let (status, retryable) = match error.code {
            Code::Unauthorized => (401, false),
            Code::Forbidden => (403, false),
            Code::NotFound => (404, false),
            Code::NotPossible
            | Code::RunExists
            | Code::RunBusy
            | Code::HandlerExists
            | Code::AssetNotReady
            | Code::AssetInUse
            | Code::AssetExists => (409, false),
            Code::RequestTooLarge => (413, false),
            Code::TooManyAttempts => (429, true),
            Code::DaemonUnavailable => (503, true),
            Code::DiskFull => (507, true),
            Code::Internal | Code::IoRead | Code::IoWrite | Code::WorkerLost | Code::WorkerHung => {
                (500, true)
            }
            _ => (422, false),
        };
        Self {
            code: error.code.as_str().to_owned(),
            about: error.about.clone(),
            detail: error.message.clone(),
            hint: error.hint.clone(),
            status,
            retryable,
        }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self {
            code: Code::of(&problem.code).unwrap_or(Code::Internal),
            about: problem.about,
            message: problem.detail,
            hint: problem.hint,
        }
    }
}

impl Problem {
    /// In one line, as an [`Error`] is printed.
    pub fn line(&self) -> String {
        let mut line = self.code.clone();
        for part in [&self.about, &self.detail] {
            if !part.is_empty() {
                line += ": ";
                line += part;
            }
        }
        match self.hint.is_empty() {
            true => line,
            false => format!("{line} ({})", self.hint),
        }
    }
}

//! Sweeps on the wire: what is told of them, and what the control socket takes and gives.

use super::api::RunView;
use crate::domain::measure::{Measure, Mode};
use crate::domain::run_state::RunState;
use crate::domain::sweep::Phase;
use crate::domain::{RunId, SweepId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The payload of an event about a sweep. The facts of its runs carry `sweep` and `run_idx`
/// as well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OfSweep {
    /// The sweep.
    pub sweep: SweepId,
    /// What happened.
    #[serde(flatten)]
    pub fact: SweepFact,
}

/// What happened to a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum SweepFact {
    /// It was submitted; its first runs begin.
    MultiRunStarted {
        /// What it is called.
        name: String,
        /// Runs in all.
        runs: u64,
        /// Runs at once, at most.
        parallel: u64,
        /// By what they are compared.
        metric: Measure,
        /// Which way is better.
        mode: Mode,
    },
    /// A run begins: it is queued. Its steps come after this.
    RunStart {
        /// 1, 2, 3, … without a gap.
        run_idx: u64,
        /// Its number among all runs.
        run_id: RunId,
        /// What it is called.
        name: String,
        /// Keys that are its own, with their values in TOML.
        overrides: BTreeMap<String, String>,
    },
    /// A run is over, after its last step and its last validation.
    RunComplete(RunResult),
    /// All runs stand at a rung of successive halving.
    RungCompleted {
        /// The rung.
        step: u64,
        /// The runs that go on, the best first.
        kept: Vec<u64>,
        /// The runs that end here.
        dropped: Vec<u64>,
    },
    /// No further run begins, because the last ones were no better.
    MultiRunEarlyStop {
        /// The run after which that was clear.
        run_idx: u64,
        /// By what they are compared.
        metric: Measure,
        /// The best value.
        best: f64,
        /// The run of which it is.
        best_run_idx: u64,
        /// Runs in a row that were no better.
        patience: u64,
    },
    /// Its runs wait.
    MultiRunPaused {},
    /// Its runs go on.
    MultiRunResumed {},
    /// Every run that it was to begin has ended.
    MultiRunCompleted(SweepResult),
    /// Every run has ended, and none with success.
    MultiRunFailed(SweepResult),
    /// It was told to stop, and every run is saved; it can be resumed.
    MultiRunStopped(SweepResult),
    /// It was told to abort, and every run has ended.
    MultiRunAborted(SweepResult),
}

/// How a run of a sweep ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunResult {
    /// 1, 2, 3, … without a gap.
    pub run_idx: u64,
    /// Its number among all runs.
    pub run_id: RunId,
    /// What it is called.
    pub name: String,
    /// How it ended.
    pub state: RunState,
    /// Steps really done.
    pub step: u64,
    /// Steps of the whole run, where it ever began.
    pub steps: Option<u64>,
    /// Seconds from its first step to its end; absent where the clock was set back meanwhile.
    pub seconds: Option<f64>,
    /// What was measured after its last step.
    pub measures: BTreeMap<String, f64>,
    /// The code of its error.
    pub error: Option<String>,
}

/// How a sweep ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SweepResult {
    /// Why, where it was told to end, or failed.
    pub reason: Option<String>,
    /// Its runs by how they ended.
    pub runs: BTreeMap<String, u64>,
    /// Steps of all runs.
    pub steps: u64,
    /// The best run with success.
    pub best: Option<BestRun>,
    /// Seconds from its submission; absent where the clock was set back meanwhile.
    pub seconds: Option<f64>,
}

/// Seconds between two times of day in milliseconds, where both are known and in this order.
pub fn seconds(from: Option<i64>, to: Option<i64>) -> Option<f64> {
    let millis = to?.checked_sub(from?).filter(|millis| *millis >= 0)?;
    Some(millis as f64 / 1000.0)
}

/// The best run of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BestRun {
    /// Which.
    pub run_idx: u64,
    /// By what.
    pub metric: Measure,
    /// Its value.
    pub value: f64,
}

/// `POST /v1/sweeps`: a sweep.toml to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitSweep {
    /// The text of sweep.toml.
    pub sweep_toml: String,
    /// The folder at which its relative `output` starts: absolute.
    pub base: PathBuf,
    /// What it is called in errors.
    #[serde(default = "sweep_toml")]
    pub file: String,
    /// The text of the run.toml that it names.
    pub run_toml: String,
    /// The folder at which the relative paths of run.toml start: absolute.
    pub run_base: PathBuf,
    /// What run.toml is called in errors.
    #[serde(default = "run_toml")]
    pub run_file: String,
    /// Replacements of the form `key=value` in every run.
    #[serde(default)]
    pub set: Vec<String>,
    /// Chosen by the submitter; the same key again names the sweep that it made.
    #[serde(default)]
    pub key: Option<String>,
}

fn sweep_toml() -> String {
    "sweep.toml".into()
}

fn run_toml() -> String {
    "run.toml".into()
}

/// The body of `POST /v1/sweeps/{id}/stop` and `abort`; it may be empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Why {
    /// Why, for whoever looks at the end of the sweep.
    pub reason: Option<String>,
}

/// A sweep as the daemon knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SweepView {
    /// 1, 2, 3, …, never used again.
    pub id: SweepId,
    /// What it is called.
    pub name: String,
    /// Where it stands.
    pub state: Phase,
    /// Why, where it was told to end, or failed.
    pub reason: Option<String>,
    /// Runs in all.
    pub runs_planned: u64,
    /// Runs that have begun.
    pub runs_begun: u64,
    /// Runs at once, at most.
    pub parallel: u64,
    /// By what the runs are compared.
    pub metric: Measure,
    /// Which way is better.
    pub mode: Mode,
    /// The folder of its runs' folders.
    pub folder: PathBuf,
    /// The best run with success so far; not in a list.
    pub best: Option<BestRun>,
    /// When it was submitted: milliseconds since 1970.
    pub created_at: i64,
    /// When anything last changed.
    pub updated_at: i64,
    /// The runs that have begun, by their indices; not in a list.
    pub runs: Vec<SweepRunView>,
}

/// A run of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SweepRunView {
    /// 1, 2, 3, … without a gap.
    pub run_idx: u64,
    /// Keys that are its own, with their values in TOML.
    pub overrides: BTreeMap<String, String>,
    /// Whether the sweep has nothing more to do with it.
    pub complete: bool,
    /// What was measured after its last step.
    pub measures: BTreeMap<String, f64>,
    /// The run.
    pub run: RunView,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SweepAcknowledged {
    /// Whether anything changes.
    pub changed: bool,
    /// One line.
    pub message: String,
    /// The sweep.
    pub sweep: SweepView,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// behaviour: multi-02
    #[test]
    fn payloads_have_one_form_and_another_is_refused() {
        let complete = json!({
            "kind": "run_complete", "run_idx": 2, "run_id": 7, "name": "k-2",
            "state": "completed", "step": 12, "steps": 12, "seconds": 1.5,
            "measures": { "ce_recovered": 0.5 }, "error": null,
        });
        let fact: SweepFact = serde_json::from_value(complete.clone()).unwrap();
        assert_eq!(serde_json::to_value(&fact).unwrap(), complete);
        for (key, wrong) in [
            ("run_idx", json!("2")),
            ("run_idx", json!(-1)),
            ("state", json!("excellent")),
            ("measures", json!({ "ce_recovered": "high" })),
            ("kind", json!("run_compleat")),
        ] {
            let mut value = complete.clone();
            value[key] = wrong;
            assert!(serde_json::from_value::<SweepFact>(value).is_err(), "{key}");
        }
        let mut missing = complete;
        missing.as_object_mut().unwrap().remove("run_idx");
        assert!(serde_json::from_value::<SweepFact>(missing).is_err());
    }

    #[test]
    fn a_clock_that_was_set_back_says_nothing_of_how_long() {
        assert_eq!(seconds(Some(1_000), Some(2_500)), Some(1.5));
        for (from, to) in [(Some(2), Some(1)), (None, Some(1)), (Some(1), None)] {
            assert_eq!(seconds(from, to), None);
        }
        assert_eq!(seconds(Some(i64::MIN), Some(i64::MAX)), None);
    }
}

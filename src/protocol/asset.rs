//! Models and datasets on the wire: what their workers are told and say, and what clients
//! ask and see.

use super::api::Problem;
use crate::domain::asset::{
    AssetName, AssetState, DataReport, ModelCheck, ModelDescription, TokenSetFacts,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The first line to a worker that looks at a model or dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AssetStart {
    /// [`super::VERSION`].
    pub v: u32,
    /// What it is to do.
    pub task: AssetTask,
}

/// What a worker does with a model or dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum AssetTask {
    /// Says what the config of a model says.
    Describe {
        /// The model's folder.
        model: PathBuf,
    },
    /// Reads every weight of a model, and its tokenizer.
    Verify {
        /// The model's folder.
        model: PathBuf,
    },
    /// Reads every row of a dataset.
    Validate {
        /// A file or folder.
        data: PathBuf,
        /// The column that holds the text.
        text_column: String,
    },
    /// Tokenises a dataset for a model.
    Tokenize {
        /// The model's name, for the record.
        name: AssetName,
        /// The model's folder.
        model: PathBuf,
        /// `[data]` with every default spelled out, as JSON.
        settings: serde_json::Value,
        /// Where token sets are kept, unless the environment names a place.
        cache: PathBuf,
    },
}

/// What such a worker says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum AssetFact {
    /// How far it is.
    Progress(WorkProgress),
    /// The last fact of work that is done.
    Done {
        /// What came of it.
        outcome: Outcome,
        /// Peak resident memory of the process, bytes.
        peak_memory: Option<u64>,
    },
    /// The last fact of work that failed.
    Failed {
        /// Why.
        problem: Problem,
        /// Peak resident memory of the process, bytes.
        peak_memory: Option<u64>,
    },
}

/// What came of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Of [`AssetTask::Describe`].
    Described(Box<ModelDescription>),
    /// Of [`AssetTask::Verify`].
    Verified(Box<ModelCheck>),
    /// Of [`AssetTask::Validate`]; the dataset may still be found not valid.
    Validated(Box<DataReport>),
    /// Of [`AssetTask::Tokenize`].
    Tokenized(Box<TokenSetFacts>),
}

/// Stages of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkStage {
    /// Reading weights.
    Loading,
    /// Reading text.
    Preprocessing,
    /// Text to tokens.
    Tokenizing,
    /// Making what was written durable, and reading it back.
    Saving,
}

impl WorkStage {
    /// As people see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Preprocessing => "preprocessing",
            Self::Tokenizing => "tokenizing",
            Self::Saving => "saving",
        }
    }
}

/// How far work is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkProgress {
    /// The stage.
    pub stage: WorkStage,
    /// Bytes done in this stage; it never becomes less.
    pub done: u64,
    /// Bytes in all, where known.
    pub total: Option<u64>,
    /// Bytes a second in this stage, once there is something to measure.
    pub per_second: Option<f64>,
    /// Seconds that are left of this stage at that pace.
    pub eta_seconds: Option<f64>,
}

/// `POST /v1/models`: a folder to know under a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewModel {
    /// What it is to be called.
    pub name: AssetName,
    /// Its folder: absolute.
    pub path: PathBuf,
}

/// `POST /v1/datasets`: a file or folder to know under a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDataset {
    /// What it is to be called.
    pub name: AssetName,
    /// A `.txt`, `.jsonl`, `.csv` or `.parquet` file, or a folder of them: absolute.
    pub path: PathBuf,
    /// The column that holds the text.
    #[serde(default = "text")]
    pub text_column: String,
}

fn text() -> String {
    "text".into()
}

/// `POST /v1/datasets/{name}/tokenize`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tokenize {
    /// The model whose tokenizer is used.
    pub model: AssetName,
    /// Settings of `[data]`, of the form `key=value`.
    #[serde(default)]
    pub set: Vec<String>,
}

/// A model or dataset as the daemon knows it, with what is known of its kind:
/// [`crate::domain::asset::ModelFacts`], [`crate::domain::asset::DatasetFacts`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AssetView<F> {
    /// Its name.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Where it stands.
    pub state: AssetState,
    /// When it was registered: milliseconds since 1970.
    pub created_at: i64,
    /// When anything last changed.
    pub updated_at: i64,
    /// The rest.
    #[serde(flatten)]
    pub record: AssetRecord<F>,
}

/// What changes about a model or dataset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AssetRecord<F> {
    /// How far the work is that is under way.
    pub progress: Option<WorkProgress>,
    /// Why it is not usable, or why the last work was given up.
    pub error: Option<Problem>,
    /// What is known of its kind.
    #[serde(flatten)]
    pub facts: F,
}

/// What a deletion did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Deleted {
    /// What was deleted.
    pub name: String,
    /// Files and folders that were removed.
    pub files: u64,
    /// Bytes that this freed.
    pub bytes_freed: u64,
}

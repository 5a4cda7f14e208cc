//! What is known of models and datasets.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What is known of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ModelFacts {
    /// From its config alone.
    pub description: Option<ModelDescription>,
    /// From its weights and tokenizer, once they were read.
    pub check: Option<ModelCheck>,
}

/// What `config.json` says about a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelDescription {
    /// `model_type`.
    pub family: String,
    /// The first of `architectures`, where the config names one.
    pub architecture: Option<String>,
    /// Weights and biases; a tied unembedding counts once.
    pub parameters: u64,
    /// Blocks.
    pub layers: u64,
    /// Width of the residual stream.
    pub hidden_size: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Inner width of the MLP.
    pub intermediate_size: u64,
    /// Rows of the embedding.
    pub vocab_size: u64,
    /// The longest context that the model was made for.
    pub context: u64,
    /// Whether no longer context can be computed.
    pub context_is_limit: bool,
    /// Every place where activations can be taken, in the order of computation.
    pub hook_points: Vec<String>,
    /// Memory that work with it needs.
    pub memory: MemoryNeeds,
    /// Bytes of the files in its folder.
    pub disk_bytes: Option<u64>,
}

/// Estimates in bytes, before anything large is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MemoryNeeds {
    /// Its weights as they are computed with.
    pub load: u64,
    /// The weights and a forward pass.
    pub capture: u64,
    /// A whole training run.
    pub training: u64,
    /// The run that `capture` and `training` are for.
    pub assumed: Assumed,
}

/// Settings that an estimate is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Assumed {
    /// Latents of the autoencoder.
    pub d_sae: u64,
    /// Active latents a token.
    pub k: u64,
    /// Tokens of a step.
    pub batch_size: u64,
    /// Tokens of a context.
    pub context_size: u64,
    /// Contexts in the model at once.
    pub lm_batch: u64,
}

/// What reading the whole of a model found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelCheck {
    /// Tensors in its files.
    pub tensors: u64,
    /// How they are stored: `F32`, `BF16`, ….
    pub dtypes: Vec<String>,
    /// Special tokens of its tokenizer.
    pub special_tokens: u64,
    /// How long it took.
    pub seconds: f64,
}

/// What is known of a dataset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DatasetFacts {
    /// The column that holds the text.
    pub text_column: String,
    /// What reading it found.
    pub report: Option<DataReport>,
    /// Tokenised for models.
    pub token_sets: Vec<TokenSetFacts>,
}

/// What reading the whole of a dataset found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DataReport {
    /// Whether every row can be used.
    pub valid: bool,
    /// Files that were read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their formats: `txt`, `jsonl`, `csv`, `parquet`.
    pub formats: Vec<String>,
    /// Columns of all files together; of `.jsonl` files those of the first rows.
    pub columns: Vec<String>,
    /// How the text is encoded.
    pub encoding: String,
    /// Rows, those that cannot be used included.
    pub rows: u64,
    /// Rows without any text.
    pub empty_rows: u64,
    /// Rows whose text was there before; at least, where `duplicates_exact` is false.
    pub duplicate_rows: u64,
    /// Whether all rows were compared: only so many are remembered.
    pub duplicates_exact: bool,
    /// Lengths of the texts that are not empty, where there is one.
    pub lengths: Option<Lengths>,
    /// Rows and files that cannot be used.
    pub faulty: u64,
    /// The first of them.
    pub faults: Vec<RowFault>,
    /// How long it took.
    pub seconds: f64,
}

/// Lengths of texts in characters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Lengths {
    /// The shortest.
    pub min: u64,
    /// Half are at most this long, to three digits.
    pub median: u64,
    /// The mean.
    pub mean: f64,
    /// 95 of 100 are at most this long, to three digits.
    pub p95: u64,
    /// The longest.
    pub max: u64,
}

/// A row that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RowFault {
    /// Its file.
    pub file: PathBuf,
    /// Its number, from 1; none where the whole file is meant.
    pub row: Option<u64>,
    /// The stable code.
    pub code: String,
    /// What is wrong.
    pub reason: String,
}

/// A dataset tokenised for a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenSetFacts {
    /// A hash of everything that decides its content.
    pub key: String,
    /// The model's name.
    pub model: String,
    /// Every setting of `[data]` that it was made with, but the path.
    pub settings: serde_json::Value,
    /// Its file.
    pub file: PathBuf,
    /// Bytes of the file.
    pub bytes: u64,
    /// Documents with at least one token.
    pub documents: u64,
    /// Documents without any.
    pub empty_documents: u64,
    /// Tokens of the text.
    pub tokens: u64,
    /// Mean tokens of a document.
    pub mean_document: f64,
    /// Contexts.
    pub contexts: u64,
    /// Those that are kept out of training.
    pub held_out: u64,
    /// Tokens that one pass trains on.
    pub training_tokens: u64,
    /// Positions without a token.
    pub pads: u64,
    /// Whether it was there already.
    pub reused: bool,
    /// How long it took.
    pub seconds: f64,
}

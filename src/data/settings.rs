//! The `[data]` table of `run.toml`: which text, and how it becomes contexts.

use crate::domain::{Code, Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// Longest context that is accepted, in tokens.
pub const MAX_CONTEXT: usize = 1 << 20;

/// Which text a run reads, and how it is cut into contexts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSettings {
    /// `.txt`, `.jsonl`, `.csv` or `.parquet` files, or folders that are searched for them:
    /// one, or a list that is read in its order.
    pub path: Paths,
    /// The column (or key) that holds the text in `.jsonl`, `.csv` and `.parquet` files.
    #[serde(default = "text")]
    pub text_column: String,
    /// Tokens in a context, the BOS included.
    #[serde(default = "context_size")]
    pub context_size: usize,
    /// Tokens at the end of a context that the next one repeats (`packing = "concat"`), so
    /// that what follows has something before it. They are trained on once.
    #[serde(default)]
    pub stride: usize,
    /// How documents fill contexts.
    #[serde(default)]
    pub packing: Packing,
    /// The token between two documents that share a context (`packing = "concat"`).
    #[serde(default)]
    pub separator: Separator,
    /// Whether every context begins with the BOS token.
    #[serde(default = "yes")]
    pub prepend_bos: bool,
    /// Tokens whose activations are not trained on, besides pads and BOS.
    #[serde(default)]
    pub exclude_special_tokens: ExcludeTokens,
    /// Share of the contexts that is kept out of training for evaluation, 0 to 0.5. Above 0
    /// at least one context is held out.
    #[serde(default = "holdout")]
    pub holdout: f64,
}

fn text() -> String {
    "text".into()
}
fn context_size() -> usize {
    128
}
fn yes() -> bool {
    true
}
fn holdout() -> f64 {
    0.01
}

/// One path or several, in TOML a string or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OneOrMany", into = "OneOrMany")]
pub struct Paths(pub Vec<PathBuf>);

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a path or a list of paths")]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

impl From<OneOrMany> for Paths {
    fn from(paths: OneOrMany) -> Self {
        match paths {
            OneOrMany::One(path) => Self(vec![path]),
            OneOrMany::Many(paths) => Self(paths),
        }
    }
}

impl From<Paths> for OneOrMany {
    fn from(Paths(mut paths): Paths) -> Self {
        match paths.len() {
            1 => Self::One(paths.remove(0)),
            _ => Self::Many(paths),
        }
    }
}

impl fmt::Display for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, path) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}", path.display())?;
        }
        Ok(())
    }
}

/// How documents fill contexts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Documents one after another, a separator between them, cut every `context_size`
    /// tokens; only the last context of all may be padded.
    #[default]
    Concat,
    /// One document a context: cut at `context_size` tokens, or padded to it.
    OnePerContext,
}

/// The token between two documents: `"eos"`, `"bos"`, `"none"` or a token's own text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Separator {
    /// The model's end-of-text token.
    #[default]
    Eos,
    /// The model's beginning-of-text token.
    Bos,
    /// Nothing.
    None,
    /// The token with this text, e.g. `<|endoftext|>`.
    Token(String),
}

impl From<String> for Separator {
    fn from(name: String) -> Self {
        match name.as_str() {
            "eos" => Self::Eos,
            "bos" => Self::Bos,
            "none" => Self::None,
            _ => Self::Token(name),
        }
    }
}

impl From<Separator> for String {
    fn from(separator: Separator) -> Self {
        match separator {
            Separator::Eos => "eos".into(),
            Separator::Bos => "bos".into(),
            Separator::None => "none".into(),
            Separator::Token(name) => name,
        }
    }
}

/// Tokens that are left out of training besides pads and BOS: `true` for every special
/// token of the tokenizer, or a list of token ids and texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected true, false, or a list of token ids and token texts"
)]
pub enum ExcludeTokens {
    /// Every special token of the tokenizer, or none.
    All(bool),
    /// These.
    Chosen(Vec<TokenName>),
}

impl Default for ExcludeTokens {
    fn default() -> Self {
        Self::All(false)
    }
}

/// A token by its id or by its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a token id or a token's text")]
pub enum TokenName {
    /// Its id.
    Id(u32),
    /// Its text in the vocabulary.
    Text(String),
}

/// What the language model's `config.json` says about tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelTokens {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// The beginning-of-text token.
    pub bos: Option<u32>,
    /// The end-of-text token.
    pub eos: Option<u32>,
    /// The padding token. Pads are masked, so that any token serves where there is none.
    pub pad: Option<u32>,
}

impl TokenSettings {
    /// Settings for `path` with the defaults of `run.toml`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: Paths(vec![path.into()]),
            text_column: text(),
            context_size: context_size(),
            stride: 0,
            packing: Packing::default(),
            separator: Separator::default(),
            prepend_bos: yes(),
            exclude_special_tokens: ExcludeTokens::default(),
            holdout: holdout(),
        }
    }

    /// Checks the values on their own.
    ///
    /// # Errors
    /// `config-invalid`, about the key (`data.…`).
    pub fn validate(&self) -> Result<()> {
        let bad = |key: &str, message: String| {
            Err(Error::new(
                Code::ConfigInvalid,
                format_args!("data.{key}"),
                message,
            ))
        };
        let least = 1 + usize::from(self.prepend_bos);
        if !(least..=MAX_CONTEXT).contains(&self.context_size) {
            return bad(
                "context_size",
                format!(
                    "{} is outside of {least} to {MAX_CONTEXT}",
                    self.context_size
                ),
            );
        }
        let most = self.context_size - least;
        if self.stride > most {
            let message = format!(
                "{} leaves no room for another token in a context; it may be {most}",
                self.stride
            );
            return bad("stride", message);
        }
        if self.stride > 0 && self.packing != Packing::Concat {
            let message = "needs packing = \"concat\": a document of its own is cut and not \
                           continued";
            return bad("stride", message.into());
        }
        if self.text_column.is_empty() {
            return bad("text_column", "is empty; name a column".into());
        }
        let empty = |path: &PathBuf| path.as_os_str().is_empty();
        if self.path.0.is_empty() || self.path.0.iter().any(empty) {
            return bad("path", "is empty; name a text file or a folder".into());
        }
        if !(0.0..=0.5).contains(&self.holdout) {
            return bad(
                "holdout",
                format!("{} is outside of 0 to 0.5", self.holdout),
            );
        }
        Ok(())
    }
}

//! Models and datasets that the daemon knows: their names, where they stand, and what is
//! known of them.

mod facts;
mod state;

pub use facts::{
    Assumed, DataReport, DatasetFacts, Lengths, MemoryNeeds, ModelCheck, ModelDescription,
    ModelFacts, RowFault, TokenSetFacts,
};
pub use state::{AssetState, Moved, Step, Work};

use super::{Code, Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AssetKind {
    /// A language model.
    Model,
    /// A dataset.
    Dataset,
}

impl AssetKind {
    /// As users and the store see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
        }
    }

    /// The name that `path` refers to, where it is a reference and no path: `model:NAME`,
    /// `dataset:NAME`.
    ///
    /// # Errors
    /// `usage` where what follows the colon is no name.
    pub fn reference(self, path: &Path) -> Result<Option<AssetName>> {
        let name = path
            .to_str()
            .and_then(|text| text.strip_prefix(self.as_str())?.strip_prefix(':'));
        name.map(str::parse).transpose()
    }
}

impl fmt::Display for AssetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Longest name in bytes.
const MAX_NAME: usize = 100;

/// What a model or dataset is called: one plain component of a path, and of a URL.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct AssetName(String);

impl AssetName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AssetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for AssetName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_name = (1..=MAX_NAME).contains(&text.len())
            && text.chars().all(plain)
            && !text.starts_with(['.', '-']);
        if is_name {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(MAX_NAME).collect();
        let message = format_args!("{shown:?} is no name of a model or dataset");
        Err(Error::new(Code::Usage, "name", message).hint(format_args!(
            "use letters, digits, `-`, `_`, `.`: at most {MAX_NAME}, the first a letter or digit"
        )))
    }
}

impl TryFrom<String> for AssetName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<AssetName> for String {
    fn from(name: AssetName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_else() {
        for good in ["gpt2", "SmolLM2-135M", "a.b_c-9", &"x".repeat(MAX_NAME)] {
            assert_eq!(good.parse::<AssetName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "/etc/passwd",
            "a/b",
            "a\\b",
            "a\0b",
            "a\nb",
            "a\u{1b}[31m",
            "a\u{202e}b",
            ".hidden",
            "-rf",
            "a b",
            "a%2e",
            "ä",
            &"x".repeat(MAX_NAME + 1),
        ] {
            let error = bad.parse::<AssetName>().unwrap_err();
            assert_eq!(error.code, Code::Usage);
            assert!(!error.to_string().contains(['\n', '\u{1b}', '\0']));
        }
    }

    #[test]
    fn a_reference_is_told_from_a_path() {
        let model = |path: &str| AssetKind::Model.reference(Path::new(path));
        assert_eq!(
            model("model:gpt2").unwrap().map(String::from).as_deref(),
            Some("gpt2")
        );
        assert_eq!(model("dataset:gpt2").unwrap(), None);
        assert_eq!(model("./model:gpt2").unwrap(), None);
        assert_eq!(model("models/gpt2").unwrap(), None);
        assert!(model("model:../gpt2").is_err());
    }
}

//! The `[data]` settings of a request to tokenise.

use super::file::ConfigFile;
use crate::data::TokenSettings;
use crate::domain::{Code, Error, Result};
use serde_json::Value;
use std::path::PathBuf;

/// Where the text lies, and what is asked for beside the defaults.
pub struct TokenRequest<'a> {
    /// A file or folder.
    pub path: PathBuf,
    /// The column that holds the text.
    pub text_column: String,
    /// Settings of the form `key=value`.
    pub set: &'a [String],
}

impl TokenRequest<'_> {
    /// Every setting with its value, as JSON.
    ///
    /// # Errors
    /// `usage`, `config-invalid`, by the key.
    pub fn resolve(self) -> Result<Value> {
        for item in self.set {
            let key = item.split('=').next().unwrap_or_default().trim();
            if key == "path" || key == "text_column" {
                let message = "belongs to the dataset, and is not set for one model";
                return Err(Error::new(
                    Code::Usage,
                    format_args!("--set {item}"),
                    message,
                ));
            }
        }
        let settings = TokenSettings {
            text_column: self.text_column,
            ..TokenSettings::new(self.path)
        };
        let internal = |e: &dyn std::fmt::Display| Error::new(Code::Internal, "settings", e);
        let defaults = toml::to_string(&settings).map_err(|e| internal(&e))?;
        let file = ConfigFile::parse("data", defaults, self.set)?;
        let settings: TokenSettings = file.decode()?;
        settings.validate()?;
        serde_json::to_value(settings).map_err(|e| internal(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_replaces_defaults_and_nothing_else_can_be_set() {
        let ask = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|&item| item.to_owned()).collect();
            let request = TokenRequest {
                path: "/text.jsonl".into(),
                text_column: "body".into(),
                set: &set,
            };
            request.resolve()
        };
        let settings = ask(&["context_size=64", "packing=one_per_context"]).unwrap();
        assert_eq!(settings["context_size"], 64);
        assert_eq!(settings["packing"], "one_per_context");
        assert_eq!(settings["text_column"], "body");
        assert_eq!(settings["holdout"], 0.01);
        for (set, code) in [
            ("context_size=0", Code::ConfigInvalid),
            ("context=64", Code::ConfigInvalid),
            ("path=/etc/passwd", Code::Usage),
            ("text_column=x", Code::Usage),
            ("packing", Code::Usage),
        ] {
            assert_eq!(ask(&[set]).unwrap_err().code, code, "{set}");
        }
    }
}

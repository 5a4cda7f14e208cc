//! A TOML file with overrides, read so that every error names file, line and key.

use crate::domain::{Code, Error, Result};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::path::Path;
use toml::{Table, Value};

/// A parsed TOML file; `--set` overrides are merged in.
pub struct ConfigFile {
    name: String,
    text: String,
    table: Table,
}

impl ConfigFile {
    /// Reads `path` and applies `overrides` of the form `key.path=value`.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::new(
                Code::ConfigMissing,
                path.display(),
                format_args!("cannot be read: {e}"),
            )
            .hint("give the path of a run.toml, e.g. examples/quickstart/run.toml")
        })?;
        Self::parse(&path.display().to_string(), text, overrides)
    }

    /// As [`ConfigFile::read`], from `text`; `name` stands in errors.
    pub fn parse(name: &str, text: String, overrides: &[String]) -> Result<Self> {
        let mut table: Table = toml::from_str(&text).map_err(|e: toml::de::Error| {
            let line = e.span().map_or(1, |s| line_at(&text, s.start));
            Error::new(
                Code::ConfigInvalid,
                format_args!("{name}:{line}"),
                e.message().lines().next().unwrap_or("not valid TOML"),
            )
        })?;
        for item in overrides {
            apply(&mut table, item)?;
        }
        Ok(Self {
            name: name.to_owned(),
            text,
            table,
        })
    }

    /// Reads `path`, where one is given, and lets `variables` named `PREFIX_TABLE__KEY`
    /// replace its values.
    ///
    /// # Errors
    /// As [`ConfigFile::read`].
    pub fn layered(
        path: Option<&Path>,
        prefix: &str,
        variables: HashMap<String, String>,
    ) -> Result<Self> {
        let mut file = match path {
            Some(path) => Self::read(path, &[])?,
            None => Self::parse("the built-in defaults", String::new(), &[])?,
        };
        let invalid = |e: config::ConfigError| Error::new(Code::ConfigInvalid, &file.name, e);
        let environment = config::Environment::with_prefix(prefix)
            .prefix_separator("_")
            .separator("__")
            .try_parsing(true)
            .source(Some(variables));
        file.table = config::Config::builder()
            .add_source(config::File::from_str(&file.text, config::FileFormat::Toml))
            .add_source(environment)
            .build()
            .and_then(config::Config::try_deserialize)
            .map_err(invalid)?;
        Ok(file)
    }

    /// The typed content. Unknown keys and wrong types are errors.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        let value = Value::Table(self.table.clone());
        serde_path_to_error::deserialize(value).map_err(|e| {
            let mut key = e.path().to_string();
            let message = e.inner().message().trim().replace('\n', " ");
            if let Some(field) = quoted(&message, "unknown field `")
                && key.rsplit('.').next() != Some(field)
            {
                key = if key == "." {
                    field.to_owned()
                } else {
                    format!("{key}.{field}")
                };
            }
            self.invalid(&key, message)
        })
    }

    /// An error about `key` (dotted), with the line where it stands if it does.
    pub fn invalid(&self, key: &str, message: impl std::fmt::Display) -> Error {
        Error::new(Code::ConfigInvalid, self.place(key), message)
    }

    /// `key` (dotted) with the file, and the line where it stands if it does.
    pub fn place(&self, key: &str) -> String {
        match line_of(&self.text, key) {
            Some(line) => format!("{}:{line}: {key}", self.name),
            None => format!("{}: {key}", self.name),
        }
    }
}

/// Merges one `key.path=value`; the value is TOML, or a bare string.
fn apply(table: &mut Table, item: &str) -> Result<()> {
    let bad = |message: &str| Error::new(Code::Usage, format_args!("--set {item}"), message);
    let (path, text) = item
        .split_once('=')
        .ok_or_else(|| bad("is not of the form key=value"))?;
    let value = toml::from_str::<Table>(&format!("v = {}", text.trim()))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| Value::String(text.trim().to_owned()));
    let mut keys: Vec<&str> = path.split('.').map(str::trim).collect();
    let last = keys.pop().unwrap_or_default();
    if last.is_empty() || keys.iter().any(|k| k.is_empty()) {
        return Err(bad("has an empty key"));
    }
    let mut place = table;
    for key in keys {
        place = place
            .entry(key)
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()
            .ok_or_else(|| bad("goes through a key that is not a table"))?;
    }
    place.insert(last.to_owned(), value);
    Ok(())
}

fn quoted<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    let rest = &text[text.find(before)? + before.len()..];
    rest.split('`').next()
}

fn line_at(text: &str, byte: usize) -> usize {
    1 + text.as_bytes()[..byte.min(text.len())]
        .iter()
        .filter(|b| **b == b'\n')
        .count()
}

/// The line on which the dotted `key` is set; for a missing key, that of its table. Tables of
/// an array are counted: `handlers[1].name`.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let clean = |s: &str| s.trim().trim_matches('"').to_owned();
    let is_array = |name: &str| text.lines().any(|l| clean_header(l) == Some((name, true)));
    // An index that is no table's is that of a value within its line.
    let key = match key.split_once('[') {
        Some((array, _)) if !is_array(array) => array,
        _ => key,
    };
    let parent = key.rsplit_once('.').map_or("", |(p, _)| p);
    let (mut section, mut parent_line) = (String::new(), None);
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some((name, array)) = clean_header(line) {
            section = name.to_owned();
            if array {
                let count = seen.entry(section.clone()).or_default();
                section = format!("{section}[{count}]");
                *count += 1;
            }
            if section == key {
                return Some(index + 1);
            }
            if section == parent {
                parent_line = Some(index + 1);
            }
        } else if let Some((name, _)) = line.split_once('=') {
            let name = clean(name);
            let full = if section.is_empty() {
                name
            } else {
                format!("{section}.{name}")
            };
            // Also where the error is about an item of it.
            if full == key
                || key
                    .strip_prefix(&full)
                    .is_some_and(|rest| rest.starts_with('['))
            {
                return Some(index + 1);
            }
        }
    }
    parent_line
}

/// The name in a table's header, and whether the table is one of an array.
fn clean_header(line: &str) -> Option<(&str, bool)> {
    let line = line.trim();
    let inner = line.strip_prefix('[')?;
    let array = inner.starts_with('[');
    let name = inner.trim_start_matches('[').split(']').next()?;
    Some((name.trim().trim_matches('"'), array))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        name: String,
        sae: Inner,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        k: usize,
        #[serde(default)]
        lr: f64,
    }

    fn decode(text: &str, overrides: &[&str]) -> Result<Outer> {
        let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
        ConfigFile::parse("run.toml", text.to_owned(), &overrides)?.decode()
    }

    #[test]
    fn overrides_replace_and_add() {
        let outer = decode(
            "name = \"a\"\n[sae]\nk = 4\n",
            &["sae.k=8", "sae.lr=0.5", "name=b c"],
        );
        let expected = Outer {
            name: "b c".into(),
            sae: Inner { k: 8, lr: 0.5 },
        };
        assert_eq!(outer.unwrap(), expected);
        let error = decode("name = \"a\"\n[sae]\nk = 4\n", &["sae.k"]).unwrap_err();
        assert_eq!(error.code, Code::Usage);
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let cases = [
            ("name = \"a\"\n[sae]\nk = \"x\"\n", "run.toml:3: sae.k"),
            ("name = \"a\"\n[sae]\nk = 4\nkk = 5\n", "run.toml:4: sae.kk"),
            ("name = \"a\"\n[sae]\n\n", "run.toml:2: sae"),
            ("name = \"a\"\nnick = 1\n[sae]\nk = 4\n", "run.toml:2: nick"),
            ("name = \"a\"\n[sae\nk = 4\n", "run.toml:2"),
        ];
        for (text, about) in cases {
            let error = decode(text, &[]).unwrap_err();
            assert_eq!(error.about, about, "{error}");
            assert_eq!(error.code, Code::ConfigInvalid);
            assert!(!error.message.contains('\n'), "{error}");
        }
    }
}

//! Typed access to `config.json`, with errors that name file, key and value.

use crate::domain::{Code, Error, Result};
use serde_json::{Map, Value};
use std::fmt::Display;
use std::path::Path;

/// Largest dimension that is believed.
const MAX_SIZE: u64 = 1 << 24;

/// The keys of one JSON object of the file. A null counts as absent.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    path: &'a Path,
    /// The object's key in the file, where it is not the whole.
    parents: [Option<&'a str>; 2],
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self {
            path,
            parents: [None, None],
            map,
        }
    }

    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.map.keys().map(String::as_str)
    }

    pub fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key stands in the file, with null too.
    pub fn mentions(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    fn about(&self, key: &str) -> String {
        let parents: String = self
            .parents
            .iter()
            .flatten()
            .map(|p| format!("{p}."))
            .collect();
        format!("{}: {parents}{key}", self.path.display())
    }

    /// The key's value cannot be what it should be.
    pub fn invalid(&self, key: &str, message: impl Display) -> Error {
        Error::new(Code::ModelConfigInvalid, self.about(key), message)
    }

    /// The key asks for something that is not computed here.
    pub fn unsupported(&self, key: &str, message: impl Display) -> Error {
        let value = self.value(key).map_or("null".into(), shown);
        Error::new(
            Code::ModelUnsupported,
            self.about(key),
            format_args!("{value} {message}"),
        )
    }

    fn wrong_type(&self, key: &str, value: &Value, expected: &str) -> Error {
        self.invalid(key, format_args!("{} is not {expected}", shown(value)))
    }

    /// A positive whole number.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(n) if (1..=MAX_SIZE).contains(&n) => Ok(Some(n as usize)),
            _ => Err(self.wrong_type(key, value, &format!("a whole number from 1 to {MAX_SIZE}"))),
        }
    }

    /// A positive whole number under the first of `keys` that is there.
    pub fn need_size(&self, keys: &[&str]) -> Result<usize> {
        for key in keys {
            if let Some(n) = self.size(key)? {
                return Ok(n);
            }
        }
        Err(self.invalid(keys[0], "is missing"))
    }

    /// A whole number that may be zero.
    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(n) if n <= MAX_SIZE => Ok(Some(n as usize)),
            _ => Err(self.wrong_type(key, value, &format!("a whole number from 0 to {MAX_SIZE}"))),
        }
    }

    /// A finite number above zero.
    pub fn positive(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(v) if v.is_finite() && v > 0.0 => Ok(Some(v)),
            _ => Err(self.wrong_type(key, value, "a number above 0")),
        }
    }

    pub fn need_positive(&self, key: &str) -> Result<f64> {
        self.positive(key)?
            .ok_or_else(|| self.invalid(key, "is missing"))
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match value {
            Value::Bool(flag) => Ok(Some(*flag)),
            _ => Err(self.wrong_type(key, value, "true or false")),
        }
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match value {
            Value::String(text) => Ok(Some(text)),
            _ => Err(self.wrong_type(key, value, "a text")),
        }
    }

    pub fn list(&self, key: &str) -> Result<Option<&'a [Value]>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match value {
            Value::Array(items) => Ok(Some(items)),
            _ => Err(self.wrong_type(key, value, "a list")),
        }
    }

    pub fn object(&self, key: &'a str) -> Result<Option<Fields<'a>>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match value {
            Value::Object(map) => Ok(Some(Fields {
                path: self.path,
                parents: match self.parents[0] {
                    None => [Some(key), None],
                    outer => [outer, Some(key)],
                },
                map,
            })),
            _ => Err(self.wrong_type(key, value, "an object")),
        }
    }
}

/// A value, fit for one line of a message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

//! `.jsonl`: one JSON object a line; blank lines are passed over.

use super::{MAX_ROW, Sink, bad_row, no_column, not_utf8, shown, whole};
use crate::domain::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Rows whose keys count as columns of the file.
const FIRST: u64 = 100;

pub(super) fn read(path: &Path, column: &str, sink: &mut dyn Sink) -> Result<()> {
    let fail = |e: std::io::Error| Error::read(path, &e);
    let mut file = BufReader::with_capacity(256 << 10, File::open(path).map_err(fail)?);
    let (mut line, mut row, mut before) = (Vec::new(), 0_u64, 0_u64);
    loop {
        line.clear();
        let n = (&mut file)
            .take(MAX_ROW + 1)
            .read_until(b'\n', &mut line)
            .map_err(fail)? as u64;
        if n == 0 {
            return Ok(());
        }
        row += 1;
        if n > MAX_ROW {
            let message = format_args!("the line is longer than {MAX_ROW} bytes");
            sink.bad(row, bad_row(path, row, message))?;
            before += n + skip_line(&mut file).map_err(fail)?;
            continue;
        }
        let text = match std::str::from_utf8(&line) {
            Ok(text) => text,
            Err(e) => {
                let byte = before + e.valid_up_to() as u64;
                sink.bad(row, not_utf8(path, format_args!(": row {row}"), byte))?;
                before += n;
                continue;
            }
        };
        let text = if row == 1 {
            text.trim_start_matches('\u{feff}')
        } else {
            text
        };
        before += n;
        if text.trim().is_empty() {
            continue;
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let found = TextOf(column)
            .deserialize(&mut json)
            .and_then(|found| json.end().map(|()| found));
        if row <= FIRST {
            sink.columns(&|| keys(text));
        }
        match found {
            Ok(Some(document)) => whole(sink, &document)?,
            Ok(None) => sink.bad(row, missing(path, column, row, text))?,
            Err(e) => sink.bad(row, bad_row(path, row, reason(&e)))?,
        }
    }
}

/// Passes over what is left of a line; returns its bytes.
fn skip_line(file: &mut impl BufRead) -> std::io::Result<u64> {
    let mut skipped = 0;
    loop {
        let block = file.fill_buf()?;
        let end = block.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(block.len(), |at| at + 1);
        let is_over = end.is_some() || block.is_empty();
        file.consume(used);
        skipped += used as u64;
        if is_over {
            return Ok(skipped);
        }
    }
}

fn keys(text: &str) -> Vec<String> {
    let keys: BTreeMap<String, IgnoredAny> = serde_json::from_str(text).unwrap_or_default();
    keys.into_keys().collect()
}

fn missing(path: &Path, column: &str, row: u64, text: &str) -> Error {
    let keys = keys(text);
    let mut error = no_column(path, column, keys.iter().map(String::as_str));
    error.about = format!("{}: row {row}", path.display());
    error
}

/// A parser's message without its position, which counts from the start of the row.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    format!("{} (column {})", shown(text), error.column())
}

/// Finds the string under one key of an object and skips all else without storing it.
struct TextOf<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for TextOf<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TextOf<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                found = Some(map.next_value::<String>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

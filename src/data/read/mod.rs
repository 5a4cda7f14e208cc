//! Files as streams of documents. A reader holds one row, or one block of a text file, at a
//! time; whatever it cannot read is an error that names the file and the row.

mod csv;
mod jsonl;
mod parquet;
#[cfg(test)]
pub(super) mod tests;
mod text;

use super::sources::{Format, Source};
use crate::domain::{Code, Error, Result};
use std::path::Path;

/// Longest row of a `.jsonl` or `.csv` file, in bytes: what a missing quote or line end may
/// make the reader hold.
const MAX_ROW: u64 = 64 << 20;

/// How messages say that text is not UTF-8.
pub(super) const NOT_UTF8: &str = "not valid UTF-8";

/// Takes documents as they are read.
pub(super) trait Sink {
    /// The next part of the current document.
    fn text(&mut self, part: &str) -> Result<()>;
    /// The current document ends here.
    fn end_document(&mut self) -> Result<()>;
    /// The columns of a file, or of one of its first rows.
    fn columns(&mut self, _names: &dyn Fn() -> Vec<String>) {}
    /// A row cannot be used. Reading ends with the error that is returned, and else goes on
    /// with the next row.
    fn bad(&mut self, _row: u64, error: Error) -> Result<()> {
        Err(error)
    }
}

/// Feeds the documents of `source` to `sink`; `column` holds the text of a row.
///
/// # Errors
/// `data-row-invalid`, `data-column-missing`, `io-read`, and those of `sink`.
pub(super) fn documents(source: &Source, column: &str, sink: &mut dyn Sink) -> Result<()> {
    match source.format {
        Format::Text => text::read(&source.path, sink),
        Format::JsonLines => jsonl::read(&source.path, column, sink),
        Format::Csv => csv::read(&source.path, column, sink),
        Format::Parquet => parquet::read(&source.path, column, sink),
    }
}

fn whole(sink: &mut dyn Sink, text: &str) -> Result<()> {
    sink.text(text)?;
    sink.end_document()
}

fn bad_row(path: &Path, row: u64, message: impl std::fmt::Display) -> Error {
    Error::new(
        Code::DataRowInvalid,
        format_args!("{}: row {row}", path.display()),
        message,
    )
    .hint("correct or remove the row")
}

fn not_utf8(path: &Path, place: impl std::fmt::Display, byte: u64) -> Error {
    Error::new(
        Code::DataRowInvalid,
        format_args!("{}{place}", path.display()),
        format_args!("{NOT_UTF8} at byte {byte} of the file"),
    )
    .hint("convert the file to UTF-8")
}

fn no_column<'a>(path: &Path, column: &str, columns: impl IntoIterator<Item = &'a str>) -> Error {
    let names: Vec<String> = columns.into_iter().take(20).map(shown).collect();
    Error::new(
        Code::DataColumnMissing,
        path.display(),
        format_args!(
            "it has no column `{}`; its columns are {}",
            shown(column),
            if names.is_empty() {
                "none".into()
            } else {
                names.join(", ")
            }
        ),
    )
    .hint("set data.text_column")
}

/// A name or value from a file, fit for one line of a message.
fn shown(text: &str) -> String {
    let mut short: String = text
        .chars()
        .take(60)
        .flat_map(|c| {
            let escape = c.is_control().then(|| c.escape_default());
            let plain = escape.is_none().then_some(c);
            escape.into_iter().flatten().chain(plain)
        })
        .collect();
    if text.chars().nth(60).is_some() {
        short.push('…');
    }
    short
}

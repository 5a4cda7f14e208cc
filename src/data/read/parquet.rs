//! `.parquet`: the pages of one column, a row group at a time.

use super::{NOT_UTF8, Sink, bad_row, no_column, shown, whole};
use crate::domain::{Code, Error, Result};
use parquet::basic::Type;
use parquet::column::reader::ColumnReader;
use parquet::errors::Result as ParquetResult;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Rows that are decoded at once.
const ROWS: usize = 64;

pub(super) fn read(path: &Path, column: &str, sink: &mut dyn Sink) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::read(path, &e))?;
    let reader = guarded(|| SerializedFileReader::new(file)).map_err(|e| damaged(path, e))?;
    sink.columns(&|| column_names(&reader));
    let at = column_index(path, column, &reader)?;
    // Definition level of a value that is there.
    let full = schema(&reader).column(at).max_def_level();
    let mut row = 0;
    for group in 0..reader.num_row_groups() {
        let pages = guarded(|| reader.get_row_group(group)?.get_column_reader(at));
        let ColumnReader::ByteArrayColumnReader(mut pages) =
            pages.map_err(|e| bad_row(path, row + 1, e))?
        else {
            return Err(damaged(path, "its row groups disagree about the column"));
        };
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        loop {
            levels.clear();
            values.clear();
            let (rows, _, _) =
                guarded(|| pages.read_records(ROWS, Some(&mut levels), None, &mut values))
                    .map_err(|e| bad_row(path, row + 1, e))?;
            if rows == 0 {
                break;
            }
            let mut values = values.iter();
            for at in 0..rows {
                row += 1;
                // A column that cannot hold a null has no levels.
                let is_there = levels.get(at).is_none_or(|&level| level >= full);
                let value = is_there.then(|| values.next()).flatten();
                match value.map(|value| std::str::from_utf8(value.data())) {
                    Some(Ok(text)) => whole(sink, text)?,
                    Some(Err(_)) => {
                        let message = format_args!("the text is {NOT_UTF8}");
                        sink.bad(row, bad_row(path, row, message))?;
                    }
                    None => sink.bad(row, bad_row(path, row, "the text is null"))?,
                }
            }
        }
    }
    Ok(())
}

fn schema(reader: &SerializedFileReader<File>) -> &SchemaDescriptor {
    reader.metadata().file_metadata().schema_descr()
}

fn column_names(reader: &SerializedFileReader<File>) -> Vec<String> {
    let columns = schema(reader);
    (0..columns.num_columns())
        .map(|at| columns.column(at).path().string())
        .collect()
}

/// The place of the text column among the file's columns.
fn column_index(path: &Path, column: &str, reader: &SerializedFileReader<File>) -> Result<usize> {
    let columns = schema(reader);
    let names = column_names(reader);
    let Some(at) = names.iter().position(|name| name == column) else {
        return Err(no_column(path, column, names.iter().map(String::as_str)));
    };
    let found = columns.column(at);
    if found.physical_type() != Type::BYTE_ARRAY || found.max_rep_level() > 0 {
        let message = format_args!(
            "the column `{}` is {}{}, not text",
            shown(column),
            if found.max_rep_level() > 0 {
                "a list of "
            } else {
                ""
            },
            found.physical_type()
        );
        return Err(Error::new(Code::DataColumnMissing, path.display(), message)
            .hint("set data.text_column"));
    }
    Ok(at)
}

fn damaged(path: &Path, message: impl std::fmt::Display) -> Error {
    Error::new(
        Code::DataRowInvalid,
        path.display(),
        format_args!(
            "not a readable Parquet file: {}",
            shown(&message.to_string())
        ),
    )
    .hint("fetch or write the file again")
}

/// Runs the Parquet library, which panics on some damaged files, and turns that into an
/// error.
fn guarded<T>(run: impl FnOnce() -> ParquetResult<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|e| shown(&e.to_string())),
        Err(_) => Err("the file is damaged".into()),
    }
}

//! `.csv`: comma-separated with a header row, quotes as in RFC 4180.

use super::{MAX_ROW, NOT_UTF8, Sink, bad_row, no_column, whole};
use crate::domain::{Error, Result};
use csv::{ByteRecord, ErrorKind, ReaderBuilder};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;

pub(super) fn read(path: &Path, column: &str, sink: &mut dyn Sink) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::read(path, &e))?;
    let left = Rc::new(Cell::new(MAX_ROW));
    let mut reader = ReaderBuilder::new()
        .buffer_capacity(256 << 10)
        .from_reader(Bounded {
            file,
            left: left.clone(),
        });
    let header = reader
        .byte_headers()
        .map_err(|e| row_error(path, 0, &e))?
        .clone();
    let names = || {
        header
            .iter()
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect::<Vec<_>>()
    };
    sink.columns(&names);
    let Some(at) = header.iter().position(|name| name == column.as_bytes()) else {
        return Err(no_column(path, column, names().iter().map(AsRef::as_ref)));
    };
    let mut record = ByteRecord::new();
    for row in 1.. {
        left.set(MAX_ROW);
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            // The reader stands behind the row, and can go on.
            Err(e) if matches!(e.kind(), ErrorKind::UnequalLengths { .. }) => {
                sink.bad(row, row_error(path, row, &e))?;
                continue;
            }
            Err(e) => return Err(row_error(path, row, &e)),
        }
        match std::str::from_utf8(&record[at]) {
            Ok(text) => whole(sink, text)?,
            Err(_) => {
                let byte = record.position().map_or(0, csv::Position::byte);
                let message = format_args!("{NOT_UTF8} (the row begins at byte {byte})");
                sink.bad(row, bad_row(path, row, message))?;
            }
        }
    }
    Ok(())
}

fn row_error(path: &Path, row: u64, error: &csv::Error) -> Error {
    match error.kind() {
        ErrorKind::Io(e) if e.kind() == io::ErrorKind::FileTooLarge => {
            let message = format_args!("longer than {MAX_ROW} bytes; is a quote missing?");
            bad_row(path, row, message)
        }
        ErrorKind::Io(e) => Error::read(path, e),
        ErrorKind::UnequalLengths {
            pos,
            expected_len,
            len,
        } => {
            let line = pos.as_ref().map_or(0, csv::Position::line);
            let message =
                format_args!("it has {len} fields (line {line}), the header has {expected_len}");
            bad_row(path, row, message)
        }
        _ => bad_row(path, row, error),
    }
}

/// A file of which a row may take `left` bytes.
struct Bounded {
    file: File,
    left: Rc<Cell<u64>>,
}

impl Read for Bounded {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buf)?;
        match self.left.get().checked_sub(n as u64) {
            Some(left) => self.left.set(left),
            None => return Err(io::ErrorKind::FileTooLarge.into()),
        }
        Ok(n)
    }
}

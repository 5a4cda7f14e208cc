//! Every row of a data set looked at: counts, lengths, and what cannot be used. Memory does
//! not grow with the text: lengths are counted to three digits, and only so many rows are
//! remembered to find duplicates.

use super::read::{self, NOT_UTF8, Sink};
use super::sources::{self, Source};
use crate::domain::asset::{DataReport, Lengths, RowFault};
use crate::domain::{Code, Error, Result};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Faults that are listed; all are counted.
const LISTED: usize = 100;
/// Rows that are remembered: as many as a hash table of two million places takes, some
/// 20 MiB.
const REMEMBERED: usize = 1_835_008;
/// Text between two calls of `progress`, in bytes.
const BETWEEN: u64 = 1 << 20;

/// Reads everything below `path`. `progress` is called with the bytes done, of all; an error
/// that it returns ends the work and is returned.
///
/// # Errors
/// `data-missing`, `config-invalid` for a file of another format. What is wrong with rows and
/// files stands in the report.
pub fn survey(
    path: &Path,
    text_column: &str,
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<DataReport> {
    let began = Instant::now();
    let files = sources::find(&[path.to_owned()])?;
    let total = files.iter().map(|file| file.bytes).sum();
    let mut survey = Survey {
        report: DataReport {
            files: files.len() as u64,
            bytes: total,
            duplicates_exact: true,
            ..DataReport::default()
        },
        file: PathBuf::new(),
        seen: HashSet::new(),
        lengths: BTreeMap::new(),
        characters: 0,
        row: Row::default(),
        not_utf8: false,
        done: Done {
            total,
            ..Done::default()
        },
        stopped: false,
        progress,
    };
    for file in &files {
        survey.file(file, text_column)?;
    }
    if let Err(error) = sources::expect_unchanged(&files) {
        survey.fault(None, &error);
    }
    let mut report = survey.finish(path);
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

/// The row that is being read.
#[derive(Default)]
struct Row {
    hasher: blake3::Hasher,
    characters: u64,
    has_text: bool,
}

/// Bytes that were read.
#[derive(Default)]
struct Done {
    total: u64,
    before: u64,
    in_file: u64,
    file: u64,
    told: u64,
}

struct Survey<'a> {
    report: DataReport,
    file: PathBuf,
    seen: HashSet<u64>,
    /// How many texts have a length, rounded to three digits.
    lengths: BTreeMap<u64, u64>,
    characters: u64,
    row: Row,
    not_utf8: bool,
    done: Done,
    /// Whether `progress` asked for the end.
    stopped: bool,
    progress: &'a mut dyn FnMut(u64, u64) -> Result<()>,
}

impl Survey<'_> {
    fn file(&mut self, file: &Source, text_column: &str) -> Result<()> {
        self.file.clone_from(&file.path);
        self.row = Row::default();
        (self.done.in_file, self.done.file) = (0, file.bytes);
        let format = file.format.name().to_owned();
        if !self.report.formats.contains(&format) {
            self.report.formats.push(format);
        }
        match read::documents(file, text_column, self) {
            Err(error) if self.stopped => return Err(error),
            // The rest of the file cannot be read; the next one can.
            Err(error) => self.fault(None, &error),
            Ok(()) => {}
        }
        self.done.before += file.bytes;
        self.done.in_file = 0;
        self.tell()
    }

    fn fault(&mut self, row: Option<u64>, error: &Error) {
        self.report.faulty += 1;
        self.not_utf8 |= error.message.contains(NOT_UTF8);
        if self.report.faults.len() < LISTED {
            self.report.faults.push(RowFault {
                file: self.file.clone(),
                row,
                code: error.code.as_str().to_owned(),
                reason: error.message.clone(),
            });
        }
    }

    fn tell(&mut self) -> Result<()> {
        let done = self.done.before + self.done.in_file.min(self.done.file);
        self.done.told = self.done.in_file;
        (self.progress)(done, self.done.total).inspect_err(|_| self.stopped = true)
    }

    fn finish(mut self, path: &Path) -> DataReport {
        let texts: u64 = self.lengths.values().sum();
        let at_share = |share: f64| {
            let rank = ((texts as f64 * share).ceil() as u64).max(1);
            let mut below = 0;
            let found = self.lengths.iter().find(|(_, count)| {
                below += **count;
                below >= rank
            });
            found.map_or(0, |(length, _)| *length)
        };
        if let Some(lengths) = &mut self.report.lengths {
            lengths.median = at_share(0.5).clamp(lengths.min, lengths.max);
            lengths.p95 = at_share(0.95).clamp(lengths.min, lengths.max);
            lengths.mean = self.characters as f64 / texts as f64;
        } else if self.report.faulty == 0 {
            self.file = path.to_owned();
            let error = Error::new(Code::DataEmpty, "", "there is no text in it");
            self.fault(None, &error);
        }
        let mut report = self.report;
        report.columns.sort();
        report.encoding = if self.not_utf8 { "not UTF-8" } else { "UTF-8" }.to_owned();
        report.valid = report.faulty == 0;
        report
    }
}

impl Sink for Survey<'_> {
    fn text(&mut self, part: &str) -> Result<()> {
        self.row.has_text |= !part.trim().is_empty();
        self.row.characters += part.chars().count() as u64;
        self.row.hasher.update(part.as_bytes());
        self.done.in_file += part.len() as u64;
        match self.done.in_file - self.done.told >= BETWEEN {
            true => self.tell(),
            false => Ok(()),
        }
    }

    fn end_document(&mut self) -> Result<()> {
        let row = std::mem::take(&mut self.row);
        self.report.rows += 1;
        if !row.has_text {
            self.report.empty_rows += 1;
            return Ok(());
        }
        let hash = row.hasher.finalize();
        let hash = hash
            .as_bytes()
            .first_chunk()
            .map(|b| u64::from_le_bytes(*b));
        match hash {
            Some(hash) if self.seen.contains(&hash) => self.report.duplicate_rows += 1,
            Some(hash) if self.seen.len() < REMEMBERED => drop(self.seen.insert(hash)),
            _ => self.report.duplicates_exact = false,
        }
        let length = row.characters;
        self.characters += length;
        *self.lengths.entry(three_digits(length)).or_default() += 1;
        let lengths = self.report.lengths.get_or_insert(Lengths {
            min: length,
            median: 0,
            mean: 0.0,
            p95: 0,
            max: length,
        });
        lengths.min = lengths.min.min(length);
        lengths.max = lengths.max.max(length);
        Ok(())
    }

    fn columns(&mut self, names: &dyn Fn() -> Vec<String>) {
        for name in names() {
            if !self.report.columns.contains(&name) {
                self.report.columns.push(name);
            }
        }
    }

    fn bad(&mut self, row: u64, error: Error) -> Result<()> {
        self.report.rows += 1;
        self.fault(Some(row), &error);
        Ok(())
    }
}

/// `n` rounded to three digits.
fn three_digits(n: u64) -> u64 {
    let mut unit = 1;
    while n / unit >= 1000 {
        unit *= 10;
    }
    (n + unit / 2) / unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &[u8]) -> DataReport {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        survey(&path, "text", &mut |_, _| Ok(())).unwrap()
    }

    /// What is wrong: (row, code, part of the reason).
    fn faults(report: &DataReport) -> Vec<(Option<u64>, &str)> {
        let one = |fault: &'_ RowFault| (fault.row, fault.code.clone());
        report
            .faults
            .iter()
            .map(|fault| (one(fault).0, fault.code.as_str()))
            .collect()
    }

    /// behaviour: data-09
    #[test]
    fn rows_columns_empty_rows_duplicates_and_lengths_are_counted() {
        let rows = r#"{"text":"abcd","id":1}
{"text":"ab","id":2,"more":null}

{"text":"abcd"}
{"text":"  "}
{"text":"abcdefgh"}
"#;
        let report = read("a.jsonl", rows.as_bytes());
        assert!(report.valid && report.duplicates_exact);
        assert_eq!(
            (report.rows, report.empty_rows, report.duplicate_rows),
            (5, 1, 1)
        );
        assert_eq!(report.columns, ["id", "more", "text"]);
        assert_eq!((report.files, report.bytes), (1, rows.len() as u64));
        assert_eq!((&*report.encoding, &*report.formats[0]), ("UTF-8", "jsonl"));
        let lengths = report.lengths.unwrap();
        assert_eq!((lengths.min, lengths.median, lengths.max), (2, 4, 8));
        assert_eq!((lengths.mean, lengths.p95), (4.5, 8));
    }

    /// behaviour: data-08, data-10
    #[test]
    fn every_fault_is_listed_with_its_row_and_the_rows_after_it_are_read() {
        let jsonl = b"{\"text\":\"a\"}\n{\"text\":3}\nnonsense\n{\"other\":\"b\"}\n\xff\n{\"text\":\"c\"}\n";
        let report = read("a.jsonl", jsonl);
        assert!(!report.valid);
        assert_eq!((report.rows, report.faulty), (6, 4));
        assert_eq!(
            faults(&report),
            [
                (Some(2), "data-row-invalid"),
                (Some(3), "data-row-invalid"),
                (Some(4), "data-column-missing"),
                (Some(5), "data-row-invalid"),
            ]
        );
        assert_eq!(report.encoding, "not UTF-8");
        let report = read("a.csv", b"id,text\n1,a\n2\n3,b,c\n4,\xff\n5,d\n");
        assert_eq!((report.rows, report.faulty), (5, 3));
        assert_eq!(
            faults(&report),
            [2, 3, 4].map(|row| (Some(row), "data-row-invalid"))
        );
        assert_eq!(report.columns, ["id", "text"]);
        let report = read("a.csv", b"id,body\n1,a\n");
        assert_eq!(faults(&report), [(None, "data-column-missing")]);
        let report = read("a.parquet", b"PAR1 or not");
        assert_eq!(faults(&report), [(None, "data-row-invalid")]);
        let report = read("a.txt", b"good \xff bad");
        assert_eq!(faults(&report), [(None, "data-row-invalid")]);
        let report = read("a.jsonl", b"{\"text\":\" \"}\n");
        assert_eq!(faults(&report), [(None, "data-empty")]);
    }

    #[test]
    fn many_faults_are_counted_and_some_listed() {
        let report = read("a.jsonl", "x\n".repeat(1000).as_bytes());
        assert_eq!((report.faulty, report.faults.len()), (1000, LISTED));
    }

    /// behaviour: data-04
    #[test]
    fn progress_grows_to_the_whole_and_an_error_of_it_ends_the_work() {
        let dir = tempfile::tempdir().unwrap();
        let row = format!("{{\"text\":\"{}\"}}\n", "x".repeat(1000));
        std::fs::write(dir.path().join("a.jsonl"), row.repeat(5000)).unwrap();
        std::fs::write(dir.path().join("b.txt"), "some text").unwrap();
        let mut told = Vec::new();
        let report = survey(dir.path(), "text", &mut |done, total| {
            told.push((done, total));
            Ok(())
        });
        let whole = report.unwrap().bytes;
        assert!(told.is_sorted() && told.len() > 4);
        assert_eq!(told.last(), Some(&(whole, whole)));
        let stop = &mut |_, _| Err(Error::new(Code::Usage, "", "stop"));
        assert_eq!(
            survey(dir.path(), "text", stop).unwrap_err().code,
            Code::Usage
        );
    }

    #[test]
    fn lengths_are_kept_to_three_digits() {
        for (n, kept) in [
            (0, 0),
            (999, 999),
            (1234, 1230),
            (1235, 1240),
            (99_950, 100_000),
        ] {
            assert_eq!(three_digits(n), kept);
        }
    }
}

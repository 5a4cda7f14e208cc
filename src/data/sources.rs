//! The files of a data set: found, ordered, and identified by their content.

use crate::domain::{Code, Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How a file holds documents; chosen by its extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.txt`: the whole file is one document.
    Text,
    /// `.jsonl`: one JSON object a line.
    JsonLines,
    /// `.csv`: comma-separated, with a header row.
    Csv,
    /// `.parquet`.
    Parquet,
}

impl Format {
    const NAMES: &'static str = ".txt, .jsonl, .csv or .parquet";

    /// Its usual extension.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "txt",
            Self::JsonLines => "jsonl",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }

    /// The format of `path`, by its extension in any case.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "txt" => Some(Self::Text),
            "jsonl" => Some(Self::JsonLines),
            "csv" => Some(Self::Csv),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// A file of documents.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it lies.
    pub path: PathBuf,
    /// How it holds documents.
    pub format: Format,
    /// Its length in bytes.
    pub bytes: u64,
    modified: Option<SystemTime>,
}

impl Source {
    fn new(path: PathBuf, format: Format) -> Result<Self> {
        let meta = std::fs::metadata(&path).map_err(|e| Error::read(&path, &e))?;
        Ok(Self {
            bytes: meta.len(),
            modified: meta.modified().ok(),
            path,
            format,
        })
    }

    /// Whether length and time of change are still what they were.
    fn unchanged(&self) -> bool {
        std::fs::metadata(&self.path)
            .is_ok_and(|m| m.len() == self.bytes && m.modified().ok() == self.modified)
    }
}

/// The files that `paths` stand for, in their order: each of them itself, or all files of a known format below it,
/// sorted by path. Names that begin with a dot and links to folders are passed over.
///
/// # Errors
/// `data-missing` where there is no such path or no such file, `config-invalid` for a file of
/// another format.
pub fn find(paths: &[PathBuf]) -> Result<Vec<Source>> {
    let mut files = Vec::new();
    for path in paths {
        files.extend(find_one(path)?);
    }
    Ok(files)
}

fn find_one(path: &Path) -> Result<Vec<Source>> {
    let meta = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::new(
            Code::DataMissing,
            path.display(),
            "there is no such file or folder",
        )
        .hint("set data.path"),
        _ => Error::read(path, &e),
    })?;
    if meta.is_dir() {
        let mut files = Vec::new();
        walk(path, &mut files)?;
        if files.is_empty() {
            return Err(Error::new(
                Code::DataMissing,
                path.display(),
                format_args!("the folder holds no {} file", Format::NAMES),
            )
            .hint("set data.path"));
        }
        return Ok(files);
    }
    let format = Format::of(path).ok_or_else(|| {
        Error::new(
            Code::ConfigInvalid,
            "data.path",
            format_args!("{} is not a {} file", path.display(), Format::NAMES),
        )
        .hint("rename the file if its content is one of these")
    })?;
    Ok(vec![Source::new(path.to_owned(), format)?])
}

fn walk(dir: &Path, files: &mut Vec<Source>) -> Result<()> {
    let fail = |e: std::io::Error| Error::read(dir, &e);
    let mut entries = std::fs::read_dir(dir)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .map_err(fail)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        // Not followed for a link, so that a link to a parent cannot repeat files.
        if entry.file_type().map_err(fail)?.is_dir() {
            walk(&path, files)?;
        } else if let Some(format) = Format::of(&path)
            && path.is_file()
        {
            files.push(Source::new(path, format)?);
        }
    }
    Ok(())
}

/// BLAKE3 of the formats and contents of `sources`, in order. Where the files lie and how
/// they are named is left out: a moved data set is the same data set.
pub(super) fn content_hash(
    sources: &[Source],
    read: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; 1 << 20];
    let mut done = 0;
    for source in sources {
        hasher.update(&[source.format as u8]);
        hasher.update(&source.bytes.to_le_bytes());
        let fail = |e: std::io::Error| Error::read(&source.path, &e);
        let mut file = File::open(&source.path).map_err(fail)?;
        loop {
            let n = file.read(&mut block).map_err(fail)?;
            if n == 0 {
                break;
            }
            hasher.update(&block[..n]);
            done += n as u64;
            read(done)?;
        }
    }
    Ok(hasher.finalize())
}

/// Checks that no file changed since [`find`].
///
/// # Errors
/// `data-row-invalid`, naming the file.
pub(super) fn expect_unchanged(sources: &[Source]) -> Result<()> {
    match sources.iter().find(|s| !s.unchanged()) {
        None => Ok(()),
        Some(source) => Err(Error::new(
            Code::DataRowInvalid,
            source.path.display(),
            "the file changed while it was read",
        )
        .hint("start again once it is complete")),
    }
}

//! Damaged databases: how they are recognised, and how they are moved aside.

use super::{Millis, schema, sql};
use crate::domain::{Code, Error, Result};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::fs;
use std::path::{Path, PathBuf};

/// The files of a database: itself, its log, the log's index, a journal of its creation.
/// The database is moved first. A kill in between leaves a log without a database, which
/// [`damage`] knows; the other order would leave a database that seems sound and lacks
/// what its log held.
const PARTS: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// What a database that was moved aside has behind its name, and then the time.
const MARK: &str = ".corrupt-";

/// A damaged database that was moved aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// Where it lies now, its log beside it.
    pub moved_to: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// What is wrong with the database `path`; `None` for a sound one and for none at all.
/// Nothing is changed, the log included.
pub(super) fn damage(path: &Path) -> Result<Option<String>> {
    if size(path)? == 0 {
        // SQLite would delete such a log.
        let orphan = size(&part(path, "-wal"))? > 0;
        return Ok(orphan.then(|| "its log is there and the database is not".to_owned()));
    }
    check(path).or_else(|e| {
        let error = sql::error(path, e);
        match error.code {
            // The statements are sound, so one that fails by itself met a damaged header.
            Code::StoreCorrupt | Code::Internal => Ok(Some(error.message)),
            _ => Err(error),
        }
    })
}

fn check(path: &Path) -> rusqlite::Result<Option<String>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    // The last connection to close writes the log back and deletes it, damaged or not.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let verdict: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Ok(Some(verdict));
    }
    let missing = schema::missing(&conn)?;
    Ok(missing.map(|column| format!("it has no {column}")))
}

/// Moves the database `path` aside, under a name that says when.
pub(super) fn quarantine(path: &Path, now: Millis, why: String) -> Result<Quarantine> {
    let stamp = stamp(now).map_err(|e| sql::error(path, e))?;
    let base = part(path, &format!("{MARK}{stamp}"));
    let mut moved_to = base.clone();
    let mut copy = 1;
    while PARTS
        .iter()
        .any(|suffix| fs::symlink_metadata(part(&moved_to, suffix)).is_ok())
    {
        copy += 1;
        moved_to = part(&base, &format!(".{copy}"));
    }
    for suffix in PARTS {
        let from = part(path, suffix);
        match fs::rename(&from, part(&moved_to, suffix)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::write(&from, &e));
            }
            _ => {}
        }
    }
    sync_parent(path)?;
    Ok(Quarantine { moved_to, why })
}

/// Whether a damaged predecessor of the database `path` lies beside it.
pub(super) fn any(path: &Path) -> Result<bool> {
    let dir = parent(path);
    let fail = |e: std::io::Error| Error::read(dir, &e);
    let prefix = part(path, MARK);
    let prefix = prefix.file_name().unwrap_or_default().as_encoded_bytes();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        if name.as_encoded_bytes().starts_with(prefix) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes the entries of the folder of `path` durable.
pub(super) fn sync_parent(path: &Path) -> Result<()> {
    let dir = parent(path);
    fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| Error::write(dir, &e))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

fn part(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn size(path: &Path) -> Result<u64> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(Error::read(path, &e)),
    }
}

/// `now` as a date in UTC, by SQLite's calendar.
fn stamp(now: Millis) -> rusqlite::Result<String> {
    Connection::open_in_memory()?.query_row(
        "SELECT coalesce(strftime('%Y%m%dT%H%M%SZ', ?1, 'unixepoch'), ?1)",
        [now / 1000],
        |row| row.get(0),
    )
}

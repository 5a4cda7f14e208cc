//! Opening: the lock, the check, the migrations.

use super::quarantine::{self, Quarantine};
use super::{Millis, Store, schema, sql};
use crate::domain::{Code, Error, Result};
use crate::system::lock::FileLock;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::path::Path;

/// The name of the database in the state folder.
pub const DATABASE: &str = "backpropd.db";

/// The name of the lock file beside it.
const LOCK: &str = "backpropd.lock";

/// Statements that are kept prepared; there are about forty.
const STATEMENTS: usize = 64;

/// What opening found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The version that the database had: 0 for a new one.
    pub version: usize,
    /// The damaged database that this one takes the place of.
    pub quarantined: Option<Quarantine>,
}

impl Store {
    /// Opens the database in the folder `dir`, creates both where they are missing, and
    /// brings an older one up to date. A damaged one is moved aside, and a fresh one
    /// begins in its place.
    ///
    /// # Errors
    /// `store-busy` names the process that uses the folder; `store-version` for a database
    /// of a newer release, which stays as it is; `io-read`, `io-write`, `disk-full`.
    pub fn open(dir: &Path, now: Millis) -> Result<(Self, Opened)> {
        std::fs::create_dir_all(dir).map_err(|e| Error::write(dir, &e))?;
        let lock = FileLock::acquire(&dir.join(LOCK), |holder| {
            let message = format!("{holder} works with this state folder");
            Error::new(Code::StoreBusy, dir.display(), message)
                .hint("stop it, or give this one a state folder of its own")
        })?;
        let path = dir.join(DATABASE);
        let quarantined = match quarantine::damage(&path)? {
            Some(why) => Some(quarantine::quarantine(&path, now, why)?),
            None => None,
        };
        let fail = |e| sql::error(&path, e);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut conn = Connection::open_with_flags(&path, flags).map_err(fail)?;
        // What is refused keeps its log.
        let keep_log = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
        conn.set_db_config(keep_log, true).map_err(fail)?;
        let version = schema::version(&conn, &path, schema::MIGRATIONS.len())?;
        conn.set_db_config(keep_log, false).map_err(fail)?;
        configure(&conn).map_err(fail)?;
        // Also where an earlier attempt moved it aside and came no further.
        let seed = quarantine::any(&path)?.then_some(now);
        schema::migrate(&mut conn, &path, version, schema::MIGRATIONS, seed)?;
        quarantine::sync_parent(&path)?;
        let opened = Opened {
            version,
            quarantined,
        };
        let store = Self {
            conn,
            path,
            _lock: lock,
        };
        Ok((store, opened))
    }
}

fn configure(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    conn.pragma_update(None, "journal_mode", "wal")?;
    // A commit has reached the disk when it returns.
    conn.pragma_update(None, "synchronous", "full")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    // 4 MiB: an idle daemon stays small.
    conn.pragma_update(None, "cache_size", -4096)?;
    // The log shrinks back to this after a burst.
    conn.pragma_update(None, "journal_size_limit", 16 << 20)?;
    // Damage that the check at the start did not see is an error and not a wrong answer.
    conn.pragma_update(None, "cell_size_check", true)?;
    conn.pragma_update(None, "trusted_schema", false)
}

//! The tables, and how a database of an older release becomes one of this release.

use super::{Millis, sql};
use crate::domain::{Code, Error, Result};
use rusqlite::{Connection, TransactionBehavior};
use std::path::Path;

/// "bpd1": marks the file as this program's.
pub(super) const APPLICATION: i64 = 0x6270_6431;

/// Entry n leads from version n to n + 1. An entry never changes after its release.
pub(super) const MIGRATIONS: &[&str] = &[V1, super::handlers::TABLE, super::gpus::COLUMNS, V4];

const V1: &str = "
CREATE TABLE sweeps (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL,
    spec       TEXT NOT NULL,
    state      TEXT NOT NULL,
    next_index INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

-- Rewritten with every step, so what is long and never changes stands in run_configs.
CREATE TABLE runs (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    name            TEXT NOT NULL,
    -- Chosen by a client, so that a submission whose answer was lost can be sent again.
    submission      TEXT UNIQUE,
    priority        INTEGER NOT NULL,
    state           TEXT NOT NULL,
    sweep           INTEGER REFERENCES sweeps (id),
    sweep_index     INTEGER,
    folder          TEXT,
    step            INTEGER NOT NULL DEFAULT 0,
    steps           INTEGER,
    epoch           INTEGER,
    tokens          INTEGER,
    loss            REAL,
    l0              REAL,
    tokens_s        REAL,
    -- Counts the workers that the run was given to.
    life            INTEGER NOT NULL DEFAULT 0,
    -- Sequence number of the newest fact of that worker.
    life_seq        INTEGER NOT NULL DEFAULT 0,
    -- Sequence number of the run's newest event.
    last_seq        INTEGER NOT NULL DEFAULT 0,
    worker_pid      INTEGER,
    worker_started  INTEGER,
    worker_boot     TEXT,
    queued_at       INTEGER NOT NULL,
    started_at      INTEGER,
    ended_at        INTEGER,
    updated_at      INTEGER NOT NULL,
    error_code      TEXT,
    error_message   TEXT,
    ending          TEXT,
    UNIQUE (sweep, sweep_index)
) STRICT;
CREATE INDEX runs_by_state ON runs (state, priority DESC, id);

CREATE TABLE run_configs (
    run       INTEGER PRIMARY KEY REFERENCES runs (id),
    toml      TEXT NOT NULL,
    overrides TEXT NOT NULL
) STRICT;

-- Without a reference to runs: that would be looked up for every point, and a batch of
-- them looks once.
CREATE TABLE metrics (
    run       INTEGER NOT NULL,
    step      INTEGER NOT NULL,
    site      TEXT NOT NULL,
    loss      REAL,
    l0        REAL,
    l1        REAL,
    dead      REAL,
    fvu       REAL,
    lr        REAL,
    grad_norm REAL,
    gpu_mem   INTEGER,
    tokens_s  REAL,
    PRIMARY KEY (run, step, site)
) STRICT, WITHOUT ROWID;

-- Ids have no holes but at the front, where old events were pruned.
CREATE TABLE events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    run     INTEGER REFERENCES runs (id),
    seq     INTEGER,
    kind    TEXT NOT NULL,
    at      INTEGER NOT NULL,
    payload TEXT NOT NULL,
    UNIQUE (run, seq)
) STRICT;
-- By id within a run, because an index ends with the row's id.
CREATE INDEX events_by_run ON events (run) WHERE run IS NOT NULL;

-- Models and datasets.
CREATE TABLE assets (
    kind        TEXT NOT NULL,
    name        TEXT NOT NULL,
    path        TEXT NOT NULL,
    state       TEXT NOT NULL,
    description TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
";

const V4: &str = "
-- What whoever runs a sweep must remember.
ALTER TABLE sweeps ADD COLUMN session TEXT NOT NULL DEFAULT 'null';
-- As of runs.
ALTER TABLE sweeps ADD COLUMN submission TEXT;
CREATE UNIQUE INDEX sweeps_by_submission ON sweeps (submission) WHERE submission IS NOT NULL;

-- Of the sweep, where an event is about one or about a run of one.
ALTER TABLE events ADD COLUMN sweep INTEGER;
CREATE INDEX events_by_sweep ON events (sweep) WHERE sweep IS NOT NULL;
";

/// The version of the database `conn`, 0 for an empty one.
///
/// # Errors
/// `store-version` for one of a newer release or of another program. Nothing was changed.
pub(super) fn version(conn: &Connection, path: &Path, newest: usize) -> Result<usize> {
    let number = |pragma: &str| -> Result<i64> {
        conn.pragma_query_value(None, pragma, |row| row.get(0))
            .map_err(|e| sql::error(path, e))
    };
    let refuse = |message: String| Error::new(Code::StoreVersion, path.display(), message);
    let (application, version) = (number("application_id")?, number("user_version")?);
    if application != APPLICATION && (application, version, number("schema_version")?) != (0, 0, 0)
    {
        return Err(refuse("the database belongs to another program".to_owned())
            .hint("choose another state folder"));
    }
    let known = usize::try_from(version).ok().filter(|&v| v <= newest);
    known.ok_or_else(|| {
        refuse(format!(
            "the database has version {version}, and this release knows {newest} at most"
        ))
        .hint("install the release that wrote it, or choose another state folder")
    })
}

/// The first column that a database of our own should have and has not: its definitions
/// are damaged, which SQLite's own check cannot see. What was added to it is no damage.
pub(super) fn missing(conn: &Connection) -> rusqlite::Result<Option<String>> {
    let number = |pragma: &str| conn.pragma_query_value(None, pragma, |row| row.get(0));
    let (application, version): (i64, i64) = (number("application_id")?, number("user_version")?);
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if application != APPLICATION || version > MIGRATIONS.len() {
        return Ok(None);
    }
    let sound = Connection::open_in_memory()?;
    sound.execute_batch(&MIGRATIONS[..version].concat())?;
    let found = columns(conn)?;
    let missing = columns(&sound)?
        .into_iter()
        .find(|column| !found.contains(column));
    Ok(missing)
}

fn columns(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT t.name || '.' || c.name FROM sqlite_schema t
               JOIN pragma_table_info(t.name) c WHERE t.type = 'table'";
    conn.prepare(sql)?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// Brings the database from `version` to the newest one, each step in a transaction of
/// its own: a kill leaves the old version or the new one. A new database that takes the
/// place of a lost one gets `seed`, see [`seed_ids`].
pub(super) fn migrate(
    conn: &mut Connection,
    path: &Path,
    version: usize,
    migrations: &[&str],
    seed: Option<Millis>,
) -> Result<()> {
    for (from, migration) in migrations.iter().enumerate().skip(version) {
        let step = |conn: &mut Connection| {
            let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute_batch(migration)?;
            if let (0, Some(now)) = (from, seed) {
                seed_ids(&transaction, now)?;
            }
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            transaction.pragma_update(None, "user_version", from as i64 + 1)?;
            transaction.commit()
        };
        step(conn).map_err(|e| sql::error(path, e))?;
    }
    Ok(())
}

/// Lets the ids of a database that takes the place of a lost one begin past any that the
/// lost one can have given: a client that still knows an old id must not meet another run
/// or event under it. Milliseconds outrun events, and seconds outrun runs.
fn seed_ids(conn: &Connection, now: Millis) -> rusqlite::Result<usize> {
    let (events, others) = (now.max(0), now.max(0) / 1000);
    conn.execute(
        "INSERT INTO sqlite_sequence (name, seq)
         VALUES ('events', ?1), ('runs', ?2), ('sweeps', ?2)",
        [events, others],
    )
}

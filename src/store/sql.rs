//! Statements on a connection, and what SQLite's errors mean here.

use crate::domain::run_state::RunState;
use crate::domain::sweep::Phase;
use crate::domain::{Code, Error, Result, RunId, SweepId};
use crate::protocol::api::Event;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, ErrorCode, OptionalExtension, Params, Row, ffi};
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::path::Path;

/// The reading side of the database.
pub struct View<'a> {
    pub(super) conn: &'a Connection,
    path: &'a Path,
    /// The first error of the database itself.
    broken: RefCell<Option<Error>>,
}

impl<'a> View<'a> {
    pub(super) fn new(conn: &'a Connection, path: &'a Path) -> Self {
        Self {
            conn,
            path,
            broken: RefCell::new(None),
        }
    }

    fn fail(&self, source: rusqlite::Error) -> Error {
        // A value that cannot be bound or read is the error of one request.
        let of_database = matches!(source, rusqlite::Error::SqliteFailure(..));
        let error = error(self.path, source);
        if of_database {
            self.broken.borrow_mut().get_or_insert(error.clone());
        }
        error
    }

    /// Runs one statement, but none after an error of the database: SQLite may have ended
    /// the transaction then, and what came next would be a transaction of its own.
    fn prepared<T>(
        &self,
        sql: &str,
        work: impl FnOnce(&mut CachedStatement<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        if let Some(broken) = &*self.broken.borrow() {
            return Err(broken.clone());
        }
        self.conn
            .prepare_cached(sql)
            .and_then(|mut statement| work(&mut statement))
            .map_err(|e| self.fail(e))
    }

    /// The first row of a query.
    pub(super) fn first<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>> {
        self.prepared(sql, |statement| {
            statement.query_row(params, read).optional()
        })
    }

    /// All rows of a query.
    pub(super) fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        self.prepared(sql, |statement| {
            statement.query_map(params, read)?.collect()
        })
    }
}

/// The writing side, within one transaction. It reads as well, and sees what it wrote.
pub struct Tx<'a> {
    view: View<'a>,
    /// What happened in it, in order; told once it is durable.
    pub(super) events: RefCell<Vec<Event>>,
}

impl<'a> Tx<'a> {
    pub(super) fn new(conn: &'a Connection, path: &'a Path) -> Self {
        Self {
            view: View::new(conn, path),
            events: RefCell::default(),
        }
    }

    /// The events of the transaction, where the database is sound.
    pub(super) fn into_events(self) -> Result<Vec<Event>> {
        match self.view.broken.into_inner() {
            Some(broken) => Err(broken),
            None => Ok(self.events.into_inner()),
        }
    }

    /// Runs a statement and says how many rows it changed.
    pub(super) fn execute(&self, sql: &str, params: impl Params) -> Result<usize> {
        self.prepared(sql, |statement| statement.execute(params))
    }

    /// Runs a statement for each of `items`.
    pub(super) fn each<I>(
        &self,
        sql: &str,
        items: impl IntoIterator<Item = I>,
        mut run: impl FnMut(&mut CachedStatement<'_>, I) -> rusqlite::Result<usize>,
    ) -> Result<()> {
        self.prepared(sql, |statement| {
            items
                .into_iter()
                .try_for_each(|item| run(statement, item).map(|_| ()))
        })
    }

    /// Does `work` wholly or not at all, also where the transaction goes on after its
    /// error.
    pub fn whole<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.execute("SAVEPOINT whole", [])?;
        let events = self.events.borrow().len();
        let done = work();
        if done.is_err() {
            self.events.borrow_mut().truncate(events);
            self.execute("ROLLBACK TO whole", [])?;
        }
        self.execute("RELEASE whole", [])?;
        done
    }

    /// Runs an INSERT and returns the new row's number.
    pub(super) fn insert(&self, sql: &str, params: impl Params) -> Result<i64> {
        self.execute(sql, params)?;
        Ok(self.conn.last_insert_rowid())
    }
}

impl<'a> Deref for Tx<'a> {
    type Target = View<'a>;

    fn deref(&self) -> &View<'a> {
        &self.view
    }
}

/// SQLite's error about the database `path` as one of ours.
pub(super) fn error(path: &Path, source: rusqlite::Error) -> Error {
    use rusqlite::Error as E;
    let about = path.display();
    match &source {
        E::ToSqlConversionFailure(_) => {
            return Error::new(
                Code::ProtocolInvalid,
                about,
                format_args!("a number does not fit into 63 bits: {source}"),
            );
        }
        E::FromSqlConversionFailure(..)
        | E::IntegralValueOutOfRange(..)
        | E::InvalidColumnType(..)
        | E::Utf8Error(..) => return corrupt(path, &source),
        _ => {}
    }
    let E::SqliteFailure(failure, _) = &source else {
        return Error::new(Code::Internal, about, source);
    };
    match failure.code {
        ErrorCode::DiskFull => Error::write(path, &std::io::ErrorKind::StorageFull.into()),
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => corrupt(path, &source),
        ErrorCode::SystemIoFailure if is_read(failure.extended_code) => Error::new(
            Code::IoRead,
            about,
            format_args!("cannot be read: {source}"),
        ),
        ErrorCode::SystemIoFailure
        | ErrorCode::CannotOpen
        | ErrorCode::PermissionDenied
        | ErrorCode::ReadOnly => Error::new(
            Code::IoWrite,
            about,
            format_args!("cannot be written: {source}"),
        ),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Error::new(
            Code::StoreBusy,
            about,
            format_args!("another program holds the database: {source}"),
        )
        .hint("end the program that has it open, such as a database shell"),
        _ => Error::new(Code::Internal, about, source),
    }
}

fn corrupt(path: &Path, why: &dyn fmt::Display) -> Error {
    Error::new(
        Code::StoreCorrupt,
        path.display(),
        format_args!("the database is damaged: {why}"),
    )
    .hint("restart the daemon: it moves a damaged database aside and begins a fresh one")
}

fn is_read(extended: i32) -> bool {
    matches!(
        extended,
        ffi::SQLITE_IOERR_READ | ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_FSTAT
    )
}

/// `what` of that number or name is not there.
pub(super) fn not_found(what: &str, which: impl fmt::Display) -> Error {
    Error::new(
        Code::NotFound,
        format_args!("{what} {which}"),
        "is not known",
    )
}

/// A JSON column.
pub(super) struct Json<T>(pub T);

impl<T: DeserializeOwned> FromSql for Json<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        serde_json::from_str(value.as_str()?)
            .map(Json)
            .map_err(|e| FromSqlError::Other(Box::new(e)))
    }
}

/// A value as the JSON of a column. The types that are stored are maps and lists with
/// text as keys, which always have a JSON form.
pub(super) fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(not_json)
}

/// As [`json`], not written yet.
pub(super) fn value(value: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(not_json)
}

fn not_json(e: serde_json::Error) -> Error {
    Error::new(Code::Internal, "json", e)
}

impl ToSql for RunState {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for RunState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let state = value.as_str()?.parse();
        state.map_err(|e: String| FromSqlError::Other(e.into()))
    }
}

impl ToSql for Phase {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for Phase {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let phase = value.as_str()?.parse();
        phase.map_err(|e: String| FromSqlError::Other(e.into()))
    }
}

macro_rules! id_column {
    ($($name:ident)*) => {$(
        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(self.0.into())
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                i64::column_result(value).map(Self)
            }
        }
    )*};
}

id_column!(RunId SweepId);

//! Event handlers: those that were added while the daemon ran, and how far each is.

use super::sql::not_found;
use super::{Tx, View};
use crate::domain::Result;

pub(super) const TABLE: &str = "
CREATE TABLE handlers (
    name   TEXT PRIMARY KEY,
    -- Its settings as JSON; null for one that daemon.toml describes.
    spec   TEXT,
    -- Every event up to this one is done with.
    cursor INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// A handler as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredHandler {
    /// Its name.
    pub name: String,
    /// Its settings as JSON, for one that was added while the daemon ran.
    pub spec: Option<String>,
    /// The last event that it is done with.
    pub cursor: u64,
}

impl View<'_> {
    /// All that are known, by name.
    ///
    /// # Errors
    /// Those of the database.
    pub fn handlers(&self) -> Result<Vec<StoredHandler>> {
        let sql = "SELECT name, spec, cursor FROM handlers ORDER BY name";
        self.all(sql, [], |row| {
            Ok(StoredHandler {
                name: row.get(0)?,
                spec: row.get(1)?,
                cursor: row.get(2)?,
            })
        })
    }
}

impl Tx<'_> {
    /// Keeps a handler, or what is new about it.
    ///
    /// # Errors
    /// Those of the database.
    pub fn put_handler(&self, handler: &StoredHandler) -> Result<()> {
        let sql = "INSERT INTO handlers (name, spec, cursor) VALUES (?1, ?2, ?3)
                   ON CONFLICT DO UPDATE SET spec = excluded.spec, cursor = excluded.cursor";
        let StoredHandler { name, spec, cursor } = handler;
        self.execute(sql, (name, spec, cursor)).map(|_| ())
    }

    /// Notes how far handlers are. One that is not known any more stays so.
    ///
    /// # Errors
    /// Those of the database.
    pub fn set_cursors(&self, cursors: &[(String, u64)]) -> Result<()> {
        let sql = "UPDATE handlers SET cursor = ?2 WHERE name = ?1";
        self.each(sql, cursors, |statement, (name, cursor)| {
            statement.execute((name, cursor))
        })
    }

    /// Forgets a handler.
    ///
    /// # Errors
    /// `not-found`.
    pub fn remove_handler(&self, name: &str) -> Result<()> {
        match self.execute("DELETE FROM handlers WHERE name = ?1", [name])? {
            0 => Err(not_found("handler", name)),
            _ => Ok(()),
        }
    }
}

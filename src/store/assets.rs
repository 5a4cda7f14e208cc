//! Models and datasets that the daemon knows. Both are a name, a place, a state and a
//! description, so one table holds them.

use super::sql::{Json, json, not_found};
use super::{Millis, Tx, View};
use crate::domain::Result;
use crate::domain::asset::{AssetKind, AssetState};
use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde_json::Value;

impl ToSql for AssetKind {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl ToSql for AssetState {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for AssetState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let state = value.as_str()?.parse();
        state.map_err(|e: String| FromSqlError::Other(e.into()))
    }
}

/// A model or a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct Asset {
    /// Unique among its kind.
    pub name: String,
    /// Where it lies.
    pub path: String,
    /// Where it stands.
    pub state: AssetState,
    /// What is known about it.
    pub description: Value,
    /// When it was registered.
    pub created_at: Millis,
    /// When anything last changed.
    pub updated_at: Millis,
}

impl View<'_> {
    /// A model or dataset by its name.
    ///
    /// # Errors
    /// `not-found`.
    pub fn asset(&self, kind: AssetKind, name: &str) -> Result<Asset> {
        self.first(
            "SELECT * FROM assets WHERE kind = ?1 AND name = ?2",
            (kind, name),
            read,
        )?
        .ok_or_else(|| not_found(kind.as_str(), name))
    }

    /// All of a kind by name. They are registered by hand, so they are few.
    pub fn assets(&self, kind: AssetKind) -> Result<Vec<Asset>> {
        self.all(
            "SELECT * FROM assets WHERE kind = ?1 ORDER BY name",
            [kind],
            read,
        )
    }
}

impl Tx<'_> {
    /// Stores a model or dataset, or what is new about it. An earlier time of
    /// registration stays.
    pub fn put_asset(&self, kind: AssetKind, asset: &Asset) -> Result<()> {
        self.execute(
            "INSERT INTO assets (kind, name, path, state, description, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT DO UPDATE SET path = excluded.path, state = excluded.state,
                 description = excluded.description, updated_at = excluded.updated_at",
            (
                kind,
                &asset.name,
                &asset.path,
                asset.state,
                json(&asset.description)?,
                asset.created_at,
                asset.updated_at,
            ),
        )
        .map(|_| ())
    }

    /// Forgets a model or dataset. Its files are not touched.
    ///
    /// # Errors
    /// `not-found`.
    pub fn remove_asset(&self, kind: AssetKind, name: &str) -> Result<()> {
        let sql = "DELETE FROM assets WHERE kind = ?1 AND name = ?2";
        match self.execute(sql, (kind, name))? {
            0 => Err(not_found(kind.as_str(), name)),
            _ => Ok(()),
        }
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Asset> {
    Ok(Asset {
        name: row.get("name")?,
        path: row.get("path")?,
        state: row.get("state")?,
        description: row.get::<_, Json<_>>("description")?.0,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
    })
}

//! Forgetting a model or dataset, and removing files that are the daemon's own.

use super::{Assets, Kind, off_thread, record, refer};
use crate::actors::store::{read, write};
use crate::domain::asset::{AssetName, Moved, Step};
use crate::domain::{Code, Error, Result};
use crate::protocol::asset::Deleted;
use crate::store::{Asset, Tx};
use crate::system::remove::{self, Removed};
use actix::prelude::*;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Paths that a message names.
const NAMED: usize = 5;

/// Forget one. With `files`, remove its files too, where they are the daemon's own.
#[derive(Message)]
#[rtype(result = "Result<Deleted>")]
pub struct Delete {
    /// Which.
    pub name: AssetName,
    /// Whether to remove its files.
    pub files: bool,
}

impl<K: Kind> Handler<Delete> for Assets<K> {
    type Result = ResponseFuture<Result<Deleted>>;

    fn handle(&mut self, Delete { name, files }: Delete, _: &mut Self::Context) -> Self::Result {
        let (store, root) = (self.store.clone(), self.root.clone());
        Box::pin(async move {
            let which = name.clone();
            let asset = read(&store, move |view| view.asset(K::KIND, which.as_str())).await?;
            let path = PathBuf::from(&asset.path);
            if files {
                let (root, path) = (root.clone(), path.clone());
                off_thread(move || remove::expect_below(&root, &path)).await?;
            }
            let which = name.clone();
            let made = write(&store, move |tx| condemn::<K>(tx, &which)).await?;
            let removed = off_thread(move || {
                let mut removed = match files {
                    true => remove::remove(&root, &path)?,
                    false => Removed::default(),
                };
                made.iter()
                    .for_each(|file| remove::file(file, &mut removed));
                Ok(removed)
            })
            .await;
            let removed = removed.and_then(|removed| all_gone(&name, removed));
            write(&store, move |tx| conclude::<K>(tx, &name, removed)).await?
        })
    }
}

/// From here on no run is given it. Returns what the daemon made of it and of no other.
pub(super) fn condemn<K: Kind>(tx: &Tx<'_>, name: &AssetName) -> Result<Vec<PathBuf>> {
    let mut asset = tx.asset(K::KIND, name.as_str())?;
    let in_use = |why: String, hint: &str| {
        Err(Error::new(Code::AssetInUse, record::about::<K>(name), why).hint(hint))
    };
    let users = refer::users::<K>(tx, asset.path.as_ref())?;
    if let Some(first) = users.first() {
        let more = match users.len() {
            1 => String::new(),
            n => format!(" and {} others", n - 1),
        };
        return in_use(
            format!("run {first}{more} uses it"),
            "wait until no run does, or abort it",
        );
    }
    match asset.state.on(Step::Delete) {
        Moved::Refused => return in_use(format!("is {}", asset.state), "cancel that first"),
        Moved::Stays => {}
        Moved::To(state) => {
            asset.state = state;
            tx.put_asset(K::KIND, &asset)?;
            record::tell::<K>(tx, name.as_str(), "deleting", "deleting", Value::Null)?;
        }
    }
    let mut made = made::<K>(&asset);
    for other in tx.assets(K::KIND)? {
        if other.name != asset.name {
            let others = self::made::<K>(&other);
            made.retain(|file| !others.contains(file));
        }
    }
    Ok(made)
}

fn made<K: Kind>(asset: &Asset) -> Vec<PathBuf> {
    K::made(&record::of::<K>(asset).facts)
}

fn all_gone(name: &AssetName, removed: Removed) -> Result<Removed> {
    if removed.left.is_empty() {
        return Ok(removed);
    }
    let named = removed.left.iter().take(NAMED);
    let mut paths: Vec<String> = named
        .map(|(path, e)| format!("{}: {e}", path.display()))
        .collect();
    if removed.left.len() > NAMED {
        paths.push(format!("and {} more", removed.left.len() - NAMED));
    }
    let message = format!(
        "{} files and folders cannot be removed ({}); {} bytes were freed",
        removed.left.len(),
        paths.join("; "),
        removed.bytes
    );
    Err(Error::new(Code::IoWrite, name, message).hint("correct their permissions and delete again"))
}

/// The inner result is the answer: an error keeps the record, so that a retry can find it.
pub(super) fn conclude<K: Kind>(
    tx: &Tx<'_>,
    name: &AssetName,
    removed: Result<Removed>,
) -> Result<Result<Deleted>> {
    match removed {
        Ok(removed) => {
            tx.remove_asset(K::KIND, name.as_str())?;
            let (files, bytes_freed) = (removed.files, removed.bytes);
            let more = json!({ "files": files, "bytes_freed": bytes_freed });
            record::tell::<K>(tx, name.as_str(), "deleted", "deleted", more)?;
            Ok(Ok(Deleted {
                name: name.to_string(),
                files,
                bytes_freed,
            }))
        }
        Err(error) => {
            record::settle::<K>(tx, name, Err(error.clone()))?;
            Ok(Err(error))
        }
    }
}

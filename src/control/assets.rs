//! What the routes of models and datasets share.

use super::answer::Answer;
use super::extract::{Named, Params};
use super::router::Daemon;
use super::view;
use crate::actors::assets::{Assets, Cancel, Delete, Kind};
use crate::actors::datasets::OfDataset;
use crate::actors::models::OfModel;
use crate::actors::store::read;
use crate::domain::asset::AssetName;
use crate::domain::{Code, Error, Result};
use crate::protocol::asset::{AssetView, Deleted};
use crate::store::Asset;
use crate::supervise::{CallError, ChildRef, Context};
use actix::{Actor, Handler, Message};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Deserialize;

/// A kind that has routes.
pub trait Routed: Kind {
    /// Its actor.
    fn actor(daemon: &Daemon) -> &ChildRef<Assets<Self>>
    where
        Self: Sized;
}

impl Routed for OfModel {
    fn actor(daemon: &Daemon) -> &ChildRef<Assets<Self>> {
        &daemon.models
    }
}

impl Routed for OfDataset {
    fn actor(daemon: &Daemon) -> &ChildRef<Assets<Self>> {
        &daemon.datasets
    }
}

/// One as clients see it.
pub type View<K> = AssetView<<K as Kind>::Facts>;

/// Which model or dataset.
#[derive(Deserialize, JsonSchema)]
pub struct OneAsset {
    /// Its name.
    name: String,
}

impl OneAsset {
    /// The name, which leads nowhere else.
    pub fn name(&self) -> Result<AssetName> {
        self.name.parse()
    }
}

/// How to delete.
#[derive(Deserialize, JsonSchema)]
pub struct Deletion {
    /// Whether to remove its files too, where they are the daemon's own.
    #[serde(default)]
    pub files: bool,
}

/// Sends `message` to the actor of a kind.
async fn ask<K, M, T>(daemon: &Daemon, message: M) -> Result<T>
where
    K: Routed,
    Assets<K>: Actor<Context = Context<Assets<K>>> + Handler<M>,
    M: Message<Result = Result<T>> + Send + 'static,
    T: Send + 'static,
{
    let down = |e: CallError| {
        let about = format!("{}s", K::KIND);
        Error::new(Code::DaemonUnavailable, about, e).hint("it is being restarted: ask again")
    };
    K::actor(daemon).send(message).await.map_err(down)?
}

/// Asks for work, and shows the record as it is then.
pub async fn work<K, M>(daemon: &Daemon, message: M) -> Answer<View<K>>
where
    K: Routed,
    Assets<K>: Actor<Context = Context<Assets<K>>> + Handler<M>,
    M: Message<Result = Result<Asset>> + Send + 'static,
{
    Ok(Json(view::asset(
        ask::<K, M, Asset>(daemon, message).await?,
    )))
}

/// All of a kind, by name.
pub async fn all<K: Routed>(State(daemon): State<Daemon>) -> Answer<Vec<View<K>>> {
    let assets = read(&daemon.store, |view| view.assets(K::KIND)).await?;
    Ok(Json(assets.into_iter().map(view::asset).collect()))
}

/// One by its name.
pub async fn one<K: Routed>(
    State(daemon): State<Daemon>,
    Named(one): Named<OneAsset>,
) -> Answer<View<K>> {
    let name = one.name()?;
    let found = read(&daemon.store, move |view| {
        view.asset(K::KIND, name.as_str())
    });
    Ok(Json(view::asset(found.await?)))
}

/// Ends the work on one.
pub async fn cancel<K: Routed>(
    State(daemon): State<Daemon>,
    Named(one): Named<OneAsset>,
) -> Answer<View<K>> {
    work::<K, _>(&daemon, Cancel(one.name()?)).await
}

/// Forgets one.
pub async fn delete<K: Routed>(
    State(daemon): State<Daemon>,
    Named(one): Named<OneAsset>,
    Params(how): Params<Deletion>,
) -> Answer<Deleted> {
    let order = Delete {
        name: one.name()?,
        files: how.files,
    };
    Ok(Json(ask::<K, _, _>(&daemon, order).await?))
}

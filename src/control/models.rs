//! Routes of the models.

use super::answer::Answer;
use super::extract::{Body, Named, Params};
use super::openapi::about;
use super::router::Daemon;
use super::view;
use crate::actors::assets::{Cancel, Delete};
use crate::actors::models::{AddModel, VerifyModel};
use crate::actors::store::read;
use crate::domain::asset::{AssetKind, AssetName, ModelFacts};
use crate::domain::{Code, Error, Result};
use crate::protocol::asset::{AssetView, Deleted, NewModel};
use crate::supervise::CallError;
use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Deserialize;

/// The routes.
pub fn routes() -> ApiRouter<Daemon> {
    let list = get_with(all, about("All models, by name"));
    let add = about("Know a model folder under a name; its weights are read from then on");
    let one = get_with(
        model,
        about("One model, with its hook points and memory needs"),
    );
    ApiRouter::new()
        .api_route("/v1/models", list.post_with(create, add))
        .api_route(
            "/v1/models/{name}",
            one.delete_with(delete, about("Forget a model")),
        )
        .api_route(
            "/v1/models/{name}/verify",
            post_with(verify, about("Read every weight of a model again")),
        )
        .api_route(
            "/v1/models/{name}/cancel",
            post_with(cancel, about("End the work on a model")),
        )
}

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

type View = AssetView<ModelFacts>;

async fn all(State(daemon): State<Daemon>) -> Answer<Vec<View>> {
    let models = read(&daemon.store, |view| view.assets(AssetKind::Model)).await?;
    Ok(Json(models.into_iter().map(view::asset).collect()))
}

async fn model(State(daemon): State<Daemon>, Named(one): Named<OneAsset>) -> Answer<View> {
    let name = one.name()?;
    let found = read(&daemon.store, move |view| {
        view.asset(AssetKind::Model, name.as_str())
    });
    Ok(Json(view::asset(found.await?)))
}

async fn create(State(daemon): State<Daemon>, Body(new): Body<NewModel>) -> Answer<View> {
    let added = daemon.models.send(AddModel(new)).await.map_err(down)??;
    Ok(Json(view::asset(added)))
}

async fn verify(State(daemon): State<Daemon>, Named(one): Named<OneAsset>) -> Answer<View> {
    let asked = daemon.models.send(VerifyModel(one.name()?)).await;
    Ok(Json(view::asset(asked.map_err(down)??)))
}

async fn cancel(State(daemon): State<Daemon>, Named(one): Named<OneAsset>) -> Answer<View> {
    let asked = daemon.models.send(Cancel(one.name()?)).await;
    Ok(Json(view::asset(asked.map_err(down)??)))
}

async fn delete(
    State(daemon): State<Daemon>,
    Named(one): Named<OneAsset>,
    Params(how): Params<Deletion>,
) -> Answer<Deleted> {
    let order = Delete {
        name: one.name()?,
        files: how.files,
    };
    let deleted = daemon.models.send(order).await.map_err(down)??;
    Ok(Json(deleted))
}

fn down(e: CallError) -> Error {
    Error::new(Code::DaemonUnavailable, "models", e).hint("it is being restarted: ask again")
}

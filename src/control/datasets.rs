//! Routes of the datasets.

use super::answer::Answer;
use super::extract::{Body, Named, Params};
use super::models::{Deletion, OneAsset};
use super::openapi::about;
use super::router::Daemon;
use super::view;
use crate::actors::assets::{Cancel, Delete};
use crate::actors::datasets::{AddDataset, TokenizeDataset, ValidateDataset};
use crate::actors::store::read;
use crate::domain::asset::{AssetKind, DatasetFacts};
use crate::domain::{Code, Error};
use crate::protocol::asset::{AssetView, Deleted, NewDataset, Tokenize};
use crate::supervise::CallError;
use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;

/// The routes.
pub fn routes() -> ApiRouter<Daemon> {
    let list = get_with(all, about("All datasets, by name"));
    let add = about("Know a text file or folder under a name; all of it is read from then on");
    let one = get_with(
        dataset,
        about("One dataset, with its report and token sets"),
    );
    ApiRouter::new()
        .api_route("/v1/datasets", list.post_with(create, add))
        .api_route(
            "/v1/datasets/{name}",
            one.delete_with(delete, about("Forget a dataset")),
        )
        .api_route(
            "/v1/datasets/{name}/validate",
            post_with(validate, about("Read every row of a dataset again")),
        )
        .api_route(
            "/v1/datasets/{name}/tokenize",
            post_with(tokenize, about("Tokenise a dataset for a model")),
        )
        .api_route(
            "/v1/datasets/{name}/cancel",
            post_with(cancel, about("End the work on a dataset")),
        )
}

type View = AssetView<DatasetFacts>;

async fn all(State(daemon): State<Daemon>) -> Answer<Vec<View>> {
    let datasets = read(&daemon.store, |view| view.assets(AssetKind::Dataset)).await?;
    Ok(Json(datasets.into_iter().map(view::asset).collect()))
}

async fn dataset(State(daemon): State<Daemon>, Named(one): Named<OneAsset>) -> Answer<View> {
    let name = one.name()?;
    let found = read(&daemon.store, move |view| {
        view.asset(AssetKind::Dataset, name.as_str())
    });
    Ok(Json(view::asset(found.await?)))
}

async fn create(State(daemon): State<Daemon>, Body(new): Body<NewDataset>) -> Answer<View> {
    let added = daemon
        .datasets
        .send(AddDataset(new))
        .await
        .map_err(down)??;
    Ok(Json(view::asset(added)))
}

async fn validate(State(daemon): State<Daemon>, Named(one): Named<OneAsset>) -> Answer<View> {
    let asked = daemon.datasets.send(ValidateDataset(one.name()?)).await;
    Ok(Json(view::asset(asked.map_err(down)??)))
}

async fn tokenize(
    State(daemon): State<Daemon>,
    Named(one): Named<OneAsset>,
    Body(request): Body<Tokenize>,
) -> Answer<View> {
    let name = one.name()?;
    let asked = daemon
        .datasets
        .send(TokenizeDataset { name, request })
        .await;
    Ok(Json(view::asset(asked.map_err(down)??)))
}

async fn cancel(State(daemon): State<Daemon>, Named(one): Named<OneAsset>) -> Answer<View> {
    let asked = daemon.datasets.send(Cancel(one.name()?)).await;
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
    let deleted = daemon.datasets.send(order).await.map_err(down)??;
    Ok(Json(deleted))
}

fn down(e: CallError) -> Error {
    Error::new(Code::DaemonUnavailable, "datasets", e).hint("it is being restarted: ask again")
}

//! Routes of the datasets.

use super::answer::Answer;
use super::assets::{self, OneAsset, View, work};
use super::extract::{Body, Named};
use super::openapi::about;
use super::router::Daemon;
use crate::actors::datasets::{AddDataset, OfDataset, TokenizeDataset, ValidateDataset};
use crate::protocol::asset::{NewDataset, Tokenize};
use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::extract::State;

/// The routes.
pub fn routes() -> ApiRouter<Daemon> {
    let list = get_with(assets::all::<OfDataset>, about("All datasets, by name"));
    let add = about("Know a text file or folder under a name; all of it is read from then on");
    let one = get_with(
        assets::one::<OfDataset>,
        about("One dataset, with its report and token sets"),
    );
    ApiRouter::new()
        .api_route("/v1/datasets", list.post_with(create, add))
        .api_route(
            "/v1/datasets/{name}",
            one.delete_with(assets::delete::<OfDataset>, about("Forget a dataset")),
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
            post_with(
                assets::cancel::<OfDataset>,
                about("End the work on a dataset"),
            ),
        )
}

async fn create(
    State(daemon): State<Daemon>,
    Body(new): Body<NewDataset>,
) -> Answer<View<OfDataset>> {
    work::<OfDataset, _>(&daemon, AddDataset(new)).await
}

async fn validate(
    State(daemon): State<Daemon>,
    Named(one): Named<OneAsset>,
) -> Answer<View<OfDataset>> {
    work::<OfDataset, _>(&daemon, ValidateDataset(one.name()?)).await
}

async fn tokenize(
    State(daemon): State<Daemon>,
    Named(one): Named<OneAsset>,
    Body(request): Body<Tokenize>,
) -> Answer<View<OfDataset>> {
    let name = one.name()?;
    work::<OfDataset, _>(&daemon, TokenizeDataset { name, request }).await
}

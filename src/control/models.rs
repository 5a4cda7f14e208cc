//! Routes of the models.

use super::answer::Answer;
use super::assets::{self, OneAsset, View, work};
use super::extract::{Body, Named};
use super::openapi::about;
use super::router::Daemon;
use crate::actors::models::{AddModel, OfModel, VerifyModel};
use crate::protocol::asset::NewModel;
use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::extract::State;

/// The routes.
pub fn routes() -> ApiRouter<Daemon> {
    let list = get_with(assets::all::<OfModel>, about("All models, by name"));
    let add = about("Know a model folder under a name; its weights are read from then on");
    let one = get_with(
        assets::one::<OfModel>,
        about("One model, with its hook points and memory needs"),
    );
    ApiRouter::new()
        .api_route("/v1/models", list.post_with(create, add))
        .api_route(
            "/v1/models/{name}",
            one.delete_with(assets::delete::<OfModel>, about("Forget a model")),
        )
        .api_route(
            "/v1/models/{name}/verify",
            post_with(verify, about("Read every weight of a model again")),
        )
        .api_route(
            "/v1/models/{name}/cancel",
            post_with(assets::cancel::<OfModel>, about("End the work on a model")),
        )
}

async fn create(State(daemon): State<Daemon>, Body(new): Body<NewModel>) -> Answer<View<OfModel>> {
    work::<OfModel, _>(&daemon, AddModel(new)).await
}

async fn verify(
    State(daemon): State<Daemon>,
    Named(one): Named<OneAsset>,
) -> Answer<View<OfModel>> {
    work::<OfModel, _>(&daemon, VerifyModel(one.name()?)).await
}

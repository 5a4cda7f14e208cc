//! The routes.
//!
//! To add some: a file with the handlers and a function `routes() -> ApiRouter<Daemon>`
//! that names them, as [`super::runs`] does, and a line in [`router`] that merges them.
//! That is their documentation too:
//!
//! ```ignore
//! pub fn routes() -> ApiRouter<Daemon> {
//!     ApiRouter::new()
//!         .api_route("/v1/sweeps", get_with(list, about("All sweeps, newest first")))
//!         .api_route("/v1/sweeps/{id}", get_with(one, about("One sweep")))
//! }
//!
//! async fn one(State(daemon): State<Daemon>, Named(path): Named<ById>) -> Answer<SweepView> { /* … */ }
//! ```
//!
//! `GET /v1/openapi.json` is made of these types, so what a handler takes and answers
//! derives `JsonSchema` beside `Serialize` and `Deserialize`: [`Answer`] out; [`Body`] (JSON),
//! [`Params`] (after the `?`) and [`Named`] (in the path) in. The doc comments of types and
//! fields become their descriptions. `route` instead of `api_route` would leave a route out
//! of the document, and a test fails. GET is for readers, every other method for writers.
//!
//! [`Answer`]: super::answer::Answer
//! [`Body`]: super::extract::Body
//! [`Params`]: super::extract::Params
//! [`Named`]: super::extract::Named

use super::answer::Failed;
use super::openapi::{self, about};
use super::serve::MAX_BODY;
use super::{
    actors, datasets, follow, gpus, handlers, metrics, models, runs, service, settings, sweeps,
};
use crate::actors::datasets::Datasets;
use crate::actors::gpus::Gpus;
use crate::actors::handlers::Handlers;
use crate::actors::models::Models;
use crate::actors::runs::Runs;
use crate::actors::store::{Live, StoreRef};
use crate::config::settings::Settings;
use crate::domain::{Code, Error, Result};
use crate::handlers::Metrics;
use crate::protocol::service::Reloaded;
use crate::supervise::{ChildRef, Supervisor};
use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// Reads daemon.toml again; an error changes nothing.
pub type Reload = Arc<dyn Fn() -> Result<Reloaded> + Send + Sync>;

/// What the routes reach.
#[derive(Clone)]
pub struct Daemon {
    /// The runs.
    pub runs: ChildRef<Runs>,
    /// The event handlers.
    pub handlers: ChildRef<Handlers>,
    /// The models.
    pub models: ChildRef<Models>,
    /// The datasets.
    pub datasets: ChildRef<Datasets>,
    /// What those of kind `prometheus` have gathered.
    pub metrics: Metrics,
    /// The database.
    pub store: StoreRef,
    /// The GPU monitor.
    pub gpus: ChildRef<Gpus>,
    /// The supervisor of all.
    pub tree: ChildRef<Supervisor>,
    /// Events as they become durable.
    pub live: Live,
    /// The settings in use.
    pub settings: Settings,
    /// Reads the settings again.
    pub reload: Reload,
    /// When the daemon started.
    pub since: Instant,
    /// Asks the daemon to end.
    pub leave: mpsc::Sender<()>,
}

/// All routes.
pub fn router(daemon: Daemon) -> Router {
    openapi::begin();
    let document = get_with(openapi::document, about("This document"));
    let routes = ApiRouter::new()
        .merge(service::routes())
        .merge(runs::routes())
        .merge(gpus::routes())
        .merge(sweeps::routes())
        .merge(metrics::routes())
        .merge(follow::routes())
        .merge(handlers::routes())
        .merge(models::routes())
        .merge(datasets::routes())
        .merge(actors::routes())
        .merge(settings::routes())
        .api_route("/v1/openapi.json", document);
    openapi::finish(routes)
        .fallback(nothing)
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(daemon)
}

async fn nothing(uri: Uri) -> Failed {
    Error::new(Code::NotFound, uri.path(), "there is nothing there")
        .hint("GET /v1/openapi.json lists what there is")
        .into()
}

async fn not_allowed(method: Method, uri: Uri) -> Response {
    let message = format!("takes no {method}");
    Failed(Error::new(Code::Usage, uri.path(), message))
        .respond_with(StatusCode::METHOD_NOT_ALLOWED)
}

//! The routes of the event handlers.

use super::answer::{Answer, Failed, documented};
use super::extract::{Body, Named};
use super::openapi::about;
use super::router::Daemon;
use crate::actors::handlers::{
    AddHandler, GetHandlers, Handlers, ReleaseHandler, RemoveHandler, ReplaceHandler,
};
use crate::domain::{Code, Error, Result};
use crate::protocol::handlers::{HandlerRemoved, HandlerSpec, HandlerView};
use crate::supervise::{CallError, ChildRef};
use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use aide::generate::GenContext;
use aide::openapi::{Operation, Response as Documented};
use aide::operation::OperationOutput;
use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Deserialize;

/// The routes.
pub fn routes() -> ApiRouter<Daemon> {
    let all = get_with(list, about("All event handlers, by name"));
    let one = get_with(one, about("One event handler"));
    let one = one.put_with(
        replace,
        about("Put an event handler in the place of another"),
    );
    let one = one.delete_with(remove, about("Remove an event handler that was added"));
    ApiRouter::new()
        .api_route(
            "/v1/handlers",
            all.post_with(
                add,
                about("Add an event handler, which later daemons have as well"),
            ),
        )
        .api_route("/v1/handlers/{name}", one)
        .api_route(
            "/metrics",
            get_with(metrics, about("The newest numbers, for Prometheus")),
        )
        .api_route(
            "/v1/handlers/{name}/release",
            post_with(release, about("Start a quarantined event handler again")),
        )
}

/// Which event handler.
#[derive(Deserialize, JsonSchema)]
struct OneHandler {
    /// Its name.
    name: String,
}

/// All handlers, by name.
///
/// # Errors
/// `daemon-unavailable`.
pub async fn views(handlers: &ChildRef<Handlers>) -> Result<Vec<HandlerView>> {
    handlers.send(GetHandlers).await.map_err(down)?
}

async fn list(State(daemon): State<Daemon>) -> Answer<Vec<HandlerView>> {
    Ok(Json(views(&daemon.handlers).await?))
}

async fn one(State(daemon): State<Daemon>, Named(one): Named<OneHandler>) -> Answer<HandlerView> {
    find(&daemon, &one.name).await
}

async fn find(daemon: &Daemon, name: &str) -> Answer<HandlerView> {
    let all = views(&daemon.handlers).await?;
    let found = all.into_iter().find(|view| view.spec.name == name);
    found.map(Json).ok_or_else(|| {
        let about = format!("handler {name}");
        let error = Error::new(Code::NotFound, about, "is not known");
        error.hint("GET /v1/handlers lists them").into()
    })
}

async fn add(State(daemon): State<Daemon>, Body(spec): Body<HandlerSpec>) -> Answer<HandlerView> {
    let name = spec.name.clone();
    let added = daemon.handlers.send(AddHandler(spec)).await;
    added.map_err(down)??;
    find(&daemon, &name).await
}

async fn replace(
    State(daemon): State<Daemon>,
    Named(one): Named<OneHandler>,
    Body(spec): Body<HandlerSpec>,
) -> Answer<HandlerView> {
    if spec.name != one.name {
        let message = format!(
            "is {:?} in the body and {:?} in the path",
            spec.name, one.name
        );
        return Err(Error::new(Code::Usage, "name", message).into());
    }
    let replaced = daemon.handlers.send(ReplaceHandler(spec)).await;
    replaced.map_err(down)??;
    find(&daemon, &one.name).await
}

async fn remove(
    State(daemon): State<Daemon>,
    Named(one): Named<OneHandler>,
) -> Answer<HandlerRemoved> {
    let removed = daemon.handlers.send(RemoveHandler(one.name.clone())).await;
    removed.map_err(down)??;
    Ok(Json(HandlerRemoved { removed: one.name }))
}

async fn release(
    State(daemon): State<Daemon>,
    Named(one): Named<OneHandler>,
) -> Answer<HandlerView> {
    let released = daemon.handlers.send(ReleaseHandler(one.name.clone())).await;
    released.map_err(down)??;
    find(&daemon, &one.name).await
}

/// Prometheus' text format.
struct Exposition(String);

const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

impl IntoResponse for Exposition {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, EXPOSITION)], self.0).into_response()
    }
}

impl OperationOutput for Exposition {
    type Inner = String;

    fn inferred_responses(
        ctx: &mut GenContext,
        _: &mut Operation,
    ) -> Vec<(Option<u16>, Documented)> {
        let mut response = documented::<String>(ctx, EXPOSITION);
        response.description = "Metrics in Prometheus' text format.".to_owned();
        vec![(Some(200), response)]
    }
}

async fn metrics(State(daemon): State<Daemon>) -> Result<Exposition, Failed> {
    let views = views(&daemon.handlers).await?;
    if !views.iter().any(|view| view.spec.kind == "prometheus") {
        let error = Error::new(Code::NotFound, "/metrics", "nothing gathers them");
        let hint = "add an event handler of kind prometheus, with events = [\"*\"]";
        return Err(error.hint(hint).into());
    }
    Ok(Exposition(daemon.metrics.render(&views)))
}

fn down(e: CallError) -> Error {
    Error::new(Code::DaemonUnavailable, "handlers", e).hint("they are being restarted: ask again")
}

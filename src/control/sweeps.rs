//! Routes of the sweeps.

use super::answer::{Answer, Failed, Made, documented};
use super::extract::{Body, Named};
use super::openapi::about;
use super::router::Daemon;
use super::runs::down;
use super::view;
use crate::actors::runs::{SweepOrder, SweepSubmission};
use crate::actors::store::read;
use crate::actors::sweep::Sweep;
use crate::domain::sweep::Command;
use crate::domain::{Code, Error, Result, SweepId};
use crate::protocol::sweep::{SubmitSweep, SweepAcknowledged, SweepView, Why};
use crate::report::sweep as report;
use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use aide::generate::GenContext;
use aide::openapi::{Operation, Response as Documented};
use aide::operation::OperationOutput;
use axum::Json;
use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use schemars::JsonSchema;
use serde::Deserialize;

/// Sweeps in a list.
const LIST: u32 = 100;

/// The routes.
pub fn routes() -> ApiRouter<Daemon> {
    let list = get_with(
        sweeps,
        about("All sweeps, newest first, without their runs"),
    );
    ApiRouter::new()
        .api_route(
            "/v1/sweeps",
            list.post_with(submit, about("Begin a sweep: many runs from one run.toml")),
        )
        .api_route(
            "/v1/sweeps/{id}",
            get_with(one, about("One sweep and its runs")),
        )
        .api_route(
            "/v1/sweeps/{id}/report",
            get_with(compare, about("A page that compares the runs of a sweep")),
        )
        .api_route(
            "/v1/sweeps/{id}/pause",
            post_with(pause, about("Let all runs wait and begin no other")),
        )
        .api_route(
            "/v1/sweeps/{id}/resume",
            post_with(
                resume,
                about("Go on with a sweep that was paused or stopped"),
            ),
        )
        .api_route(
            "/v1/sweeps/{id}/stop",
            post_with(stop, about("Save all runs and end")),
        )
        .api_route(
            "/v1/sweeps/{id}/abort",
            post_with(abort, about("End all runs without saving")),
        )
}

/// Which sweep.
#[derive(Deserialize, JsonSchema)]
pub struct OneSweep {
    /// The sweep's number.
    id: String,
}

impl OneSweep {
    /// The number.
    pub fn id(&self) -> Result<SweepId> {
        self.id.parse().map_err(|_| {
            Error::new(Code::NotFound, &self.id, "is no number of a sweep")
                .hint("GET /v1/sweeps lists them")
        })
    }
}

async fn sweeps(State(daemon): State<Daemon>) -> Answer<Vec<SweepView>> {
    let sweeps = read(&daemon.store, |view| view.sweeps(None, LIST)).await?;
    let view = |stored| Ok(view::sweep(Sweep::without_runs(stored)?));
    let sweeps: Result<Vec<SweepView>> = sweeps.into_iter().map(view).collect();
    Ok(Json(sweeps?))
}

async fn one(State(daemon): State<Daemon>, Named(one): Named<OneSweep>) -> Answer<SweepView> {
    Ok(Json(find(&daemon, one.id()?).await?))
}

async fn find(daemon: &Daemon, id: SweepId) -> Result<SweepView> {
    let sweep = read(&daemon.store, move |view| Sweep::load(view, id)).await?;
    Ok(view::sweep(sweep))
}

async fn submit(
    State(daemon): State<Daemon>,
    Body(submit): Body<SubmitSweep>,
) -> Result<Made<SweepView>, Failed> {
    let begun = daemon.runs.send(SweepSubmission(submit));
    let (sweep, new) = begun.await.map_err(down)??;
    let made = find(&daemon, sweep).await?;
    Ok(Made { made, new })
}

async fn pause(daemon: State<Daemon>, Named(one): Named<OneSweep>) -> Answer<SweepAcknowledged> {
    order(daemon, &one, Command::Pause, None, "waits").await
}

async fn resume(daemon: State<Daemon>, Named(one): Named<OneSweep>) -> Answer<SweepAcknowledged> {
    order(daemon, &one, Command::Resume, None, "goes on").await
}

async fn stop(
    daemon: State<Daemon>,
    Named(one): Named<OneSweep>,
    Body(why): Body<Why>,
) -> Answer<SweepAcknowledged> {
    let does = "saves its runs and ends";
    order(daemon, &one, Command::Stop, why.reason, does).await
}

async fn abort(
    daemon: State<Daemon>,
    Named(one): Named<OneSweep>,
    Body(why): Body<Why>,
) -> Answer<SweepAcknowledged> {
    order(
        daemon,
        &one,
        Command::Abort,
        why.reason,
        "ends without saving",
    )
    .await
}

async fn order(
    State(daemon): State<Daemon>,
    one: &OneSweep,
    command: Command,
    reason: Option<String>,
    does: &str,
) -> Answer<SweepAcknowledged> {
    let order = SweepOrder {
        sweep: one.id()?,
        command,
        reason: reason.unwrap_or_else(|| "it was told to".into()),
    };
    let changed = daemon.runs.send(order).await.map_err(down)??;
    let sweep = find(&daemon, one.id()?).await?;
    let (id, name, state) = (sweep.id, &sweep.name, sweep.state);
    let message = match changed {
        true => format!("sweep {id} ({name}) {does}; it is {state}"),
        false => format!("sweep {id} ({name}) is {state} already"),
    };
    Ok(Json(SweepAcknowledged {
        changed,
        message,
        sweep,
    }))
}

/// A page for a browser.
struct Page(String);

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        Html(self.0).into_response()
    }
}

impl OperationOutput for Page {
    type Inner = String;

    fn inferred_responses(
        ctx: &mut GenContext,
        _: &mut Operation,
    ) -> Vec<(Option<u16>, Documented)> {
        let mut page = documented::<String>(ctx, "text/html");
        page.description = "The page, with nothing that it loads.".to_owned();
        vec![(Some(200), page)]
    }
}

async fn compare(
    State(daemon): State<Daemon>,
    Named(one): Named<OneSweep>,
) -> Result<Page, Failed> {
    let sweep = find(&daemon, one.id()?).await?;
    Ok(Page(report::render(&sweep)))
}

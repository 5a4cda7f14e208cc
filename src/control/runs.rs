//! Routes of the runs.

use super::answer::{Answer, Failed, Made};
use super::extract::{Body, Named};
use super::openapi::about;
use super::router::Daemon;
use super::view;
use crate::actors::runs::{Order, Submission};
use crate::actors::store::read;
use crate::domain::run_state::Command;
use crate::domain::{Code, Error, Result, RunId};
use crate::protocol::api::{Acknowledged, RunView, Submit};
use crate::store::RunQuery;
use crate::supervise::CallError;
use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Deserialize;

/// Runs in a list.
const LIST: u32 = 1000;

/// The routes.
pub fn routes() -> ApiRouter<Daemon> {
    let list = get_with(runs, about("All runs, newest first"));
    ApiRouter::new()
        .api_route("/v1/runs", list.post_with(submit, about("Queue a run")))
        .api_route("/v1/runs/{id}", get_with(run, about("One run")))
        .api_route(
            "/v1/runs/{id}/pause",
            post_with(pause, about("Let a run wait, with everything in memory")),
        )
        .api_route(
            "/v1/runs/{id}/resume",
            post_with(resume, about("Go on with a run that was paused or stopped")),
        )
        .api_route(
            "/v1/runs/{id}/stop",
            post_with(stop, about("Save a checkpoint and end a run")),
        )
        .api_route(
            "/v1/runs/{id}/abort",
            post_with(abort, about("End a run without saving")),
        )
        .api_route(
            "/v1/runs/{id}/retry",
            post_with(
                retry,
                about("Run again what failed or was aborted, from its newest checkpoint"),
            ),
        )
}

/// Which run.
#[derive(Deserialize, JsonSchema)]
pub struct OneRun {
    /// The run's number.
    id: String,
}

impl OneRun {
    /// The number.
    pub fn id(&self) -> Result<RunId> {
        self.id.parse().map_err(|_| {
            Error::new(Code::NotFound, &self.id, "is no number of a run")
                .hint("GET /v1/runs lists them")
        })
    }
}

async fn runs(State(daemon): State<Daemon>) -> Answer<Vec<RunView>> {
    let runs = read(&daemon.store, |view| view.runs(&RunQuery::default(), LIST)).await?;
    Ok(Json(runs.into_iter().map(view::run).collect()))
}

async fn run(State(daemon): State<Daemon>, Named(one): Named<OneRun>) -> Answer<RunView> {
    let id = one.id()?;
    let run = read(&daemon.store, move |store| store.run(id)).await?;
    Ok(Json(view::run(run)))
}

async fn submit(
    State(daemon): State<Daemon>,
    Body(submit): Body<Submit>,
) -> Result<Made<RunView>, Failed> {
    let (run, new) = daemon.runs.send(Submission(submit)).await.map_err(down)??;
    let made = view::run(run);
    Ok(Made { made, new })
}

async fn pause(daemon: State<Daemon>, Named(one): Named<OneRun>) -> Answer<Acknowledged> {
    order(daemon, &one, Command::Pause, "waits").await
}

async fn resume(daemon: State<Daemon>, Named(one): Named<OneRun>) -> Answer<Acknowledged> {
    order(daemon, &one, Command::Resume, "goes on").await
}

async fn stop(daemon: State<Daemon>, Named(one): Named<OneRun>) -> Answer<Acknowledged> {
    order(daemon, &one, Command::Stop, "saves and ends").await
}

async fn abort(daemon: State<Daemon>, Named(one): Named<OneRun>) -> Answer<Acknowledged> {
    order(daemon, &one, Command::Abort, "ends without saving").await
}

async fn retry(daemon: State<Daemon>, Named(one): Named<OneRun>) -> Answer<Acknowledged> {
    let does = "runs again from its newest checkpoint";
    order(daemon, &one, Command::Retry, does).await
}

async fn order(
    State(daemon): State<Daemon>,
    one: &OneRun,
    command: Command,
    does: &str,
) -> Answer<Acknowledged> {
    let run = one.id()?;
    let told = daemon.runs.send(Order { run, command });
    let told = told.await.map_err(down)??;
    let (state, name) = (told.run.state.as_str().replace('_', " "), &told.run.name);
    let message = match told.changed {
        true => format!("run {run} ({name}) {does}; it is {state}"),
        false => format!("run {run} ({name}) is {state} already"),
    };
    Ok(Json(Acknowledged {
        changed: told.changed,
        message,
        run: view::run(told.run),
    }))
}

pub(super) fn down(e: CallError) -> Error {
    Error::new(Code::DaemonUnavailable, "runs", e).hint("it is being restarted: ask again")
}

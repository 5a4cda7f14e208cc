//! The routes.

use super::answer::{Answer, Failed};
use super::serve::MAX_BODY;
use super::{events, view};
use crate::actors::runs::{Order, Runs, Submission};
use crate::actors::store::{Live, StoreRef, read};
use crate::domain::run_state::{Command, RunState};
use crate::domain::{Code, Error, Result, RunId};
use crate::protocol::api::{Acknowledged, Down, RunView, Status, Submit};
use crate::store::RunQuery;
use crate::supervise::{CallError, ChildRef, ChildState, GetChildren, Supervisor};
use crate::system::memory;
use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use std::time::Instant;
use tokio::sync::mpsc;

/// Runs in a list.
const LIST: u32 = 1000;
/// Ended runs in the status.
const RECENT: usize = 5;

/// What the routes reach.
#[derive(Clone)]
pub struct Daemon {
    /// The runs.
    pub runs: ChildRef<Runs>,
    /// The database.
    pub store: StoreRef,
    /// The supervisor of both.
    pub tree: ChildRef<Supervisor>,
    /// Events as they become durable.
    pub live: Live,
    /// Runs that train at once.
    pub limit: usize,
    /// When the daemon started.
    pub since: Instant,
    /// Asks the daemon to end.
    pub leave: mpsc::Sender<()>,
}

/// All routes.
pub fn router(daemon: Daemon) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/runs", get(runs).post(submit))
        .route("/v1/runs/{id}", get(run))
        .route("/v1/runs/{id}/events", get(run_events))
        .route("/v1/runs/{id}/{command}", post(order))
        .route("/v1/events", get(all_events))
        .route("/v1/shutdown", post(shutdown))
        .fallback(nothing)
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(daemon)
}

async fn status(State(daemon): State<Daemon>) -> Answer<Status> {
    let runs = read(&daemon.store, |view| view.runs(&RunQuery::default(), LIST)).await?;
    let queued = runs
        .iter()
        .filter(|run| run.state == RunState::Queued)
        .count();
    let is_active = |state: RunState| state.has_worker() || state == RunState::Held;
    let (active, others): (Vec<_>, Vec<_>) = runs.into_iter().partition(|run| is_active(run.state));
    let ended = others.into_iter().filter(|run| run.state.has_ended());
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime: daemon.since.elapsed().as_secs_f64(),
        memory: memory::resident(),
        limit: daemon.limit,
        queued,
        active: active.into_iter().map(view::run).collect(),
        recent: ended.take(RECENT).map(view::run).collect(),
        down: ailing(&daemon.tree).await,
    }))
}

/// The parts that are not at work.
async fn ailing(tree: &ChildRef<Supervisor>) -> Vec<Down> {
    let children = match tree.send(GetChildren).await {
        Ok(children) => children,
        Err(error) => {
            return vec![Down {
                actor: "supervisor".into(),
                state: "silent".into(),
                cause: error.to_string(),
            }];
        }
    };
    let ill = children.into_iter().filter(|child| !child.is_well());
    ill.map(|child| Down {
        actor: child.name,
        state: match child.state {
            ChildState::Quarantined => "quarantined".into(),
            _ => "being restarted".into(),
        },
        cause: child
            .first_cause
            .or(child.last_cause)
            .map_or_else(String::new, |c| c.to_string()),
    })
    .collect()
}

async fn runs(State(daemon): State<Daemon>) -> Answer<Vec<RunView>> {
    let runs = read(&daemon.store, |view| view.runs(&RunQuery::default(), LIST)).await?;
    Ok(Json(runs.into_iter().map(view::run).collect()))
}

async fn run(State(daemon): State<Daemon>, Path(id): Path<String>) -> Answer<RunView> {
    let id = run_id(&id)?;
    let run = read(&daemon.store, move |store| store.run(id)).await?;
    Ok(Json(view::run(run)))
}

async fn submit(State(daemon): State<Daemon>, body: Bytes) -> Result<Response, Failed> {
    let submit: Submit = serde_json::from_slice(&body).map_err(|e| {
        Error::new(Code::Usage, "the request's body", e)
            .hint("send {\"run_toml\": TEXT, \"base\": ABSOLUTE_FOLDER}")
    })?;
    let (run, new) = daemon.runs.send(Submission(submit)).await.map_err(down)??;
    let status = if new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(view::run(run))).into_response())
}

async fn order(
    State(daemon): State<Daemon>,
    Path((id, command)): Path<(String, String)>,
) -> Answer<Acknowledged> {
    let run = run_id(&id)?;
    let (command, does) = match command.as_str() {
        "pause" => (Command::Pause, "waits"),
        "resume" => (Command::Resume, "goes on"),
        "stop" => (Command::Stop, "saves and ends"),
        "abort" => (Command::Abort, "ends without saving"),
        "retry" => (Command::Retry, "runs again from its newest checkpoint"),
        _ => {
            return Err(
                Error::new(Code::NotFound, command, "is no command for a run")
                    .hint("pause, resume, stop, abort, retry")
                    .into(),
            );
        }
    };
    let told = daemon
        .runs
        .send(Order { run, command })
        .await
        .map_err(down)??;
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

#[derive(Deserialize)]
struct Since {
    since: Option<u64>,
}

async fn run_events(
    State(daemon): State<Daemon>,
    Path(id): Path<String>,
    since: Query<Since>,
    headers: HeaderMap,
) -> Result<Response, Failed> {
    let run = run_id(&id)?;
    follow(daemon, Some(run), since.0, &headers).await
}

async fn all_events(
    State(daemon): State<Daemon>,
    since: Query<Since>,
    headers: HeaderMap,
) -> Result<Response, Failed> {
    follow(daemon, None, since.0, &headers).await
}

async fn follow(
    daemon: Daemon,
    run: Option<RunId>,
    since: Since,
    headers: &HeaderMap,
) -> Result<Response, Failed> {
    let header = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let after = header.and_then(|id| id.parse().ok()).or(since.since);
    let events = events::stream(daemon.store, &daemon.live, run, after).await?;
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response())
}

async fn shutdown(State(daemon): State<Daemon>) -> Answer<serde_json::Value> {
    // Full: it was asked for already.
    let _ = daemon.leave.try_send(());
    Ok(Json(serde_json::json!({ "leaving": true })))
}

async fn nothing(uri: axum::http::Uri) -> Failed {
    let about = uri.path().to_owned();
    Error::new(Code::NotFound, about, "there is nothing there")
        .hint("see the README's section on control")
        .into()
}

async fn not_allowed(method: axum::http::Method, uri: axum::http::Uri) -> Failed {
    let message = format!("takes no {method}");
    Error::new(Code::NotFound, uri.path(), message).into()
}

fn run_id(text: &str) -> Result<RunId> {
    text.parse().map_err(|_| {
        Error::new(Code::NotFound, text, "is no number of a run").hint("GET /v1/runs lists them")
    })
}

fn down(e: CallError) -> Error {
    Error::new(Code::DaemonUnavailable, "runs", e).hint("it is being restarted: ask again")
}

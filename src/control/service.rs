//! Routes of the daemon as a whole.

use super::answer::Answer;
use super::openapi::about;
use super::router::Daemon;
use super::runs::LIST;
use super::{gpus, view};
use crate::actors::store::read;
use crate::domain::run_state::RunState;
use crate::protocol::api::{Down, Leaving, Status};
use crate::store::RunQuery;
use crate::supervise::{ChildRef, ChildState, GetChildren, Supervisor};
use crate::system::memory;
use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;

/// Ended runs in the status.
const RECENT: usize = 5;

/// The routes.
pub fn routes() -> ApiRouter<Daemon> {
    ApiRouter::new()
        .api_route(
            "/v1/status",
            get_with(status, about("The daemon at a glance")),
        )
        .api_route(
            "/v1/shutdown",
            post_with(shutdown, about("Save all runs and end the daemon")),
        )
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
        gpus: gpus::summary(&daemon).await,
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

async fn shutdown(State(daemon): State<Daemon>) -> Answer<Leaving> {
    // Full: it was asked for already.
    let _ = daemon.leave.try_send(());
    Ok(Json(Leaving { leaving: true }))
}

//! Routes of the daemon as a whole.

use super::answer::Answer;
use super::handlers;
use super::openapi::about;
use super::router::Daemon;
use super::{gpus, view};
use crate::actors::handlers::Handlers;
use crate::actors::store::read;
use crate::actors::sweep::Sweep;
use crate::domain::Result;
use crate::domain::run_state::RunState;
use crate::protocol::api::{Down, Leaving, Status};
use crate::protocol::handlers::HandlerView;
use crate::supervise::{ChildRef, ChildState, GetChildren, Supervisor};
use crate::system::memory;
use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;

/// Runs in the status that have not ended.
const ACTIVE: u32 = 100;
/// Ended runs in the status.
const RECENT: u32 = 5;

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
    let (census, active, ended, sweeps) = read(&daemon.store, |view| {
        let live = view.live_sweeps()?.into_iter();
        let sweeps = live.map(|id| Sweep::without_runs(view.sweep(id)?));
        let sweeps = sweeps.collect::<Result<Vec<_>>>()?;
        let (active, ended) = (view.active(ACTIVE)?, view.ended(RECENT)?);
        Ok((view.census()?, active, ended, sweeps))
    })
    .await?;
    let queued = census
        .iter()
        .filter(|(state, _)| *state == RunState::Queued);
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime: daemon.since.elapsed().as_secs_f64(),
        memory: memory::resident(),
        limit: daemon.settings.now().workers.limit,
        queued: queued.map(|(_, count)| *count as usize).sum(),
        gpus: gpus::summary(&daemon).await,
        sweeps: sweeps.into_iter().map(view::sweep).collect(),
        active: active.into_iter().map(view::run).collect(),
        recent: ended.into_iter().map(view::run).collect(),
        down: [ailing(&daemon.tree).await, failing(&daemon.handlers).await].concat(),
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

/// The event handlers that are not at work.
async fn failing(handlers: &ChildRef<Handlers>) -> Vec<Down> {
    // Where they do not answer, the tree says why.
    let views = handlers::views(handlers).await.unwrap_or_default();
    let down = |view: HandlerView| {
        let state = match view.state.as_str() {
            "quarantined" => "quarantined",
            "backing_off" => "being restarted",
            _ => return None,
        };
        Some(Down {
            actor: format!("handler {}", view.spec.name),
            state: state.to_owned(),
            cause: view.last_cause.unwrap_or_default(),
        })
    };
    views.into_iter().filter_map(down).collect()
}

async fn shutdown(State(daemon): State<Daemon>) -> Answer<Leaving> {
    // Full: it was asked for already.
    let _ = daemon.leave.try_send(());
    Ok(Json(Leaving { leaving: true }))
}

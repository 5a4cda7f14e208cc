//! `GET /v1/actors`.

use super::answer::Answer;
use super::openapi::about;
use super::router::Daemon;
use crate::domain::{Code, Error};
use crate::protocol::service::ActorView;
use crate::supervise::{ChildSnapshot, ChildState, GetChildren};
use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State;

/// The routes.
pub fn routes() -> ApiRouter<Daemon> {
    let actors = get_with(
        actors,
        about("The daemon's parts, as their supervisor sees them"),
    );
    ApiRouter::new().api_route("/v1/actors", actors)
}

async fn actors(State(daemon): State<Daemon>) -> Answer<Vec<ActorView>> {
    let children = daemon.tree.send(GetChildren).await.map_err(|e| {
        Error::new(Code::DaemonUnavailable, "supervisor", e).hint("restart the daemon")
    })?;
    Ok(Json(children.into_iter().map(view).collect()))
}

fn view(child: ChildSnapshot) -> ActorView {
    ActorView {
        well: child.is_well(),
        name: child.name,
        state: state(child.state).to_owned(),
        since: child.since_unix_ms,
        generation: child.generation,
        restarts: child.restarts,
        first_cause: child.first_cause.map(|cause| cause.to_string()),
        last_cause: child.last_cause.map(|cause| cause.to_string()),
        mailbox: child.mailbox_depth,
        mailbox_bound: child.mailbox_bound,
        messages_lost: child.messages_lost,
        progress: child.progress,
        stalled_ms: child.stalled_ms,
        stall_limit_ms: child.stall_limit_ms,
        abandoned: child.abandoned,
    }
}

fn state(state: ChildState) -> &'static str {
    match state {
        ChildState::Waiting => "waiting",
        ChildState::Starting => "starting",
        ChildState::Running => "running",
        ChildState::Stopping => "stopping",
        ChildState::BackingOff { .. } => "backing_off",
        ChildState::Quarantined => "quarantined",
        ChildState::Stopped => "stopped",
    }
}

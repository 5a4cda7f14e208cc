//! `GET /v1/config` and `POST /v1/reload`.

use super::answer::{Answer, Failed};
use super::openapi::about;
use super::router::Daemon;
use crate::config::redact::redact;
use crate::domain::{Code, Error};
use crate::protocol::service::Reloaded;
use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value};

/// The routes.
pub fn routes() -> ApiRouter<Daemon> {
    ApiRouter::new()
        .api_route(
            "/v1/config",
            get_with(
                config,
                about("The settings in use, as tables of daemon.toml, without secrets"),
            ),
        )
        .api_route(
            "/v1/reload",
            post_with(
                reload,
                about("Read daemon.toml again and use what can change without a restart"),
            ),
        )
}

async fn config(State(daemon): State<Daemon>) -> Answer<Map<String, Value>> {
    let settings = serde_json::to_value(&*daemon.settings.now());
    let mut settings = settings.map_err(|e| Failed(Error::new(Code::Internal, "settings", e)))?;
    redact(&mut settings);
    match settings {
        Value::Object(tables) => Ok(Json(tables)),
        _ => Ok(Json(Map::new())),
    }
}

async fn reload(State(daemon): State<Daemon>) -> Answer<Reloaded> {
    Ok(Json((daemon.reload)()?))
}

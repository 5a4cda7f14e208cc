//! `GET /v1/runs/{id}/metrics`.

use super::answer::Answer;
use super::extract::{Named, Params};
use super::openapi::about;
use super::router::Daemon;
use super::runs::OneRun;
use crate::actors::store::read;
use crate::domain::{Code, Error, Result};
use crate::protocol::service::Metrics;
use crate::store::MetricQuery;
use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Deserialize;

/// Points in a page that nobody sized, and in the largest.
const PAGE: (u32, u32) = (1000, 5000);

/// The routes.
pub fn routes() -> ApiRouter<Daemon> {
    let metrics = get_with(metrics, about("Measures of a run, page by page"));
    ApiRouter::new().api_route("/v1/runs/{id}/metrics", metrics)
}

/// Which points.
#[derive(Deserialize, JsonSchema)]
struct Which {
    /// Only those of this hook point.
    site: Option<String>,
    /// Only those from this step on.
    from: Option<u64>,
    /// Only those whose step is a multiple of this, for an overview of a long run.
    every: Option<u64>,
    /// What the page before said in `next`.
    after: Option<String>,
    /// Points in the page, 1000 where absent and 5000 at most.
    limit: Option<u32>,
}

async fn metrics(
    State(daemon): State<Daemon>,
    Named(one): Named<OneRun>,
    Params(which): Params<Which>,
) -> Answer<Metrics> {
    let run = one.id()?;
    let after = match &which.after {
        Some(after) => after_of(after)?,
        None => (which.from.unwrap_or(0), String::new()),
    };
    let limit = which.limit.unwrap_or(PAGE.0).clamp(1, PAGE.1);
    let points = read(&daemon.store, move |view| {
        let query = MetricQuery {
            site: which.site.as_deref(),
            after: (after.0, &after.1),
            every: which.every.unwrap_or(1),
        };
        view.metrics(run, &query, limit)
    })
    .await?;
    let full = points.len() == limit as usize;
    let last = points.last().filter(|_| full);
    Ok(Json(Metrics {
        run,
        next: last.map(|point| format!("{}:{}", point.step, point.site)),
        points,
    }))
}

fn after_of(text: &str) -> Result<(u64, String)> {
    let parts = text.split_once(':');
    let parts = parts.and_then(|(step, site)| Some((step.parse().ok()?, site.to_owned())));
    parts.ok_or_else(|| {
        Error::new(
            Code::Usage,
            "after",
            format!("{text:?} is no place between points"),
        )
        .hint("give what the page before said in `next`")
    })
}

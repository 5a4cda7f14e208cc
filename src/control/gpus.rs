//! GPUs: what the monitor saw, and which runs compute on them.

use super::answer::{Answer, Failed};
use super::extract::Named;
use super::openapi::about;
use super::router::Daemon;
use crate::actors::gpus::{GetGpuHistory, GetGpus, Watch};
use crate::actors::store::read;
use crate::domain::gpu::{GpuName, GpuStatus};
use crate::domain::{Code, Error, Result};
use crate::protocol::gpus::{GpuSummary, GpusView};
use crate::supervise::CallError;
use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Deserialize;

/// The routes.
pub fn routes() -> ApiRouter<Daemon> {
    ApiRouter::new()
        .api_route(
            "/v1/gpus",
            get_with(all, about("All GPUs, and the runs on them")),
        )
        .api_route(
            "/v1/gpus/{index}/history",
            get_with(history, about("The last statuses of a GPU, oldest first")),
        )
        .api_route(
            "/v1/gpus/pause",
            post_with(pause, about("Let the monitor neither tell nor act")),
        )
        .api_route(
            "/v1/gpus/resume",
            post_with(resume, about("Let the monitor tell and act again")),
        )
}

/// Which GPU.
#[derive(Deserialize, JsonSchema)]
struct OneGpu {
    /// The driver's index of the GPU.
    index: String,
}

async fn all(State(daemon): State<Daemon>) -> Answer<GpusView> {
    let view = daemon.gpus.send(GetGpus).await.map_err(down)?;
    Ok(Json(with_runs(&daemon, view).await?))
}

async fn history(
    State(daemon): State<Daemon>,
    Named(OneGpu { index }): Named<OneGpu>,
) -> Answer<Vec<GpuStatus>> {
    let index: u32 = index.parse().map_err(|_| {
        Error::new(Code::NotFound, &index, "is no index of a GPU")
            .hint("GET /v1/gpus lists those that are known")
    })?;
    let history = daemon.gpus.send(GetGpuHistory(index)).await.map_err(down)?;
    Ok(Json(history?))
}

async fn pause(State(daemon): State<Daemon>) -> Answer<GpusView> {
    watch(&daemon, false).await
}

async fn resume(State(daemon): State<Daemon>) -> Answer<GpusView> {
    watch(&daemon, true).await
}

async fn watch(daemon: &Daemon, on: bool) -> Answer<GpusView> {
    let view = daemon.gpus.send(Watch(on)).await.map_err(down)??;
    Ok(Json(with_runs(daemon, view).await?))
}

/// For the status: what is not known there is said in its line.
pub async fn summary(daemon: &Daemon) -> GpuSummary {
    match daemon.gpus.send(GetGpus).await {
        Ok(view) => view.summary(),
        Err(error) => GpuSummary {
            line: format!("unknown: {error}"),
            ..GpuSummary::default()
        },
    }
}

async fn with_runs(daemon: &Daemon, mut view: GpusView) -> Result<GpusView, Failed> {
    let runs = read(&daemon.store, |view| view.runs_with_gpu()).await?;
    for gpu in &mut view.gpus {
        let name = GpuName::from(&gpu.status.reading);
        let here = |run: &&crate::store::Run| run.lease.as_ref().is_some_and(|l| l.gpu.is(&name));
        gpu.runs = runs.iter().filter(here).map(|run| run.id).collect();
    }
    Ok(view)
}

fn down(e: CallError) -> Error {
    Error::new(Code::DaemonUnavailable, "gpus", e).hint("it is being restarted: ask again")
}

//! Connections of the control socket, each with limits: what a client sends slowly, or not
//! at all, costs a connection for some seconds and nothing else.

use super::answer::Failed;
use super::extract::too_large;
use crate::domain::{Code, Error};
use axum::Router;
use axum::extract::Request;
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

/// Longest request body in bytes.
pub const MAX_BODY: usize = 1 << 20;
/// Connections at once; a client more waits until another goes.
const CONNECTIONS: usize = 1024;
/// For the head of a request, and again for its body.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest head of a request in bytes.
const MAX_HEAD: usize = 64 << 10;

/// Accepts for as long as it is polled.
pub async fn serve(listener: UnixListener, router: Router) {
    let service = TowerToHyperService::new(router.layer(middleware::from_fn(limits)));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Too many open files: some will be closed.
                tracing::warn!("a connection cannot be accepted: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service.clone());
        tokio::spawn(async move {
            // The client went away, or talked nonsense and was told so.
            let _ = connection.await;
            drop(place);
        });
    }
}

async fn limits(request: Request, next: Next) -> Response {
    let length = request.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_BODY as u64) {
        return Failed(too_large()).into_response();
    }
    let about = request.uri().path().to_owned();
    match tokio::time::timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let message = "the request did not arrive, or was not answered, in time";
            let error = Error::new(Code::DaemonUnavailable, about, message);
            Failed(error.hint("ask again")).into_response()
        }
    }
}

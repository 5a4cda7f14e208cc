//! Connections, each with limits: what a client sends slowly, or not at all, or does not
//! read, costs a connection for some seconds and nothing else.

use super::access::{Access, Peer, Right};
use super::answer::Failed;
use super::extract::too_large;
use crate::domain::{Code, Error};
use crate::system::users;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;

/// Longest request body in bytes.
pub const MAX_BODY: usize = 1 << 20;
/// Connections at once, where as many files can be open; a client more waits until another
/// goes.
const CONNECTIONS: u64 = 1024;
/// Open files that are kept from clients: the database, workers' pipes, what handlers need.
const RESERVED: u64 = 48;
/// For the head of a request, and again for its body.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest head of a request in bytes.
const MAX_HEAD: usize = 64 << 10;

/// Where clients come from.
pub enum Listener {
    /// The control socket.
    Unix(UnixListener),
    /// An address.
    Tcp(TcpListener),
}

/// What all listeners share.
#[derive(Clone)]
pub struct Server {
    router: Router,
    access: Arc<Access>,
    places: Arc<Semaphore>,
    /// For a client to read something of what it is sent.
    unread: Duration,
}

impl Server {
    /// A server of `router` in a process that can have `files` open files, which cuts clients
    /// that read nothing for as long as `unread`.
    pub fn new(router: Router, access: Arc<Access>, files: u64, unread: Duration) -> Self {
        let places = files.saturating_sub(RESERVED).clamp(4, CONNECTIONS);
        Self {
            router: router
                .layer(middleware::from_fn(limits))
                .layer(middleware::from_fn_with_state(access.clone(), admit)),
            access,
            places: Arc::new(Semaphore::new(places as usize)),
            unread,
        }
    }

    /// Accepts for as long as it is polled.
    pub async fn serve(self, listener: Listener) {
        loop {
            let Ok(place) = self.places.clone().acquire_owned().await else {
                return;
            };
            let accepted = match &listener {
                Listener::Unix(listener) => match listener.accept().await {
                    Ok((stream, _)) => self.local(stream, place),
                    Err(e) => Err(e),
                },
                Listener::Tcp(listener) => match listener.accept().await {
                    Ok((stream, address)) => {
                        let peer = Peer::Remote(address.ip());
                        tokio::spawn(self.clone().connection(stream, peer, place));
                        Ok(())
                    }
                    Err(e) => Err(e),
                },
            };
            if let Err(e) = accepted {
                // Too many open files: some will be closed.
                tracing::warn!("a connection cannot be accepted: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    fn local<P: Send + 'static>(&self, stream: UnixStream, place: P) -> io::Result<()> {
        let by = stream.peer_cred()?;
        let (uid, gid, pid) = (by.uid(), by.gid(), by.pid());
        let server = self.clone();
        tokio::spawn(async move {
            let groups = match server.access.is_master(uid) {
                true => vec![gid],
                false => {
                    let asked = tokio::task::spawn_blocking(move || users::groups_of(uid, gid));
                    asked.await.unwrap_or_default()
                }
            };
            let groups = groups.into();
            let peer = Peer::Local { uid, groups, pid };
            server.connection(stream, peer, place).await;
        });
        Ok(())
    }

    async fn connection<S, P>(self, stream: S, peer: Peer, place: P)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
        P: Send,
    {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.unread));
        let router = TowerToHyperService::new(self.router);
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            router.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
        // The client went away, or talked nonsense and was told so.
        let _ = connection.await;
        drop(place);
    }
}

/// Lets a request pass whose sender may have it.
async fn admit(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Some(peer) = parts.extensions.get::<Peer>() else {
        let error = Error::new(Code::Internal, "peer", "nobody knows who asks");
        return Failed(error).into_response();
    };
    let (method, path) = (&parts.method, parts.uri.path());
    if let Err(error) = access.check(peer, &parts) {
        tracing::warn!(%peer, %method, path, "refused: {error}");
        let mut response = Failed(error).into_response();
        if response.status() == StatusCode::UNAUTHORIZED {
            let with = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, with);
        }
        return response;
    }
    if Right::needed(method) == Right::Write {
        tracing::info!(%peer, %method, path);
    }
    next.run(Request::from_parts(parts, body)).await
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

//! Requests over the control socket, for as many clients as one thread can play.

use crate::domain::{Code, Error, Result};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::path::Path;
use tokio::net::UnixStream;

/// One connection.
pub(super) struct Connection(SendRequest<Empty<Bytes>>);

impl Connection {
    pub async fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).await.map_err(|e| failed(&e))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| failed(&e))?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Asks, and waits for the head of the answer.
    pub async fn ask(&mut self, path: &str) -> Result<Response<Incoming>> {
        self.0.ready().await.map_err(|e| failed(&e))?;
        let request = Request::get(path)
            .header("host", "backpropd")
            .body(Empty::new())
            .map_err(|e| failed(&e))?;
        let response = self.0.send_request(request).await.map_err(|e| failed(&e))?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(failed(&format_args!("{path}: {}", response.status()))),
        }
    }

    /// Asks, and waits for the whole answer.
    pub async fn get(&mut self, path: &str) -> Result<Bytes> {
        let body = self.ask(path).await?.into_body().collect().await;
        Ok(body.map_err(|e| failed(&e))?.to_bytes())
    }
}

fn failed(e: &dyn std::fmt::Display) -> Error {
    Error::new(Code::DaemonUnavailable, "the daemon under test", e)
}

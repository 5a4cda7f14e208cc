//! HTTP over the control socket.

use crate::domain::{Code, Error, Result};
use crate::protocol::api::{Event, Problem};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;

/// Longest line of an event stream; a longer one is not from a daemon.
const MAX_LINE: usize = 2 << 20;

/// Where a daemon is.
#[derive(Debug)]
pub enum Place {
    /// At a Unix socket.
    Socket(PathBuf),
    /// At an address, with its token.
    Address {
        /// `http://HOST:PORT`
        url: Uri,
        /// What every request carries.
        token: String,
    },
}

impl Place {
    /// `url`, with the token in `file`.
    ///
    /// # Errors
    /// `usage`, `config-missing`.
    pub fn address(url: &str, file: Option<&Path>) -> Result<Self> {
        let bad = |message: &str| {
            Error::new(Code::Usage, format_args!("--url {url}"), message)
                .hint("e.g. --url http://127.0.0.1:8970")
        };
        let parsed: Uri = url.parse().map_err(|_| bad("is no address"))?;
        if parsed.scheme_str() != Some("http") || parsed.host().is_none() {
            return Err(bad("is no address of the form http://HOST:PORT"));
        }
        let file = file.ok_or_else(|| {
            let message = "needs --token-file, a file with the daemon's token";
            Error::new(Code::Usage, "--url", message)
        })?;
        let token = std::fs::read_to_string(file).map_err(|e| {
            let message = format!("cannot be read: {e}");
            Error::new(Code::ConfigMissing, file.display(), message)
                .hint("it holds what the daemon's control.token_file holds")
        })?;
        Ok(Self::Address {
            url: parsed,
            token: token.trim().to_owned(),
        })
    }

    fn host(&self) -> &str {
        match self {
            Self::Socket(_) => "backpropd",
            Self::Address { url, .. } => url.authority().map_or("", |a| a.as_str()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Address { url, .. } => url.fmt(f),
        }
    }
}

/// A daemon that is spoken to.
pub struct Client {
    place: Place,
    runtime: Runtime,
}

impl Client {
    /// The daemon at `place`.
    ///
    /// # Errors
    /// `internal`.
    pub fn new(place: Place) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::new(Code::Internal, "ctl", e))?;
        Ok(Self { place, runtime })
    }

    /// `GET path`.
    ///
    /// # Errors
    /// `daemon-unavailable`, or what the daemon answers.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call("GET", path, Bytes::new())
    }

    /// `GET path`, which is no JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn text(&self, path: &str) -> Result<String> {
        let body = self.fetch("GET", path, Bytes::new())?;
        String::from_utf8(body.into()).map_err(|e| self.strange(&e))
    }

    /// `POST path` with `body` as JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|e| self.strange(&e))?;
        self.call("POST", path, body.into())
    }

    /// `PUT path` with `body` as JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|e| self.strange(&e))?;
        self.call("PUT", path, body.into())
    }

    /// `DELETE path`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call("DELETE", path, Bytes::new())
    }

    /// Reads the events of the stream at `path` until `each` breaks or the daemon ends it.
    /// With `after` those that follow this id.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn events(
        &self,
        path: &str,
        after: Option<u64>,
        each: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<()> {
        self.runtime.block_on(async {
            let mut request = Request::get(path);
            if let Some(id) = after {
                request = request.header("last-event-id", id);
            }
            let mut response = self.send(request, Bytes::new()).await?;
            if !response.status().is_success() {
                return Err(self.problem(response).await);
            }
            let mut buffer = Vec::new();
            while let Some(frame) = response.body_mut().frame().await {
                // A daemon that goes away ends its streams.
                let Ok(frame) = frame else { break };
                buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| &data[..]));
                while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = buffer.drain(..=end).collect();
                    let Some(json) = line.strip_prefix(b"data:") else {
                        continue;
                    };
                    let event = serde_json::from_slice(json).map_err(|e| self.strange(&e))?;
                    if each(event).is_break() {
                        return Ok(());
                    }
                }
                if buffer.len() > MAX_LINE {
                    return Err(self.strange(&"a line is too long"));
                }
            }
            Ok(())
        })
    }

    fn call<T: DeserializeOwned>(&self, method: &str, path: &str, body: Bytes) -> Result<T> {
        let body = self.fetch(method, path, body)?;
        serde_json::from_slice(&body).map_err(|e| self.strange(&e))
    }

    fn fetch(&self, method: &str, path: &str, body: Bytes) -> Result<Bytes> {
        self.runtime.block_on(async {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("content-type", "application/json");
            let response = self.send(request, body).await?;
            if !response.status().is_success() {
                return Err(self.problem(response).await);
            }
            let body = response.into_body().collect().await;
            Ok(body.map_err(|e| self.broken(&e))?.to_bytes())
        })
    }

    async fn send(
        &self,
        request: hyper::http::request::Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let mut request = request.header("host", self.place.host());
        match &self.place {
            Place::Socket(path) => {
                let stream = UnixStream::connect(path).await;
                self.exchange(stream.map_err(|e| self.absent(&e))?, request, body)
                    .await
            }
            Place::Address { url, token } => {
                request = request.header("authorization", format!("Bearer {token}"));
                let host = url.host().unwrap_or_default();
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let stream = TcpStream::connect((host, url.port_u16().unwrap_or(80))).await;
                self.exchange(stream.map_err(|e| self.absent(&e))?, request, body)
                    .await
            }
        }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: hyper::http::request::Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.broken(&e))?;
        tokio::spawn(connection);
        let request = request
            .body(Full::new(body))
            .map_err(|e| self.strange(&e))?;
        sender
            .send_request(request)
            .await
            .map_err(|e| self.broken(&e))
    }

    async fn problem(&self, response: Response<Incoming>) -> Error {
        let status = response.status();
        let body = match response.into_body().collect().await {
            Ok(body) => body.to_bytes(),
            Err(e) => return self.broken(&e),
        };
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => problem.into(),
            Err(_) => self.strange(&format_args!("it answered {status}")),
        }
    }

    fn absent(&self, e: &std::io::Error) -> Error {
        let (message, hint) = match (e.kind(), &self.place) {
            (std::io::ErrorKind::PermissionDenied, _) => (
                "this user may not use the control socket".to_owned(),
                "join the socket's group, or name another socket with --socket",
            ),
            (_, Place::Socket(_)) => (
                format!("no daemon answers there: {e}"),
                "start one with `systemctl start backpropd` or `backpropd daemon`, or name \
                 its socket with --socket",
            ),
            (_, Place::Address { .. }) => (
                format!("no daemon answers there: {e}"),
                "daemon.toml of the daemon must have control.tcp",
            ),
        };
        Error::new(Code::DaemonUnavailable, &self.place, message).hint(hint)
    }

    /// The connection did not last: a daemon that was killed, or something that is none.
    fn broken(&self, e: &hyper::Error) -> Error {
        if e.is_parse() {
            return self.strange(e);
        }
        let message = format!("the daemon went away before it had answered: {e}");
        Error::new(Code::DaemonUnavailable, &self.place, message).hint("ask again")
    }

    fn strange(&self, what: &dyn fmt::Display) -> Error {
        let message = format!("the daemon was not understood: {what}");
        Error::new(Code::ProtocolInvalid, &self.place, message)
            .hint("do ctl and the daemon have the same version?")
    }
}

/// `text` as a part of an address.
pub fn encode(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

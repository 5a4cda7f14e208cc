//! The control socket, the service manager's or one of our own, and the TCP address.

use super::serve::Listener;
use crate::domain::{Code, Error, Result};
use listenfd::ListenFd;
use rustix::fs::Mode;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A control socket.
pub struct Socket {
    /// Where it lies.
    pub path: PathBuf,
    /// Its group.
    pub group: u32,
    listener: UnixListener,
    /// Whether it is this process's, and goes with it.
    ours: bool,
}

impl Socket {
    /// The first socket that the service manager passes on, else a new one at `path` with
    /// the permissions `mode`. One that nobody listens at is replaced.
    ///
    /// # Errors
    /// `daemon-running` where somebody does; `io-write`.
    pub fn open(path: &Path, mode: u32) -> Result<Self> {
        let fail = |e: std::io::Error| Error::write(path, &e);
        let mut passed = ListenFd::from_env();
        let passed = match passed.len() {
            0 => None,
            _ => passed.take_unix_listener(0).map_err(fail)?,
        };
        let ours = passed.is_none();
        let listener = match passed {
            Some(listener) => listener,
            None => bind(path, mode)?,
        };
        let address = listener.local_addr().map_err(fail)?;
        let path = address.as_pathname().unwrap_or(path).to_owned();
        listener.set_nonblocking(true).map_err(fail)?;
        let group = std::fs::metadata(&path).map_err(fail)?.gid();
        Ok(Self {
            path,
            group,
            listener,
            ours,
        })
    }

    /// Begins to listen, within a runtime.
    ///
    /// # Errors
    /// `internal`.
    pub fn listen(&self) -> Result<Listener> {
        let listener = self.listener.try_clone();
        let listener = listener.and_then(tokio::net::UnixListener::from_std);
        let listener = listener.map_err(|e| Error::new(Code::Internal, "control socket", e))?;
        Ok(Listener::Unix(listener))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn bind(path: &Path, mode: u32) -> Result<UnixListener> {
    if let Some(parent) = path.parent() {
        crate::system::files::create_dir(parent)?;
    }
    match UnixStream::connect(path) {
        Ok(_) => {
            let message = "another daemon listens there";
            return Err(Error::new(Code::DaemonRunning, path.display(), message)
                .hint("`backpropd ctl status` shows it; give this one another socket"));
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        // Left by a daemon that was killed.
        Err(_) => std::fs::remove_file(path).map_err(|e| Error::write(path, &e))?,
    }
    // From its first moment on, not a moment later. Nothing else runs in this process yet.
    let mask = rustix::process::umask(Mode::from_raw_mode(0o777 & !mode));
    let listener = UnixListener::bind(path);
    rustix::process::umask(mask);
    listener.map_err(|e| Error::write(path, &e))
}

/// Listens at `address`, within a runtime.
///
/// # Errors
/// `io-write`.
pub async fn listen_tcp(address: SocketAddr) -> Result<Listener> {
    let listener = tokio::net::TcpListener::bind(address).await;
    let listener = listener.map_err(|e| {
        let message = format!("cannot be listened at: {e}");
        Error::new(
            Code::IoWrite,
            format_args!("control.tcp: {address}"),
            message,
        )
    })?;
    Ok(Listener::Tcp(listener))
}

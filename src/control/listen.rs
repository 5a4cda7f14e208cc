//! The control socket: the service manager's, or one of our own.

use crate::domain::{Code, Error, Result};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Binds `path` with the permissions `mode`. A socket that nobody listens on is replaced.
///
/// # Errors
/// `daemon-running` where somebody does; `io-write`.
pub fn bind(path: &Path, mode: u32) -> Result<UnixListener> {
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
    let listener = UnixListener::bind(path).map_err(|e| Error::write(path, &e))?;
    std::fs::set_permissions(path, Permissions::from_mode(mode))
        .and_then(|()| listener.set_nonblocking(true))
        .map_err(|e| Error::write(path, &e))?;
    Ok(listener)
}

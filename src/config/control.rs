//! What `[control]` in daemon.toml must be.

use super::daemon::ControlTable;
use serde::{Deserialize, Deserializer};
use std::net::SocketAddr;

impl ControlTable {
    /// `mode` as a number.
    pub fn mode(&self) -> Option<u32> {
        let mode = u32::from_str_radix(&self.mode, 8).ok()?;
        (mode <= 0o777).then_some(mode)
    }

    /// `tcp`, where it is set and is an address.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.parse().ok()
    }

    /// The key that cannot be used, and why.
    pub(super) fn validate(&self) -> Result<(), (&'static str, String)> {
        if self.mode().is_none() {
            let message = format!("{:?} is no octal mode such as 0660", self.mode);
            return Err(("control.mode", message));
        }
        if self.tcp.is_empty() {
            return Ok(());
        }
        let Some(address) = self.address() else {
            let message = format!("{:?} is no address such as 127.0.0.1:8970", self.tcp);
            return Err(("control.tcp", message));
        };
        if !address.ip().is_loopback() && self.tcp_hosts.is_empty() {
            let message = format!(
                "{address} can be reached from elsewhere: say so with control.tcp_hosts, the \
                 names by which clients call it"
            );
            return Err(("control.tcp", message));
        }
        if self.token_file.as_os_str().is_empty() {
            let message = "control.tcp needs control.token_file: nobody is let in without a token";
            return Err(("control.tcp", message.to_owned()));
        }
        Ok(())
    }
}

/// A mode as text; a variable of the environment makes a number of it.
pub(super) fn mode<'de, D: Deserializer<'de>>(value: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an octal mode such as \"0660\"")]
    enum Mode {
        Text(String),
        Number(u32),
    }
    Ok(match Mode::deserialize(value)? {
        Mode::Text(text) => text,
        // The digits are octal already.
        Mode::Number(digits) => format!("{digits:04}"),
    })
}

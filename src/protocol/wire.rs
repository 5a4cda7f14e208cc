//! Lines of JSON between a worker process and whoever started it.
//!
//! The parent writes a [`Begin`] and then [`Command`](super::Command)s to the worker's
//! standard input; the worker writes [`Up`]s to its standard output. The end of standard
//! input means that the parent is gone.

use super::Frame;
use super::asset::AssetStart;
use crate::domain::{Code, DeviceName, Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Read, Write};

/// Longest line in bytes, its end included. A resolved run.toml has a few KiB, a
/// validation some 10 KiB for each hook point.
pub const MAX_LINE: usize = 1 << 20;

/// The first line to a worker: what it is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "work")]
pub enum Begin {
    /// Train.
    Train(Start),
    /// Look at a model or dataset.
    Asset(AssetStart),
}

/// A run to train, from its folder's newest valid checkpoint on, where it has one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// [`super::VERSION`].
    pub v: u32,
    /// The run, resolved: every path absolute, every override applied.
    pub run_toml: String,
    /// Where to compute.
    pub device: DeviceName,
    /// Threads of the CPU device; 0 means one a core.
    pub threads: usize,
    /// MiB of address space that the process may take; 0 for no limit.
    pub memory_mib: u64,
    /// Runs that compute on its GPU at once, itself included.
    pub runs_per_gpu: usize,
}

/// A line from a worker whose facts are of the type `F`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Up<F = Frame> {
    /// A fact.
    Frame(Box<F>),
    /// That the process is there, about once a second.
    Heartbeat {
        /// Grows whenever the run loop goes round; one that stands still is hung.
        heartbeat: u64,
    },
}

/// Writes `value` as one line.
///
/// # Errors
/// `protocol-invalid` where it is longer than [`MAX_LINE`]; `io-write` where the other end
/// is gone.
pub fn write_line<T: Serialize>(to: &mut impl Write, value: &T) -> Result<()> {
    let mut line = serde_json::to_vec(value).map_err(|e| invalid(&e))?;
    line.push(b'\n');
    if line.len() > MAX_LINE {
        return Err(invalid(&format_args!(
            "a line of {} bytes is over the limit of {MAX_LINE}",
            line.len()
        )));
    }
    to.write_all(&line)
        .and_then(|()| to.flush())
        .map_err(|e| Error::write("the other end of the pipe", &e))
}

/// Reads one line; `None` at the end.
///
/// # Errors
/// `protocol-invalid` where the line is too long, cut off or not what is expected;
/// `io-read`.
pub fn read_line<T: DeserializeOwned>(from: &mut impl BufRead) -> Result<Option<T>> {
    let mut line = Vec::new();
    from.take(MAX_LINE as u64)
        .read_until(b'\n', &mut line)
        .map_err(|e| Error::read("the other end of the pipe", &e))?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => serde_json::from_slice(&line)
            .map(Some)
            .map_err(|e| invalid(&e)),
        Some(_) if line.len() == MAX_LINE => Err(invalid(&format_args!(
            "a line is longer than {MAX_LINE} bytes"
        ))),
        Some(_) => Err(invalid(&"the last line is cut off")),
    }
}

fn invalid(what: &dyn std::fmt::Display) -> Error {
    Error::new(Code::ProtocolInvalid, "worker protocol", what)
}

#[cfg(test)]
mod tests {
    use super::super::{Command, Fact, VERSION};
    use super::*;

    #[test]
    fn lines_come_back_as_they_went() {
        let frame = Frame {
            v: VERSION,
            seq: 3,
            run: "a".into(),
            fact: Fact::Paused { step: 7 },
        };
        let ups = [Up::Frame(Box::new(frame)), Up::Heartbeat { heartbeat: 12 }];
        let mut bytes = Vec::new();
        for up in &ups {
            write_line(&mut bytes, up).unwrap();
        }
        let mut from = &bytes[..];
        for up in ups {
            assert_eq!(read_line::<Up>(&mut from).unwrap(), Some(up));
        }
        assert_eq!(read_line::<Up>(&mut from).unwrap(), None);
    }

    #[test]
    fn what_is_no_line_is_refused_without_reading_on() {
        let long = vec![b'x'; 2 * MAX_LINE];
        let cases: [&[u8]; 4] = [b"{}\n", b"\xff\n", b"{\"command\":\"pause\"}", &long];
        for bytes in cases {
            let mut from = bytes;
            let error = read_line::<Command>(&mut from).unwrap_err();
            assert_eq!(error.code, Code::ProtocolInvalid, "{error}");
            assert!(bytes.len() - from.len() <= MAX_LINE);
        }
    }

    #[test]
    fn too_much_is_not_sent() {
        let error = write_line(&mut Vec::new(), &"x".repeat(MAX_LINE)).unwrap_err();
        assert_eq!(error.code, Code::ProtocolInvalid);
    }
}

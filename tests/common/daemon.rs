//! The daemon as a user has it: the real binary, its socket, real signals.

use super::{Fixture, backpropd, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// A daemon with a state folder of its own beside a [`Fixture`].
pub struct Daemon<'a> {
    pub fixture: &'a Fixture,
    pub child: Child,
}

impl<'a> Daemon<'a> {
    pub fn start(fixture: &'a Fixture) -> Self {
        Self::start_with(fixture, &[])
    }

    /// With the settings of the file `config`.
    pub fn start_config(fixture: &'a Fixture, config: &std::path::Path) -> Self {
        let mut command = Self::command(fixture);
        command.arg("--config").arg(config);
        Self::start_of(&mut command, fixture)
    }

    pub fn start_with(fixture: &'a Fixture, settings: &[(&str, &str)]) -> Self {
        let mut command = Self::command(fixture);
        command.envs(settings.iter().copied());
        Self::start_of(&mut command, fixture)
    }

    /// Started by `command`, which says what else it needs.
    pub fn start_of(command: &mut Command, fixture: &'a Fixture) -> Self {
        Self::spawn(command.stderr(Stdio::null()), fixture)
    }

    /// Started with its log to `log`.
    pub fn start_logging(fixture: &'a Fixture, log: Stdio) -> Self {
        Self::spawn(Self::command(fixture).stderr(log), fixture)
    }

    /// Started by `command` as it is.
    pub fn spawn(command: &mut Command, fixture: &'a Fixture) -> Self {
        let child = command.spawn().unwrap();
        let daemon = Self { fixture, child };
        until("the daemon answers", || {
            daemon.ctl(&["status"]).status.success().then_some(())
        });
        daemon
    }

    pub fn command(fixture: &Fixture) -> Command {
        let mut command = backpropd();
        command
            .arg("daemon")
            .env("BACKPROPD_DAEMON__STATE_DIR", fixture.path("state"))
            .env("BACKPROPD_CONTROL__SOCKET", fixture.path("socket"))
            .env("BACKPROPD_WORKERS__THREADS", "1")
            .env("BACKPROPD_CACHE", fixture.path("token-cache"))
            .stdin(Stdio::null());
        command
    }

    pub fn socket(&self) -> PathBuf {
        self.fixture.path("socket")
    }

    pub fn ctl(&self, args: &[&str]) -> Output {
        backpropd()
            .current_dir(self.fixture.dir.path())
            .args(["ctl", "--socket"])
            .arg(self.socket())
            .args(args)
            .output()
            .unwrap()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.ctl(&[args, &["--json"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn submit(&self, out: &str, more: &[&str]) -> u64 {
        let output = format!("output={out}");
        let run = self.json(&[&["submit", "run.toml", "--set", &output], more].concat());
        run["id"].as_u64().unwrap()
    }

    pub fn show(&self, run: u64) -> Value {
        self.json(&["show", &run.to_string()])
    }

    /// Waits for `state`.
    pub fn reaches(&self, run: u64, state: &str) -> Value {
        until(state, || {
            let shown = self.show(run);
            assert_ne!(shown["state"], "failed", "{shown}");
            (shown["state"] == state).then_some(shown)
        })
    }

    /// Waits until a worker other than `not` has done `step` steps, and returns its pid.
    pub fn trains(&self, run: u64, step: u64, not: Option<i32>) -> i32 {
        until("steps", || {
            let shown = self.show(run);
            let pid = shown["pid"].as_i64()? as i32;
            let far = shown["step"].as_u64()? >= step && shown["state"] == "running";
            (far && Some(pid) != not).then_some(pid)
        })
    }

    pub fn signal(mut self, signal: Signal) -> std::process::ExitStatus {
        kill(self.child.id() as i32, signal);
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// An answer of HTTP.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The head, in small letters.
    pub head: String,
    pub body: String,
}

impl Answer {
    /// What came back, as far as it did.
    pub fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        Self {
            status: status.unwrap_or(0),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// A socket of either kind.
pub trait Stream: Read + Write {
    /// For how long a read waits.
    fn set_patience(&self, patience: Duration);
}

impl Stream for UnixStream {
    fn set_patience(&self, patience: Duration) {
        self.set_read_timeout(Some(patience)).unwrap();
    }
}

impl Stream for TcpStream {
    fn set_patience(&self, patience: Duration) {
        self.set_read_timeout(Some(patience)).unwrap();
    }
}

/// Writes `request` as it is and reads what comes back until the other side closes, for ten
/// seconds at most.
pub fn exchange(mut stream: impl Stream, request: &[u8]) -> Answer {
    stream.set_patience(Duration::from_secs(10));
    // The daemon may answer and close before everything is written.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    Answer::parse(&String::from_utf8_lossy(&bytes))
}

impl Daemon<'_> {
    /// One request as a client with few words makes it.
    pub fn http(&self, method: &str, path: &str, body: &str) -> Answer {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        let stream = UnixStream::connect(self.socket()).unwrap();
        exchange(stream, request.as_bytes())
    }
}

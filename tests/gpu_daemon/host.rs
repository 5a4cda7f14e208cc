//! A host with GPUs that do what a test says, and a daemon on it.

use super::common::daemon::Daemon;
use super::common::{Fixture, until};
use super::stub_nvml::StubNvml;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// More than anything here takes, by orders.
const PATIENCE: Duration = Duration::from_secs(30);

/// A driver's library, and the folder that daemons share.
pub struct Host {
    pub stub: StubNvml,
    pub fixture: Fixture,
}

impl Host {
    /// A host whose GPUs follow `script`, with a run that takes some seconds.
    pub fn new(script: &str) -> Self {
        Self::with_steps(script, 400)
    }

    pub fn with_steps(script: &str, steps: u64) -> Self {
        Self {
            stub: StubNvml::new(script),
            fixture: Fixture::new(steps),
        }
    }

    /// One GPU of 70 °C.
    pub fn with_one_gpu() -> Self {
        Self::new("driver 570.00\ngpus 1\nuuid 0 GPU-5a\nname 0 Stub H100\ntemperature 0 70\n")
    }

    pub fn daemon(&self) -> Daemon<'_> {
        self.daemon_with(&[])
    }

    pub fn daemon_with(&self, settings: &[(&str, &str)]) -> Daemon<'_> {
        let library = self.stub.library();
        let own = [
            ("BACKPROPD_NVML", library.to_str().unwrap()),
            ("BACKPROPD_GPUS__INTERVAL_SECONDS", "0.1"),
        ];
        Daemon::start_with(&self.fixture, &[&own, settings].concat())
    }

    pub fn temperature(&self, gpu: u32, value: &str) {
        self.stub.set("temperature", gpu, value);
    }

    /// What the run would be if nothing had happened to it.
    pub fn undisturbed(&self) -> super::common::RunResult {
        self.fixture.events("alone", &[]);
        self.fixture.result("alone")
    }
}

/// A subscriber of all events.
pub struct Feed {
    events: Receiver<Value>,
    pub heard: Vec<Value>,
}

impl Feed {
    /// What happens from now on, and what is kept of before.
    pub fn of(daemon: &Daemon<'_>) -> Self {
        Self::since(daemon, "?since=0")
    }

    pub fn since(daemon: &Daemon<'_>, query: &str) -> Self {
        Self::at(daemon, &format!("/v1/events{query}"))
    }

    /// What `path` streams.
    pub fn at(daemon: &Daemon<'_>, path: &str) -> Self {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let (to, events) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let Some(json) = line.strip_prefix("data:") else {
                    continue;
                };
                if to.send(serde_json::from_str(json).unwrap()).is_err() {
                    return;
                }
            }
        });
        Self {
            events,
            heard: Vec::new(),
        }
    }

    /// The next event that `is` holds for; what came before it is in `heard` too.
    pub fn next(&mut self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left).unwrap_or_else(|_| {
                let kinds: Vec<_> = self.heard.iter().map(|e| e["kind"].to_string()).collect();
                panic!("{what} did not come after {}", kinds.join(" "))
            });
            self.heard.push(event.clone());
            if is(&event) {
                return event;
            }
        }
    }

    pub fn kind(&mut self, kind: &str) -> Value {
        self.next(kind, |event| event["kind"] == kind)
    }

    /// `n` further looks at the GPU `index`.
    pub fn looks(&mut self, index: u32, n: usize) -> Vec<Value> {
        let is = |e: &Value| e["kind"] == "gpu_status" && e["status"]["index"] == index;
        (0..n).map(|_| self.next("a look", is)).collect()
    }

    /// A word of the monitor to the runs.
    pub fn action(&mut self, action: &str) -> Value {
        self.next(action, |e| {
            e["kind"] == "gpu_action" && e["action"] == action
        })
    }

    /// The events of the log of these kinds, in their order.
    pub fn order(&self, kinds: &[&str]) -> Vec<String> {
        let kept = self.heard.iter().filter(|e| e["id"].is_u64());
        kept.map(|e| e["kind"].as_str().unwrap().to_owned())
            .filter(|kind| kinds.contains(&kind.as_str()))
            .collect()
    }
}

/// The variable of a process.
pub fn variable(pid: i32, name: &str) -> Option<String> {
    let all = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let all = String::from_utf8_lossy(&all).into_owned();
    all.split('\0')
        .find_map(|pair| Some(pair.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

/// Waits until the daemon knows `n` GPUs.
pub fn knows(daemon: &Daemon<'_>, n: usize) -> Value {
    until("the GPUs are known", || {
        let view = daemon.json(&["gpus"]);
        (view["gpus"].as_array().unwrap().len() == n).then_some(view)
    })
}

//! `exec`: a program is started for each event, which it reads as JSON from its standard
//! input.
//!
//! It gets an environment of its own and a process group of its own, of which nothing is
//! left when it has ended or its deadline has come.

use super::{Ending, EventHandler, Settings};
use crate::domain::{Code, Error, Result};
use crate::protocol::api::Event;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, OFlags, fcntl_setfl, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What is kept of standard error for the error of a program that fails.
const LAST_WORDS: usize = 1024;
/// Reads after the end of a program: as much as a pipe holds, whoever still writes to it.
const PIPE: u32 = 16;
/// How often it is looked whether the daemon ends.
const LOOK: Duration = Duration::from_millis(250);
/// Where programs find others.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    /// The program, by its whole path, and its arguments.
    command: Vec<String>,
    /// Variables beside those that every program gets.
    #[serde(default)]
    env: BTreeMap<String, String>,
}

/// A program and how it is started.
#[derive(Clone)]
pub(super) struct Exec {
    program: String,
    arguments: Vec<String>,
    env: BTreeMap<String, String>,
    socket: PathBuf,
    deadline: Duration,
    ending: Ending,
}

pub(super) fn prepare(settings: &Settings) -> Result<impl Fn() -> Result<Exec> + use<>> {
    let keys: Keys = settings.decode()?;
    let mut words = keys.command.into_iter();
    let program = words.next().unwrap_or_default();
    if !Path::new(&program).is_absolute() {
        let message = format!("{program:?} is not the whole path of a program");
        return Err(settings.invalid("command", message));
    }
    let strange = |name: &&String| name.is_empty() || name.contains(['=', '\0']);
    if let Some(name) = keys.env.keys().find(strange) {
        return Err(settings.invalid("env", format_args!("{name:?} is no name of a variable")));
    }
    let exec = Exec {
        program,
        arguments: words.collect(),
        env: keys.env,
        socket: settings.host.socket.clone(),
        deadline: settings.deadline,
        ending: settings.host.ending.clone(),
    };
    Ok(move || Ok(exec.clone()))
}

impl Exec {
    fn failed(&self, message: impl std::fmt::Display) -> Error {
        Error::new(Code::HandlerFailed, &self.program, message)
    }

    fn spawn(&self, event: &Event) -> std::io::Result<Child> {
        // A file and no pipe: a program that does not read keeps nobody waiting.
        let mut input = File::from(memfd_create("event", MemfdFlags::CLOEXEC)?);
        serde_json::to_writer(&mut input, event)?;
        input.write_all(b"\n")?;
        input.rewind()?;
        let run = event.run.map(|run| ("BACKPROPD_RUN", run.to_string()));
        Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("LANG", "C.UTF-8")
            .env("BACKPROPD_SOCKET", &self.socket)
            .env("BACKPROPD_EVENT", &event.kind)
            .envs(run)
            .envs(&self.env)
            .current_dir("/")
            .process_group(0)
            .stdin(input)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    }
}

impl EventHandler for Exec {
    fn handle(&mut self, event: &Event) -> Result<()> {
        let until = Instant::now() + self.deadline;
        let child = self
            .spawn(event)
            .map_err(|e| self.failed(format_args!("cannot be started: {e}")))?;
        let mut running =
            Running::new(child).map_err(|e| self.failed(format_args!("cannot be watched: {e}")))?;
        let ended = running
            .wait(until, &self.ending)
            .map_err(|e| self.failed(format_args!("cannot be waited for: {e}")))?;
        let words = running.words();
        match ended {
            Some(status) if status.success() => Ok(()),
            Some(status) => {
                let how = match (status.code(), status.signal()) {
                    (Some(code), _) => format!("ended with exit status {code}"),
                    (None, signal) => format!("was killed by signal {}", signal.unwrap_or(0)),
                };
                Err(self.failed(format_args!("{how}{words}")))
            }
            None => Err(self.failed(format_args!(
                "did not end within {} s and was killed{words}",
                self.deadline.as_secs_f64()
            ))),
        }
    }
}

/// A program at work. Dropping it kills its process group.
struct Running {
    child: Child,
    pid: Pid,
    pidfd: OwnedFd,
    stderr: Option<ChildStderr>,
    words: Vec<u8>,
}

impl Running {
    fn new(mut child: Child) -> std::io::Result<Self> {
        let pid = Pid::from_child(&child);
        let stderr = child.stderr.take();
        let watched = pidfd_open(pid, PidfdFlags::empty()).and_then(|pidfd| {
            if let Some(stderr) = &stderr {
                fcntl_setfl(stderr, OFlags::NONBLOCK)?;
            }
            Ok(pidfd)
        });
        match watched {
            Ok(pidfd) => Ok(Self {
                child,
                pid,
                pidfd,
                stderr,
                words: Vec::new(),
            }),
            Err(e) => {
                let _ = kill_process_group(pid, Signal::KILL);
                let _ = child.wait();
                Err(e.into())
            }
        }
    }

    /// Waits for the end of the program, and then ends its process group; nothing where
    /// `until`, or the end of the daemon, came first.
    fn wait(&mut self, until: Instant, ending: &Ending) -> std::io::Result<Option<ExitStatus>> {
        loop {
            let left = until.saturating_duration_since(Instant::now()).min(LOOK);
            if left.is_zero() || ending.is_set() {
                self.end();
                return Ok(None);
            }
            let exited = {
                let mut fds = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
                fds.extend(
                    self.stderr
                        .as_ref()
                        .map(|fd| PollFd::new(fd, PollFlags::IN)),
                );
                match poll(
                    &mut fds,
                    Some(&Timespec::try_from(left).unwrap_or_default()),
                ) {
                    Ok(_) | Err(Errno::INTR) => !fds[0].revents().is_empty(),
                    Err(e) => return Err(e.into()),
                }
            };
            self.listen();
            if exited {
                let status = self.end();
                // What it still had to say, which lies in the pipe.
                let mut reads = 0;
                while self.listen() && reads < PIPE {
                    reads += 1;
                }
                return Ok(status);
            }
        }
    }

    /// Reads what is there of standard error and keeps the end of it; whether there may be
    /// more.
    fn listen(&mut self) -> bool {
        let Some(stderr) = &mut self.stderr else {
            return false;
        };
        let mut buffer = [0; 4096];
        match stderr.read(&mut buffer) {
            Ok(0) => {
                self.stderr = None;
                false
            }
            Ok(n) => {
                self.words.extend_from_slice(&buffer[..n]);
                let excess = self.words.len().saturating_sub(LAST_WORDS);
                self.words.drain(..excess);
                true
            }
            // Nothing is there.
            Err(_) => false,
        }
    }

    /// Kills whatever is left of the process group, which keeps its number until the leader
    /// was waited for.
    fn end(&mut self) -> Option<ExitStatus> {
        let _ = kill_process_group(self.pid, Signal::KILL);
        self.child.wait().ok()
    }

    fn words(&self) -> String {
        let words = String::from_utf8_lossy(&self.words);
        let words: Vec<&str> = words.split_whitespace().collect();
        match words.is_empty() {
            true => String::new(),
            false => format!("; its last words: {}", words.join(" ").escape_debug()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of no effect where it was waited for: then the standard library knows its status.
        if let Ok(None) = self.child.try_wait() {
            self.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::RunId;
    use serde_json::json;

    fn exec(script: &str, deadline: Duration) -> Exec {
        Exec {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            env: [("EXTRA".to_owned(), "a b".to_owned())].into(),
            socket: "/run/socket".into(),
            deadline,
            ending: Ending::default(),
        }
    }

    fn event(text: &str) -> Event {
        let fields = json!({ "message": text });
        Event::new(7, Some(RunId(3)), Some(1), 0, "warning", fields)
    }

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_program_gets_the_event_and_an_environment_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let script = format!("{{ cat; env | sort; pwd; }} > {}", out.display());
        exec(&script, SOON).handle(&event("x")).unwrap();
        let text = std::fs::read_to_string(out).unwrap();
        let (line, env) = text.split_once('\n').unwrap();
        assert_eq!(serde_json::from_str::<Event>(line).unwrap(), event("x"));
        let env: Vec<&str> = env.lines().filter(|l| !l.starts_with("_=")).collect();
        let expected = [
            "BACKPROPD_EVENT=warning",
            "BACKPROPD_RUN=3",
            "BACKPROPD_SOCKET=/run/socket",
            "EXTRA=a b",
            "LANG=C.UTF-8",
            "PATH=/usr/local/bin:/usr/bin:/bin",
            "PWD=/",
        ];
        let others = ["OLDPWD", "SHLVL"];
        let known = |l: &&&str| !others.iter().any(|name| l.starts_with(name));
        let env: Vec<&str> = env.iter().filter(known).copied().collect();
        assert_eq!(env[..expected.len()], expected);
        assert_eq!(env[expected.len()..], ["/"]);
    }

    #[test]
    fn nothing_of_a_program_outlives_its_deadline_or_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        for (script, deadline) in [
            (
                "sleep 600 & echo $! > F; sleep 600",
                Duration::from_millis(300),
            ),
            (
                "sleep 600 & echo $! > F; trap '' TERM; while :; do sleep 1; done",
                Duration::from_millis(300),
            ),
            ("sleep 600 & echo $! > F", SOON),
        ] {
            let script = script.replace('F', &file.display().to_string());
            let began = Instant::now();
            let result = exec(&script, deadline).handle(&event("x"));
            assert_eq!(result.is_ok(), deadline == SOON, "{result:?}");
            assert!(began.elapsed() < Duration::from_secs(5));
            let pid = std::fs::read_to_string(&file).unwrap();
            let stat = format!("/proc/{}/stat", pid.trim());
            let dead = || match std::fs::read_to_string(&stat) {
                Ok(stat) => stat.rsplit_once(") ").unwrap().1.starts_with('Z'),
                Err(_) => true,
            };
            while !dead() {
                assert!(began.elapsed() < Duration::from_secs(10), "{script}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    #[test]
    fn a_program_does_not_outlive_the_daemon() {
        let mut exec = exec("exec sleep 600", Duration::from_secs(600));
        let ending = exec.ending.clone();
        let began = Instant::now();
        let end = std::thread::spawn(move || exec.handle(&event("x")));
        ending.set();
        assert!(end.join().unwrap().is_err());
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn how_a_program_fails_is_said_on_one_line() {
        let noisy = "yes '\x1b[31mtoo\tmuch' | head -c 1000000 >&2; echo the end >&2; exit 3";
        for (script, parts) in [
            ("exit 0 < /dev/null", &[][..]),
            (noisy, &["exit status 3", "the end"]),
            ("kill -9 $$", &["signal 9"]),
            ("exec sleep 60", &["did not end within 1 s and was killed"]),
        ] {
            let result = exec(script, Duration::from_secs(1)).handle(&event(&"x".repeat(1 << 20)));
            match result {
                Ok(()) => assert!(parts.is_empty()),
                Err(error) => {
                    assert_eq!(error.code, Code::HandlerFailed);
                    let said = error.to_string();
                    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
                    assert!(
                        !said.contains(['\n', '\x1b']) && said.len() < 3000,
                        "{said}"
                    );
                }
            }
        }
        let mut missing = exec("", SOON);
        missing.program = "/nowhere".into();
        let error = missing.handle(&event("x")).unwrap_err();
        assert!(
            error.to_string().contains("/nowhere: cannot be started"),
            "{error}"
        );
    }
}

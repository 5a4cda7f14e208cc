//! A worker process: spawned, listened to, told commands, watched by its heartbeats, and
//! its end told from the other ends.
//!
//! The process outlives whoever drives it by as much as it takes to end in order: when the
//! future of [`Worker::live`] goes, the worker's standard input ends, and with it the worker.

use crate::domain::worker_end::{NO_MEMORY, Remains, Said, WorkerEnd};
use crate::domain::{Code, Error, Process};
use crate::protocol::Command;
use crate::protocol::wire::{Begin, MAX_LINE, Up};
use crate::system::process;
use futures_util::future::OptionFuture;
use futures_util::{FutureExt, StreamExt};
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tracing::Instrument;

/// Commands on their way to a worker. Each is idempotent, so more would say nothing new.
const COMMANDS: usize = 64;
/// What is kept of standard error for the error that a lost worker leaves.
const LAST_WORDS: usize = 2048;
/// How often heartbeats and deadlines are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Facts of a worker that was told to end which wait for whoever listens: all that it may
/// have kept for a listener (`worker::link`), and its last ones.
const LAST_LINES: usize = 1 << 17;
/// How long the last lines of a process that has exited are waited for.
const DRAIN: Duration = Duration::from_secs(5);

/// How long a worker may stand still, and how long it may take to end.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Without a sign of work.
    pub hang: Duration,
    /// From a command that ends it to its end.
    pub stop: Duration,
}

/// What is heard of a worker, in order.
#[derive(Debug)]
pub enum Heard<F> {
    /// The process is there.
    Spawned(Process),
    /// The worker said something.
    Frame(Box<F>),
    /// The process is gone; nothing more follows.
    Ended(WorkerEnd),
}

/// What a kind of worker says.
pub trait Says: DeserializeOwned + 'static {
    /// What it means for the one who watches.
    fn meaning(&self) -> Meaning;
}

/// What something that a worker says means for the one who watches it.
pub enum Meaning {
    /// It is at work.
    AtWork,
    /// It waits, so that it need show no work.
    Paused,
    /// It goes on.
    Resumed,
    /// It has ended.
    Last(Said),
}

/// A worker that is to be started.
pub struct Worker {
    program: PathBuf,
    /// The GPU that it may use, as CUDA names it; none for whatever it finds.
    device: Option<String>,
    begin: Begin,
    limits: Limits,
    commands: mpsc::Receiver<Command>,
    /// What it works for, in the log.
    who: String,
}

/// The way to tell a worker something.
pub type Commands = mpsc::Sender<Command>;

impl Worker {
    /// A worker for `who` that is told `begin`, and the way to tell it more.
    pub fn new(who: String, begin: Begin, limits: Limits) -> (Self, Commands) {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let worker = Self {
            // The program that runs, even where its file was replaced meanwhile.
            program: "/proc/self/exe".into(),
            device: None,
            begin,
            limits,
            commands,
            who,
        };
        (worker, sender)
    }

    /// Starts `program` in place of this one.
    #[must_use]
    pub fn of_program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// Lets it see one GPU only.
    #[must_use]
    pub fn on_device(mut self, device: Option<String>) -> Self {
        self.device = device;
        self
    }

    /// Starts the process and tells what is heard of it, until it is gone. The next line of
    /// the worker is not taken before the last one was told: its pipe holds it back. What it
    /// is told never waits for that, and one that was told to end is heard out: nobody who
    /// does not listen keeps its process.
    pub async fn live<F, T>(mut self, mut tell: impl FnMut(Heard<F>) -> T)
    where
        F: Says,
        T: Future<Output = ()>,
    {
        let mut running = match self.spawn() {
            Ok(running) => running,
            Err(e) => {
                let message = format!("cannot be started: {e}");
                let error = Error::new(Code::WorkerLost, "worker", message);
                return tell(Heard::Ended(WorkerEnd::Lost(error))).await;
            }
        };
        let mut watch = Watch::new(self.limits);
        let spawned = running.process.clone().map(Heard::Spawned);
        let mut waiting: VecDeque<Heard<F>> = spawned.into_iter().collect();
        let mut telling = pin!(None::<T>);
        let mut look = tokio::time::interval(LOOK);
        let (mut drained, mut gone) = (false, None::<Instant>);
        loop {
            if telling.is_none() {
                match waiting.pop_front() {
                    Some(heard) => telling.set(Some(tell(heard))),
                    None if gone.is_some_and(|at| drained || at.elapsed() >= DRAIN) => break,
                    None => {}
                }
            }
            let told = telling.as_mut().as_pin_mut();
            let held_back = told.is_some();
            let listens = !held_back || (watch.ends() && waiting.len() < LAST_LINES);
            tokio::select! {
                () = OptionFuture::from(told).map(drop), if held_back => {
                    telling.set(None);
                    // It was held back, which is no standing still.
                    watch.rested();
                    gone = gone.map(|_| Instant::now());
                }
                line = running.lines.next(), if listens && !drained => {
                    match line.map(understand::<F>) {
                        None => drained = true,
                        Some(Ok(Up::Frame(frame))) => {
                            watch.hear(frame.meaning());
                            waiting.push_back(Heard::Frame(frame));
                        }
                        Some(Ok(Up::Heartbeat { heartbeat })) => watch.beat(heartbeat),
                        Some(Err(e)) => {
                            tracing::error!(
                                who = %self.who,
                                "the worker was not understood and is killed: {e}"
                            );
                            running.kill();
                        }
                    }
                }
                exit = running.child.wait(), if gone.is_none() => {
                    gone = Some(Instant::now());
                    watch.exited(exit, &self.who);
                }
                Some(command) = self.commands.recv() => {
                    watch.told(command);
                    if running.commands.try_send(command).is_err() {
                        tracing::warn!(who = %self.who, "the worker does not take commands");
                    }
                }
                _ = look.tick() => {
                    if !listens {
                        watch.rested();
                    }
                    if gone.is_none() && watch.is_over() {
                        running.kill();
                    }
                }
            }
        }
        let end = running.remains(watch.remains).await.end();
        tell(Heard::Ended(end)).await;
    }

    fn spawn(&self) -> std::io::Result<Running> {
        let memory_kills = process::memory_kills();
        let mut command = tokio::process::Command::new(&self.program);
        if let Some(device) = &self.device {
            // Indices, where there is no uuid, are the driver's.
            command
                .env("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
                .env("CUDA_VISIBLE_DEVICES", device);
        }
        let mut child: Child = command
            .arg("worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in the daemon's terminal is for the daemon.
            .process_group(0)
            .spawn()?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(std::io::Error::other("a pipe is missing"));
        };
        let (commands, queue) = mpsc::channel(COMMANDS);
        let words = Arc::default();
        tokio::spawn(write(stdin, self.begin.clone(), queue));
        let read = read_words(stderr, Arc::clone(&words), self.who.clone());
        let reading = tokio::spawn(read.in_current_span());
        Ok(Running {
            process: child.id().and_then(Process::of),
            child,
            lines: FramedRead::new(stdout, LinesCodec::new_with_max_length(MAX_LINE)),
            commands,
            words,
            reading,
            memory_kills,
        })
    }
}

fn understand<F: Says>(line: Result<String, LinesCodecError>) -> Result<Up<F>, String> {
    let line = line.map_err(|e| e.to_string())?;
    serde_json::from_str(&line).map_err(|e| e.to_string())
}

/// A process and its pipes.
struct Running {
    child: Child,
    process: Option<Process>,
    lines: FramedRead<ChildStdout, LinesCodec>,
    commands: mpsc::Sender<Command>,
    words: Arc<Mutex<Words>>,
    /// Ends with standard error.
    reading: JoinHandle<()>,
    memory_kills: Option<u64>,
}

impl Running {
    fn kill(&self) {
        if let Some(process) = &self.process {
            process.kill();
        }
    }

    /// What is left when the process is gone, its last words included.
    async fn remains(self, mut remains: Remains) -> Remains {
        // Whoever has the pipe too may keep it open.
        let _ = tokio::time::timeout(DRAIN, self.reading).await;
        remains.memory_kill = match (self.memory_kills, process::memory_kills()) {
            (Some(before), Some(after)) => after > before,
            _ => false,
        };
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        remains.last_words.clone_from(&words.last);
        remains.refused.clone_from(&words.refused);
        remains
    }
}

/// What is known of a worker while it is there.
struct Watch {
    limits: Limits,
    remains: Remains,
    /// The last heartbeat, and when there was the last sign of work.
    beat: (u64, Instant),
    paused: bool,
    deadline: Option<Instant>,
}

impl Watch {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            remains: Remains::default(),
            beat: (0, Instant::now()),
            paused: false,
            deadline: None,
        }
    }

    fn rested(&mut self) {
        self.beat.1 = Instant::now();
    }

    fn beat(&mut self, heartbeat: u64) {
        if heartbeat != self.beat.0 {
            self.beat = (heartbeat, Instant::now());
        }
    }

    fn hear(&mut self, meaning: Meaning) {
        self.rested();
        match meaning {
            Meaning::AtWork => {}
            Meaning::Paused => self.paused = true,
            Meaning::Resumed => self.paused = false,
            Meaning::Last(said) => self.remains.said = Some(said),
        }
    }

    fn told(&mut self, command: Command) {
        if matches!(command, Command::Stop | Command::Abort) {
            self.deadline
                .get_or_insert_with(|| Instant::now() + self.limits.stop);
        }
    }

    /// Whether it was told to end.
    fn ends(&self) -> bool {
        self.deadline.is_some()
    }

    /// Whether it is to be killed: it did not end in time, or stands still.
    fn is_over(&mut self) -> bool {
        let now = Instant::now();
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            self.remains.overdue = true;
        } else if !self.paused && now - self.beat.1 >= self.limits.hang {
            self.remains.hung = true;
        }
        self.remains.overdue || self.remains.hung
    }

    fn exited(&mut self, exit: std::io::Result<ExitStatus>, who: &str) {
        match exit {
            Ok(status) => {
                self.remains.exit = status.code();
                self.remains.signal = status.signal();
            }
            Err(e) => tracing::error!(%who, "the worker cannot be waited for: {e}"),
        }
    }
}

/// Writes what to do and then commands, a line each, until either end goes away.
async fn write(mut to: ChildStdin, begin: Begin, mut queue: mpsc::Receiver<Command>) {
    let mut line = serde_json::to_vec(&begin).unwrap_or_default();
    loop {
        line.push(b'\n');
        if to.write_all(&line).await.is_err() {
            return;
        }
        let Some(command) = queue.recv().await else {
            return;
        };
        line = serde_json::to_vec(&command).unwrap_or_default();
    }
}

/// What a worker wrote to standard error, as far as it matters for its end.
#[derive(Default)]
struct Words {
    last: String,
    refused: Option<String>,
}

/// Logs what a worker writes to standard error and keeps the end of it.
async fn read_words(from: ChildStderr, words: Arc<Mutex<Words>>, who: String) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::warn!(%who, worker = %line);
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        let last = &mut words.last;
        last.push_str(&line);
        last.push('\n');
        let excess = last.len().saturating_sub(LAST_WORDS);
        let cut = (excess..=last.len()).find(|at| last.is_char_boundary(*at));
        last.drain(..cut.unwrap_or(0));
        if line.starts_with(NO_MEMORY) {
            words.refused = Some(line);
        }
    }
}

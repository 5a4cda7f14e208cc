//! One run's worker process: spawns it, listens to it, tells it commands, watches its
//! heartbeats, and says how it ended.
//!
//! The process outlives this actor by as much as it takes to save: when the actor goes, the
//! worker's standard input ends, and with it the worker.

use crate::domain::worker_end::{Remains, Said, WorkerEnd};
use crate::domain::{Code, Error, Process, RunId};
use crate::protocol::wire::{MAX_LINE, Start, Up};
use crate::protocol::{Command, Fact, Frame};
use crate::system::process;
use actix::prelude::*;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

/// Commands on their way to a worker. Each is idempotent, so more would say nothing new.
const COMMANDS: usize = 64;
/// Facts on their way to the supervisor of the runs: a worker that says more at once waits,
/// and drops and counts its steps meanwhile.
const FACTS: usize = 256;
/// What is kept of standard error for the error that a lost worker leaves.
const LAST_WORDS: usize = 2048;
/// How often heartbeats and deadlines are looked at.
const LOOK: Duration = Duration::from_millis(500);
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

/// What a trainer tells the supervisor of the runs, in order.
#[derive(Debug)]
pub enum Heard {
    /// The process is there.
    Spawned(Process),
    /// The worker said something.
    Frame(Box<Frame>),
    /// The process is gone; nothing more follows.
    Ended(WorkerEnd),
}

/// A [`Heard`] of a run's worker in its `life`.
#[derive(Debug)]
pub struct FromTrainer {
    /// The run.
    pub run: RunId,
    /// Which of its workers.
    pub life: u64,
    /// What was heard.
    pub heard: Heard,
}

/// Tell the worker.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Tell(pub Command);

#[derive(Message)]
#[rtype(result = "()")]
struct Exited(std::io::Result<ExitStatus>);

/// The actor.
pub struct Trainer {
    run: RunId,
    life: u64,
    start: Start,
    limits: Limits,
    /// In order and with a bound: a full queue holds the worker's pipe back.
    boss: mpsc::Sender<FromTrainer>,
    commands: Option<mpsc::Sender<Command>>,
    identity: Option<Process>,
    remains: Remains,
    words: Arc<Mutex<String>>,
    memory_kills: Option<u64>,
    /// The last heartbeat, and when it last grew.
    beat: (u64, Instant),
    paused: bool,
    deadline: Option<Instant>,
    exited: bool,
    drained: bool,
}

impl Trainer {
    /// A trainer for `run` in its `life`, which tells `boss` what it hears.
    pub fn new(
        run: RunId,
        life: u64,
        start: Start,
        limits: Limits,
        boss: mpsc::Sender<FromTrainer>,
    ) -> Self {
        Self {
            run,
            life,
            start,
            limits,
            boss,
            commands: None,
            identity: None,
            remains: Remains::default(),
            words: Arc::default(),
            memory_kills: process::memory_kills(),
            beat: (0, Instant::now()),
            paused: false,
            deadline: None,
            exited: false,
            drained: false,
        }
    }

    /// A queue for what trainers hear, with the bound that it should have.
    pub fn queue() -> (mpsc::Sender<FromTrainer>, mpsc::Receiver<FromTrainer>) {
        mpsc::channel(FACTS)
    }

    fn tell_boss(&self, heard: Heard) -> impl Future<Output = ()> + 'static {
        let (boss, run, life) = (self.boss.clone(), self.run, self.life);
        async move {
            let told = boss.send(FromTrainer { run, life, heard }).await;
            if told.is_err() {
                tracing::warn!(%run, "nobody listens to the worker any more");
            }
        }
    }

    fn spawn(&mut self, ctx: &mut Context<Self>) -> std::io::Result<()> {
        // The program that runs, even where its file was replaced meanwhile.
        let mut child: Child = tokio::process::Command::new("/proc/self/exe")
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
        self.identity = child.id().and_then(Process::of);
        if let Some(identity) = self.identity.clone() {
            ctx.wait(self.tell_boss(Heard::Spawned(identity)).into_actor(self));
        }
        let (commands, queue) = mpsc::channel(COMMANDS);
        self.commands = Some(commands);
        actix::spawn(write(stdin, self.start.clone(), queue));
        actix::spawn(read_words(stderr, self.words.clone(), self.run));
        let lines = FramedRead::new(stdout, LinesCodec::new_with_max_length(MAX_LINE));
        ctx.add_stream(lines);
        // Not kept alive by its worker.
        let me = ctx.address().downgrade();
        actix::spawn(async move {
            let exit = child.wait().await;
            if let Some(me) = me.upgrade() {
                me.do_send(Exited(exit));
            }
        });
        Ok(())
    }

    fn kill(&self) {
        if let Some(identity) = &self.identity {
            identity.kill();
        }
    }

    fn look(&mut self) {
        let now = Instant::now();
        if self.exited {
            return;
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            self.remains.overdue = true;
            self.kill();
        } else if !self.paused && now - self.beat.1 >= self.limits.hang {
            self.remains.hung = true;
            self.kill();
        }
    }

    /// Once the process is gone and everything that it said was heard.
    fn conclude(&mut self, ctx: &mut Context<Self>) {
        if !(self.exited && self.drained) {
            return;
        }
        let killed = match (self.memory_kills, process::memory_kills()) {
            (Some(before), Some(after)) => after > before,
            _ => false,
        };
        self.remains.memory_kill = killed;
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        self.remains.last_words.clone_from(&words);
        drop(words);
        let end = self.remains.end();
        let told = self.tell_boss(Heard::Ended(end)).into_actor(self);
        ctx.wait(told.map(|(), _, ctx| ctx.stop()));
    }

    fn hear(&mut self, frame: &Frame) {
        self.beat.1 = Instant::now();
        match &frame.fact {
            Fact::Paused { .. } => self.paused = true,
            Fact::Resumed { .. } => self.paused = false,
            Fact::RunCompleted(_) => self.remains.said = Some(Said::Completed),
            Fact::EarlyStopped(_) => self.remains.said = Some(Said::EarlyStopped),
            Fact::Stopped(_) => self.remains.said = Some(Said::Stopped),
            Fact::Aborted(_) => self.remains.said = Some(Said::Aborted),
            Fact::RunFailed { code, message, .. } => {
                self.remains.said = Some(Said::Failed {
                    code: code.clone(),
                    message: message.clone(),
                });
            }
            _ => {}
        }
    }
}

impl Actor for Trainer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Err(e) = self.spawn(ctx) {
            let message = format!("cannot be started: {e}");
            let error = Error::new(Code::WorkerLost, "worker", message);
            let told = self.tell_boss(Heard::Ended(WorkerEnd::Lost(error)));
            ctx.wait(told.into_actor(self).map(|(), _, ctx| ctx.stop()));
            return;
        }
        ctx.run_interval(LOOK, |this, ctx| {
            // The supervisor of the runs is gone. The next one waits for this process, which
            // saves and ends when its input does.
            if this.boss.is_closed() {
                ctx.stop();
            }
            this.look();
        });
    }
}

impl StreamHandler<Result<String, LinesCodecError>> for Trainer {
    fn handle(&mut self, line: Result<String, LinesCodecError>, ctx: &mut Self::Context) {
        let up = line
            .map_err(|e| e.to_string())
            .and_then(|line| serde_json::from_str(&line).map_err(|e| e.to_string()));
        match up {
            Ok(Up::Frame(frame)) => {
                self.hear(&frame);
                // The next line is not taken before the supervisor took this one.
                ctx.wait(self.tell_boss(Heard::Frame(frame)).into_actor(self));
            }
            Ok(Up::Heartbeat { heartbeat }) => {
                if heartbeat != self.beat.0 {
                    self.beat = (heartbeat, Instant::now());
                }
            }
            Err(e) => {
                tracing::error!(run = %self.run, "the worker was not understood and is killed: {e}");
                self.kill();
            }
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        self.drained = true;
        self.conclude(ctx);
    }
}

impl Handler<Exited> for Trainer {
    type Result = ();

    fn handle(&mut self, Exited(status): Exited, ctx: &mut Self::Context) {
        self.exited = true;
        match status {
            Ok(status) => {
                self.remains.exit = status.code();
                self.remains.signal = status.signal();
            }
            Err(e) => tracing::error!(run = %self.run, "the worker cannot be waited for: {e}"),
        }
        ctx.run_later(DRAIN, |this, ctx| {
            this.drained = true;
            this.conclude(ctx);
        });
        self.conclude(ctx);
    }
}

impl Handler<Tell> for Trainer {
    type Result = ();

    fn handle(&mut self, Tell(command): Tell, _: &mut Self::Context) {
        if matches!(command, Command::Stop | Command::Abort) {
            self.deadline
                .get_or_insert_with(|| Instant::now() + self.limits.stop);
        }
        if let Some(commands) = &self.commands
            && commands.try_send(command).is_err()
        {
            tracing::warn!(run = %self.run, "the worker does not take commands");
        }
    }
}

/// Writes the start and then commands, a line each, until either end goes away.
async fn write(mut to: ChildStdin, start: Start, mut queue: mpsc::Receiver<Command>) {
    let mut line = serde_json::to_vec(&start).unwrap_or_default();
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

/// Logs what a worker writes to standard error and keeps the end of it.
async fn read_words(from: ChildStderr, words: Arc<Mutex<String>>, run: RunId) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::warn!(%run, worker = %line.escape_debug());
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        words.push_str(&line);
        words.push('\n');
        let excess = words.len().saturating_sub(LAST_WORDS);
        let cut = (excess..=words.len()).find(|at| words.is_char_boundary(*at));
        words.drain(..cut.unwrap_or(0));
    }
}

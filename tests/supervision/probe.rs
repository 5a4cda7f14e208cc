//! The actor that all these tests torment, and what they share.

use actix::clock::sleep;
use actix::prelude::*;
use backpropd::supervise::{
    Child, ChildRef, ChildSnapshot, Context, GetChildren, Notice, Supervisor,
};
use std::future::Future;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Runs a test in a system of its own, in real time.
pub fn real<T>(test: impl Future<Output = T>) -> T {
    System::new().block_on(test)
}

/// Runs a test in a system whose clock jumps ahead whenever all tasks wait.
pub fn virtually<T>(test: impl Future<Output = T>) -> T {
    let paused = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
    };
    System::with_tokio_rt(paused).block_on(test)
}

/// What happened, in order.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn add(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// An actor that remembers how many messages it served, and does what it is told.
pub struct Probe {
    served: u32,
    name: &'static str,
    log: Log,
    bad_ends: bool,
    lingers: Option<Duration>,
}

impl Probe {
    pub fn logging(name: &'static str, log: &Log) -> Self {
        Self {
            served: 0,
            name,
            log: log.clone(),
            bad_ends: false,
            lingers: None,
        }
    }

    /// Its `stopping` and its destructor panic.
    pub fn with_bad_ends(mut self) -> Self {
        self.bad_ends = true;
        self
    }

    /// It takes this long to stop.
    pub fn lingering(mut self, time: Duration) -> Self {
        self.lingers = Some(time);
        self
    }
}

impl Actor for Probe {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.log
            .add(format!("{} {} up", self.name, ctx.generation()));
    }

    fn stopping(&mut self, ctx: &mut Context<Self>) -> Running {
        self.log.add(format!("{} stopping", self.name));
        if self.bad_ends {
            panic!("stopping boom");
        }
        match self.lingers.take().filter(|time| !time.is_zero()) {
            Some(time) => {
                ctx.run_later(time, |_, ctx| ctx.stop());
                // Other things happen meanwhile.
                ctx.run_interval(time / 7, |_, _| {});
                Running::Continue
            }
            None => Running::Stop,
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.log.add(format!("{} dropped", self.name));
        if self.bad_ends {
            panic!("drop boom");
        }
    }
}

#[derive(Message)]
#[rtype(result = "u32")]
pub struct Serve;

impl Handler<Serve> for Probe {
    type Result = u32;
    fn handle(&mut self, _: Serve, _: &mut Context<Self>) -> u32 {
        self.served += 1;
        self.served
    }
}

/// Where a panic is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Message)]
#[rtype(result = "()")]
pub enum Boom {
    Handler,
    Future,
    Atomic,
    Timer,
    Interval,
    Notified,
    Stream,
}

pub const BOOMS: [Boom; 7] = [
    Boom::Handler,
    Boom::Future,
    Boom::Atomic,
    Boom::Timer,
    Boom::Interval,
    Boom::Notified,
    Boom::Stream,
];

impl Handler<Boom> for Probe {
    type Result = ResponseActFuture<Self, ()>;
    fn handle(&mut self, boom: Boom, ctx: &mut Context<Self>) -> Self::Result {
        // In all but the first two the answer is never given: it dies with the actor.
        let later = async {
            sleep(ms(1)).await;
            panic!("boom");
        };
        match boom {
            Boom::Handler => panic!("boom"),
            Boom::Future => return Box::pin(later.into_actor(self)),
            Boom::Atomic => ctx.wait(later.into_actor(self)),
            Boom::Timer => drop(ctx.run_later(ms(1), |_, _| panic!("boom"))),
            Boom::Interval => drop(ctx.run_interval(ms(1), |_, _| panic!("boom"))),
            Boom::Notified => ctx.notify(BoomNow),
            Boom::Stream => drop(ctx.add_stream(Now(true))),
        }
        Box::pin(std::future::pending().into_actor(self))
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct BoomNow;

impl Handler<BoomNow> for Probe {
    type Result = ();
    fn handle(&mut self, _: BoomNow, _: &mut Context<Self>) {
        panic!("boom");
    }
}

/// A stream of one item.
struct Now(bool);

impl futures_core::Stream for Now {
    type Item = ();
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<()>> {
        std::task::Poll::Ready(std::mem::take(&mut self.0).then_some(()))
    }
}

impl StreamHandler<()> for Probe {
    fn handle(&mut self, (): (), _: &mut Context<Self>) {
        panic!("boom");
    }
}

#[derive(Message)]
#[rtype(result = "()")]
pub struct BoomDetached;

impl Handler<BoomDetached> for Probe {
    type Result = ResponseFuture<()>;
    fn handle(&mut self, _: BoomDetached, _: &mut Context<Self>) -> Self::Result {
        Box::pin(async {
            std::panic::resume_unwind(Box::new("silent"));
        })
    }
}

/// Answers after a time.
#[derive(Message)]
#[rtype(result = "u32")]
pub struct Later(pub Duration);

impl Handler<Later> for Probe {
    type Result = ResponseActFuture<Self, u32>;
    fn handle(&mut self, later: Later, _: &mut Context<Self>) -> Self::Result {
        let done = |(), this: &mut Self, _: &mut Context<Self>| {
            this.served += 1;
            this.log.add(format!("{} late", this.name));
            this.served
        };
        Box::pin(sleep(later.0).into_actor(self).map(done))
    }
}

/// Holds the thread, and says so, until the other side speaks or is dropped.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Block {
    pub holding: tokio::sync::oneshot::Sender<()>,
    pub until: Receiver<()>,
}

impl Handler<Block> for Probe {
    type Result = ();
    fn handle(&mut self, block: Block, ctx: &mut Context<Self>) {
        let later = |(), this: &mut Self, _: &mut Context<Self>| this.log.add("after the block");
        ctx.spawn(std::future::ready(()).into_actor(self).map(later));
        let _ = block.holding.send(());
        let _ = block.until.recv_timeout(ms(10_000));
    }
}

/// Leaves a note in the log.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Note;

impl Handler<Note> for Probe {
    type Result = ();
    fn handle(&mut self, _: Note, _: &mut Context<Self>) {
        self.log.add(format!("{} note", self.name));
    }
}

#[derive(Message)]
#[rtype(result = "()")]
pub struct Stop;

impl Handler<Stop> for Probe {
    type Result = ();
    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

#[derive(Message)]
#[rtype(result = "()")]
pub struct Fail(pub &'static str);

impl Handler<Fail> for Probe {
    type Result = ();
    fn handle(&mut self, fail: Fail, ctx: &mut Context<Self>) {
        ctx.fail(fail.0);
        ctx.fail("a later reason");
    }
}

/// A probe with room to fail.
pub fn child(name: &'static str) -> Child<Probe> {
    let make = move || Probe::logging(name, &Log::default());
    Child::new(name, make).intensity(100, ms(60_000))
}

pub async fn children(tree: &ChildRef<Supervisor>) -> Vec<ChildSnapshot> {
    tree.send(GetChildren).await.unwrap()
}

pub async fn snapshot(tree: &ChildRef<Supervisor>, name: &str) -> ChildSnapshot {
    let all = children(tree).await;
    all.into_iter().find(|child| child.name == name).unwrap()
}

/// Asks for a child until it is as it should be.
pub async fn until(
    tree: &ChildRef<Supervisor>,
    name: &str,
    good: impl Fn(&ChildSnapshot) -> bool,
) -> ChildSnapshot {
    for _ in 0..5_000 {
        let child = snapshot(tree, name).await;
        if good(&child) {
            return child;
        }
        sleep(ms(1)).await;
    }
    panic!("never: {:?}", snapshot(tree, name).await);
}

/// A listener, and what it heard in words.
pub fn notices() -> (impl Fn(Notice) + Send + 'static, Log) {
    let log = Log::default();
    let heard = log.clone();
    let listener = move |notice| {
        heard.add(match notice {
            Notice::Failed {
                child,
                generation,
                restart_in_ms,
                ..
            } => format!("{child} {generation} failed, again in {restart_in_ms:?}"),
            Notice::Restarted {
                child, generation, ..
            } => format!("{child} {generation} restarted"),
            Notice::Quarantined { child, .. } => format!("{child} quarantined"),
        });
    };
    (listener, log)
}

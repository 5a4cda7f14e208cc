//! The bus with a real store and handlers of the test's own, and what it does with events.

use crate::common::recorder::Recorder;
use crate::common::until;
use actix::prelude::*;
use backpropd::actors::handlers::{GetHandlers, Handlers, OverControl, Parts};
use backpropd::actors::reporter::{self, Reporter};
use backpropd::actors::store::{self, StoreActor, StoreRef, write};
use backpropd::config::daemon::EventsTable;
use backpropd::domain::{Code, Error, Result, RunId};
use backpropd::handlers::{Ending, EventHandler, Host, Kinds, Metrics, Orders};
use backpropd::protocol::api::Event;
use backpropd::protocol::handlers::{HandlerSpec, HandlerView};
use backpropd::store::NewRun;
use backpropd::supervise::{Child, ChildRef, Context, Supervisor};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// A store, a bus and its handlers, on threads of their own.
pub struct Bus {
    pub recorder: Recorder,
    pub store: StoreRef,
    pub handlers: ChildRef<Handlers>,
    pub fragile: ChildRef<Fragile>,
    tree: ChildRef<Supervisor>,
    runtime: Runtime,
    system: System,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Lets handlers of kind `bad` go.
    free: Arc<AtomicBool>,
}

impl Bus {
    pub fn start(folder: &Path, specs: &[Value]) -> Self {
        let (recorder, free) = (Recorder::default(), Arc::new(AtomicBool::new(false)));
        let kinds = bad_kind(recorder.kind(Kinds::builtin()), &free);
        let kinds = wall_kind(kinds, &free);
        let configured = specs.iter().map(spec).collect();
        let (up, wait) = mpsc::channel();
        let folder = folder.to_owned();
        let thread = std::thread::spawn(move || {
            let system = System::new();
            let parts = system.block_on(compose(&folder, kinds, configured));
            up.send((parts, System::current())).unwrap();
            system.run().unwrap();
        });
        let ((store, handlers, fragile, tree), system) = wait.recv().unwrap();
        let bus = Self {
            recorder,
            store,
            handlers,
            fragile,
            tree,
            runtime: Builder::new_current_thread().enable_all().build().unwrap(),
            system,
            thread: Some(thread),
            free,
        };
        until("the handlers are up", || {
            let views = bus.views();
            let up = views.iter().all(|view| view.state == "running");
            (up && views.len() >= specs.len()).then_some(())
        });
        bus
    }

    /// Sends a message to the bus and waits for its answer.
    pub fn tell<M>(&self, message: M) -> M::Result
    where
        M: Message + Send + 'static,
        M::Result: Send,
        Handlers: Handler<M>,
    {
        self.runtime.block_on(self.handlers.send(message)).unwrap()
    }

    pub fn views(&self) -> Vec<HandlerView> {
        self.tell(GetHandlers).unwrap()
    }

    pub fn view(&self, name: &str) -> HandlerView {
        let mut views = self.views().into_iter();
        views.find(|view| view.spec.name == name).unwrap()
    }

    /// Waits until the handler is in `state`.
    pub fn reaches(&self, name: &str, state: &str) -> HandlerView {
        until(state, || {
            Some(self.view(name)).filter(|view| view.state == state)
        })
    }

    /// A new run, without an event.
    pub fn run(&self) -> RunId {
        let submitted = write(&self.store, |tx| tx.submit(&NewRun::new("a", ""), None, 0));
        self.runtime.block_on(submitted).unwrap().run
    }

    /// Lets something happen: many events of one kind, one transaction.
    pub fn say_all(&self, run: Option<RunId>, kind: &str, fields: Vec<Value>) {
        let said: Vec<_> = fields
            .into_iter()
            .map(|fields| (kind.to_owned(), fields))
            .collect();
        self.say_of(run, said);
    }

    /// Lets things happen that are about no run, in one transaction.
    pub fn say_each(&self, said: Vec<(String, Value)>) {
        self.say_of(None, said);
    }

    fn say_of(&self, run: Option<RunId>, said: Vec<(String, Value)>) {
        let said = write(&self.store, move |tx| {
            let append =
                |(kind, fields): &(String, Value)| tx.append(run, kind, fields, 0).map(|_| ());
            said.iter().try_for_each(append)
        });
        self.runtime.block_on(said).unwrap();
    }

    /// Lets something happen.
    pub fn say(&self, run: Option<RunId>, kind: &str) {
        self.say_all(run, kind, vec![json!({ "message": kind })]);
    }

    /// Lets go whoever waits for it.
    pub fn free(&self) {
        self.free.store(true, Ordering::Relaxed);
    }

    /// Ends in order, as the daemon does.
    pub fn stop(mut self) {
        self.tell(backpropd::actors::handlers::Drain);
        self.end();
    }

    fn end(&mut self) {
        self.free();
        if let Some(thread) = self.thread.take() {
            let _ = self.runtime.block_on(self.tree.shut_down());
            self.system.stop();
            thread.join().unwrap();
        }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.end();
    }
}

pub fn spec(value: &Value) -> HandlerSpec {
    serde_json::from_value(value.clone()).unwrap()
}

/// A part of the daemon that panics when it is told to.
pub struct Fragile;

impl Actor for Fragile {
    type Context = Context<Self>;
}

/// Panic.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Fall;

impl Handler<Fall> for Fragile {
    type Result = ();

    fn handle(&mut self, _: Fall, _: &mut Self::Context) {
        panic!("on purpose");
    }
}

async fn compose(
    folder: &Path,
    kinds: Kinds,
    configured: Vec<HandlerSpec>,
) -> (
    StoreRef,
    ChildRef<Handlers>,
    ChildRef<Fragile>,
    ChildRef<Supervisor>,
) {
    let mut tree = Supervisor::new("test");
    let (live, dir) = (store::live(), folder.to_owned());
    let told = live.clone();
    let make = move || StoreActor::new(dir.clone(), None, told.clone());
    let store = tree.add(
        Child::new("store", make)
            .own_thread()
            .mailbox(store::MAILBOX),
    );
    let at = store.clone();
    let reporter = tree.add(Child::new("reporter", move || Reporter::new(at.clone())).mailbox(256));
    tree = tree.on_notice(reporter::notices(reporter.clone()));
    let fragile = tree.add(Child::new("fragile", || Fragile));
    let parts = Parts {
        store: store.clone(),
        live,
        reporter,
        kinds,
        host: Host {
            folder: folder.to_owned(),
            socket: folder.join("socket"),
            orders: Orders::new(|_, _, _| {}),
            metrics: Metrics::default(),
            ending: Ending::default(),
            program: env!("CARGO_BIN_EXE_backpropd").into(),
        },
        configured,
        over_control: OverControl::from(&EventsTable::default()),
    };
    parts.check(&parts.configured).unwrap();
    let make = move || Handlers::new(parts.clone());
    let handlers = tree.add(Child::new("handlers", make).own_thread());
    let tree = tree.start().await.unwrap();
    (store, handlers, fragile, tree)
}

/// How a handler of kind `bad` behaves, on events of a kind.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Badly {
    how: String,
    on: String,
}

struct Bad {
    badly: Badly,
    free: Arc<AtomicBool>,
    /// The events that it has failed on, whichever instance that was.
    failed: Arc<Mutex<BTreeSet<u64>>>,
}

impl EventHandler for Bad {
    fn handle(&mut self, event: &Event) -> Result<()> {
        let free = || self.free.load(Ordering::Relaxed);
        if self.badly.on != "*" && event.kind != self.badly.on {
            return Ok(());
        }
        match self.badly.how.as_str() {
            "panic" => panic!("on purpose"),
            // The second time it is well.
            "once" if !self.failed.lock().unwrap().insert(event.id) => {}
            "error" | "once" => return Err(Error::new(Code::HandlerFailed, "bad", "on purpose")),
            "block" => {
                while !free() {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            // Whatever becomes of it meanwhile.
            "sleep" => std::thread::sleep(Duration::from_secs(60)),
            "loop" => while !free() {},
            "slow" => std::thread::sleep(Duration::from_millis(5)),
            how => unreachable!("{how}"),
        }
        Ok(())
    }
}

fn bad_kind(kinds: Kinds, free: &Arc<AtomicBool>) -> Kinds {
    let free = free.clone();
    kinds.with("bad", move |settings| {
        let (badly, free): (Badly, _) = (settings.decode()?, free.clone());
        let failed: Arc<Mutex<BTreeSet<u64>>> = Arc::default();
        Ok(move || {
            Ok(Bad {
                badly: badly.clone(),
                free: free.clone(),
                failed: failed.clone(),
            })
        })
    })
}

/// Handlers whose settings take the bus until others are let go, and which then do nothing.
fn wall_kind(kinds: Kinds, free: &Arc<AtomicBool>) -> Kinds {
    struct Nothing;
    impl EventHandler for Nothing {
        fn handle(&mut self, _: &Event) -> Result<()> {
            Ok(())
        }
    }
    let free = free.clone();
    kinds.with("wall", move |_| {
        while !free.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(|| Ok(Nothing))
    })
}

pub fn record(name: &str, events: &[&str]) -> Value {
    json!({ "name": name, "kind": "record", "events": events })
}

/// behaviour: double-13, double-14, double-15, double-16, double-17, double-18
/// behaviour: event-01, event-02, event-03, event-18, multi-01, multi-03, multi-04, gpu-01, gpu-12
#[test]
fn each_handler_gets_what_it_asked_for_in_the_order_of_all_runs() {
    let dir = tempfile::tempdir().unwrap();
    let specs = [
        record("all", &["*"]),
        record("some", &["run_*", "gpu_warning"]),
        record("none", &[]),
    ];
    let bus = Bus::start(dir.path(), &specs);
    let runs = [bus.run(), bus.run()];
    let mut said = Vec::new();
    for run in runs {
        for kind in [
            "run_started",
            "step",
            "epoch",
            "checkpoint_saved",
            "run_completed",
        ] {
            bus.say(Some(run), kind);
            said.push(kind);
            for kind in ["gpu_status", "gpu_warning"] {
                bus.say(None, kind);
                said.push(kind);
            }
        }
    }
    let recorder = &bus.recorder;
    recorder.wait("all", "run_completed", 2);
    recorder.wait("all", "gpu_warning", 10);
    recorder.wait("some", "gpu_warning", 10);
    recorder.assert_order("all", &said);
    let some: Vec<&str> = said
        .iter()
        .copied()
        .filter(|kind| kind.starts_with("run_") || *kind == "gpu_warning")
        .collect();
    recorder.assert_order("some", &some);
    recorder.assert_order("none", &[]);
    for run in runs {
        let of_run = recorder.all().into_iter().map(|heard| heard.event);
        let of_run = of_run.filter(|event| event.run == Some(run) && event.kind != "none");
        let seqs: Vec<_> = of_run
            .filter(|e| !e.kind.starts_with("run_"))
            .map(|e| e.seq)
            .collect();
        assert_eq!(
            seqs,
            [Some(2), Some(3), Some(4)],
            "each run counts for itself"
        );
    }
    assert_eq!(bus.view("none").counters.delivered, 0);
    assert_eq!(bus.view("all").counters.delivered, 30);
}

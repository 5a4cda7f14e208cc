//! What the bus carries: events at a steady rate to a handler that writes each to a file.

use crate::actors::handlers::{Drain, GetHandlers, Handlers, OverControl, Parts};
use crate::actors::reporter::Reporter;
use crate::actors::store::{self, StoreActor};
use crate::config::daemon::EventsTable;
use crate::domain::{Code, Error, Result, RunId};
use crate::handlers::{Ending, Host, Kinds, Metrics, Orders};
use crate::protocol::api::Event;
use crate::protocol::handlers::HandlerView;
use crate::supervise::{CallError, Child, ChildRef, Supervisor};
use actix::System;
use serde::Serialize;
use serde_json::json;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Events a second that are offered.
const RATE: u64 = 100_000;
/// How long.
const SECONDS: u64 = 2;
/// Events that are offered at once.
const BURST: u64 = 200;

/// How long the last events may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    events: u64,
    /// Lines in the file.
    written: u64,
    /// Lossy ones that the handler had no room for.
    dropped: u64,
    /// Those that the bus was too late for: a daemon reads them from its store, which has
    /// nothing here.
    missed: u64,
    /// From the first event offered to the last one offered.
    offered_seconds: f64,
    /// From the first event offered to the last one written.
    seconds: f64,
}

impl Figures {
    pub fn lines(&self) -> String {
        let mut text = String::new();
        let rate = self.events as f64 / self.offered_seconds;
        let after = 1e3 * (self.seconds - self.offered_seconds);
        let _ = writeln!(
            text,
            "through the bus to a jsonl handler: {rate:.0} events/s offered, {} of {} written, {} \
             dropped, {} missed, all done {after:.0} ms after the last (aim {RATE} events/s, all \
             written)",
            self.written, self.events, self.dropped, self.missed
        );
        text
    }
}

pub(super) fn measure(folder: &Path) -> Result<Figures> {
    let folder = folder.join("bus");
    std::fs::create_dir_all(&folder).map_err(|e| Error::write(&folder, &e))?;
    System::new().block_on(carry(&folder))
}

async fn carry(folder: &Path) -> Result<Figures> {
    let live = store::live();
    let mut tree = Supervisor::new("bench");
    let (dir, told) = (folder.to_owned(), live.clone());
    let store = move || StoreActor::new(dir.clone(), None, told.clone());
    let store = tree.add(Child::new("store", store).own_thread());
    let at = store.clone();
    let reporter = tree.add(Child::new("reporter", move || Reporter::new(at.clone())));
    let path = folder.join("events.jsonl");
    let spec = json!({
        "name": "file", "kind": "jsonl", "path": path, "events": ["*"], "queue": 65_536,
    });
    let internal = |e: serde_json::Error| Error::new(Code::Internal, "handler", e);
    let parts = Parts {
        store,
        live: live.clone(),
        reporter,
        kinds: Kinds::builtin(),
        host: Host {
            folder: folder.to_owned(),
            socket: folder.join("socket"),
            orders: Orders::new(|_, _, _| {}),
            metrics: Metrics::default(),
            ending: Ending::default(),
            program: crate::cli::THIS_PROGRAM.into(),
        },
        configured: vec![serde_json::from_value(spec).map_err(internal)?],
        over_control: OverControl::from(&EventsTable::default()),
    };
    let handlers =
        tree.add(Child::new("handlers", move || Handlers::new(parts.clone())).own_thread());
    let tree = tree.start().await.map_err(down)?;
    while view(&handlers)
        .await?
        .is_none_or(|view| view.state != "running")
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Making them is the store's work, not the bus'.
    let events: Vec<_> = (1..=RATE * SECONDS).map(|id| Arc::new(event(id))).collect();
    let (count, began) = (events.len() as u64, Instant::now());
    for (id, event) in (1..).zip(events) {
        let _ = live.send(event);
        if id % BURST == 0 && id < count {
            let due = began + Duration::from_secs(1) * u32::try_from(id).unwrap_or(0) / RATE as u32;
            tokio::time::sleep_until(due.into()).await;
        }
    }
    let offered_seconds = began.elapsed().as_secs_f64();
    let view = loop {
        let view = view(&handlers).await?;
        let view = view.ok_or_else(|| Error::new(Code::Internal, "the bus", "lost its handler"))?;
        if view.last_event == count || began.elapsed() > PATIENCE {
            break view;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    let seconds = began.elapsed().as_secs_f64();
    handlers.send(Drain).await.map_err(down)?;
    let text = std::fs::read(&path).map_err(|e| Error::read(&path, &e))?;
    let _ = tree.shut_down().await;
    let written = text.iter().filter(|byte| **byte == b'\n').count() as u64;
    let dropped = view.counters.dropped;
    Ok(Figures {
        events: count,
        written,
        dropped,
        missed: count.saturating_sub(written + dropped),
        offered_seconds,
        seconds,
    })
}

async fn view(handlers: &ChildRef<Handlers>) -> Result<Option<HandlerView>> {
    let views = handlers.send(GetHandlers).await.map_err(down)?;
    // Not started yet.
    Ok(views.ok().and_then(|views| views.into_iter().next()))
}

fn event(id: u64) -> Event {
    let fields = json!({
        "step": id, "steps": 1_000_000, "epoch": 1, "tokens": 4096 * id, "loss": 0.123_456_789,
        "lr": 0.0003, "tokens_per_second": 12_345.6,
        "sites": [{
            "hook": "blocks.2.hook_resid_post", "loss": 0.123_456_789,
            "parts": { "mse_loss": 0.123_456_789 }, "l0": 32.0, "explained_variance": 0.9,
            "fvu": 0.1, "dead": 0.01, "grad_norm": 0.5,
        }],
    });
    Event::new(id, Some(RunId(1)), Some(id), 0, "step", fields)
}

fn down(e: CallError) -> Error {
    Error::new(Code::Internal, "the bus", e)
}

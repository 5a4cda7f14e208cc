//! Events as server-sent events: first what the store has, then what happens, without a
//! hole between the two.

use crate::actors::store::{Live, StoreRef, read};
use crate::domain::{Result, RunId, SweepId};
use crate::protocol::api::Event;
use crate::store::{Gap, Page, View};
use axum::response::sse;
use futures_util::Stream;
use serde_json::json;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// Events that are read from the store at once.
const PAGE: u32 = 500;

/// Whose events are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Everybody's.
    All,
    /// Those of a run.
    Run(RunId),
    /// Those of a sweep and of its runs.
    Sweep(SweepId),
}

impl About {
    fn page(self, view: &View<'_>, after: u64) -> Result<Page> {
        match self {
            About::All => view.events(after, None, PAGE),
            About::Run(run) => view.events(after, Some(run), PAGE),
            About::Sweep(sweep) => view.sweep_events(after, sweep, PAGE),
        }
    }

    fn covers(self, event: &Event) -> bool {
        match self {
            About::All => true,
            About::Run(run) => event.run == Some(run),
            About::Sweep(sweep) => event.fields.get("sweep") == Some(&sweep.0.into()),
        }
    }

    /// Whether what is kept nowhere belongs to it: a sweep is a session on this host, and
    /// hears how its GPUs are.
    fn covers_passing(self, event: &Event) -> bool {
        match self {
            About::All => true,
            About::Run(_) => false,
            About::Sweep(_) => event.kind == "gpu_status",
        }
    }

    /// Whether nothing more is to come. What never ends says so too.
    fn has_ended(self, view: &View<'_>) -> Result<bool> {
        Ok(match self {
            About::All => false,
            About::Run(run) => view.run(run)?.state.has_ended(),
            About::Sweep(sweep) => view.sweep(sweep)?.phase.has_ended(),
        })
    }
}

/// Which events a reader wants.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Whose; the stream of a run or of a sweep ends with it.
    pub about: About,
    /// Those after this number, 0 for all that are kept; none for only what is to come.
    pub after: Option<u64>,
    /// Those that were stored since then: milliseconds since 1970.
    pub from_time: Option<i64>,
    /// Those of these kinds, and no others; empty for all.
    pub kinds: Vec<String>,
    /// None of these kinds.
    pub except: Vec<String>,
    /// Only those that are there, and then an end.
    pub only_past: bool,
}

impl Wanted {
    fn takes(&self, event: &Event) -> bool {
        let one_of = |kinds: &[String]| kinds.contains(&event.kind);
        // A gap is told to everyone.
        event.kind == "gap"
            || ((self.kinds.is_empty() || one_of(&self.kinds)) && !one_of(&self.except))
    }
}

/// A reader's place in the events.
struct Reader {
    store: StoreRef,
    live: Receiver<Arc<Event>>,
    about: About,
    wanted: Wanted,
    /// The last event that was handed on, or passed over.
    last: u64,
    /// What is read and not handed on yet.
    ready: VecDeque<Event>,
    /// Whether the store may have more after `last`.
    behind: bool,
}

/// The events that are `wanted`.
pub async fn stream(
    store: StoreRef,
    live: &Live,
    wanted: Wanted,
) -> Result<impl Stream<Item = Result<sse::Event, Infallible>> + use<>> {
    let Wanted {
        about,
        after,
        from_time,
        ..
    } = wanted;
    // Subscribed before the store is read: what happens in between comes twice rather
    // than never, and is told apart by its number.
    let live = live.subscribe();
    let last = read(&store, move |view| {
        // That there is such a thing.
        about.has_ended(view)?;
        let newest = view.newest_event()?;
        Ok(match from_time {
            None => after.unwrap_or(newest),
            Some(then) => {
                let first = view.first_event_since(then)?;
                let before = first.map_or(newest, |first| first.saturating_sub(1));
                before.max(after.unwrap_or(0))
            }
        })
    })
    .await?;
    let reader = Reader {
        store,
        live,
        about,
        wanted,
        last,
        ready: VecDeque::new(),
        behind: true,
    };
    Ok(futures_util::stream::unfold(reader, |mut reader| async {
        let event = reader.next().await?;
        let mut sent = sse::Event::default()
            .event(event.kind.clone())
            .data(json!(event).to_string());
        // What is kept nowhere leaves the place from which its reader goes on as it is.
        if !event.is_passing() {
            sent = sent.id(event.id.to_string());
        }
        Some((Ok(sent), reader))
    }))
}

impl Reader {
    /// The next event; `None` when there will be no more.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.last = self.last.max(event.id);
                if self.wanted.takes(&event) {
                    return Some(event);
                }
                continue;
            }
            if self.behind {
                self.read_page().await?;
                continue;
            }
            if self.wanted.only_past {
                return None;
            }
            if self.has_ended().await {
                // What it said between the last page and its end.
                self.read_page().await?;
                if self.ready.is_empty() {
                    return None;
                }
                continue;
            }
            match self.live.recv().await {
                Ok(event) if event.is_passing() => {
                    if self.about.covers_passing(&event) {
                        self.ready.push_back((*event).clone());
                    }
                }
                Ok(event) if event.id <= self.last => {}
                Ok(event) if !self.about.covers(&event) => self.last = event.id,
                Ok(event) => self.ready.push_back((*event).clone()),
                Err(RecvError::Lagged(_)) => self.behind = true,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    async fn read_page(&mut self) -> Option<()> {
        let (after, about) = (self.last, self.about);
        let page = read(&self.store, move |view| about.page(view, after)).await;
        let page = page
            .inspect_err(|error| tracing::warn!("events cannot be read: {error}"))
            .ok()?;
        if let Some(gap) = page.gap {
            let last = match gap {
                Gap::Pruned { last, .. } => last,
                // What comes has smaller numbers than the one that was asked for.
                Gap::Unknown { .. } => 0,
            };
            self.last = last;
            self.ready
                .push_back(Event::new(last, None, None, 0, "gap", json!(gap)));
        }
        self.ready.extend(page.events.into_iter().map(Event::from));
        if self.ready.is_empty() {
            self.last = page.next;
        }
        self.behind = !page.end;
        Some(())
    }

    /// Whether what is followed has ended: it says nothing more then, since its end was
    /// stored with its last event.
    async fn has_ended(&self) -> bool {
        let about = self.about;
        if about == About::All {
            return false;
        }
        let ended = read(&self.store, move |view| about.has_ended(view)).await;
        ended.unwrap_or(true)
    }
}

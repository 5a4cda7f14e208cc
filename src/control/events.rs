//! Events as server-sent events: first what the store has, then what happens, without a
//! hole between the two.

use crate::actors::store::{Live, StoreRef, read};
use crate::domain::{Result, RunId};
use crate::protocol::api::Event;
use crate::store::Gap;
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

/// A reader's place in the events.
struct Reader {
    store: StoreRef,
    live: Receiver<Arc<Event>>,
    run: Option<RunId>,
    /// The last event that was handed on, or passed over.
    last: u64,
    /// What is read and not handed on yet.
    ready: VecDeque<Event>,
    /// Whether the store may have more after `last`.
    behind: bool,
}

/// The events after number `after` (0 for all that are kept; none for only what is to
/// come), of one run where one is named; that stream ends with the run.
pub async fn stream(
    store: StoreRef,
    live: &Live,
    run: Option<RunId>,
    after: Option<u64>,
) -> Result<impl Stream<Item = Result<sse::Event, Infallible>> + use<>> {
    // Subscribed before the store is read: what happens in between comes twice rather
    // than never, and is told apart by its number.
    let live = live.subscribe();
    let newest = read(&store, move |view| {
        if let Some(run) = run {
            view.run(run)?;
        }
        view.newest_event()
    })
    .await?;
    let reader = Reader {
        store,
        live,
        run,
        last: after.unwrap_or(newest),
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
                return Some(event);
            }
            if self.behind {
                self.read_page().await?;
                continue;
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
                Ok(event) if event.is_passing() && self.run.is_none() => {
                    self.ready.push_back((*event).clone());
                }
                Ok(event) if event.id <= self.last => {}
                Ok(event) if self.run.is_some() && event.run != self.run => self.last = event.id,
                Ok(event) => self.ready.push_back((*event).clone()),
                Err(RecvError::Lagged(_)) => self.behind = true,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    async fn read_page(&mut self) -> Option<()> {
        let (after, run) = (self.last, self.run);
        let page = read(&self.store, move |view| view.events(after, run, PAGE)).await;
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

    /// Whether the run that is followed has ended: it says nothing more then, since its end
    /// was stored with its last event.
    async fn has_ended(&self) -> bool {
        let Some(run) = self.run else {
            return false;
        };
        let ended = read(&self.store, move |view| {
            Ok(view.run(run)?.state.has_ended())
        })
        .await;
        ended.unwrap_or(true)
    }
}

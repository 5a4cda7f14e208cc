//! What waits for one handler.
//!
//! The queue outlives the instances of its handler, and only the newest of them, by its
//! life, is given anything: one that comes back after its deadline finds that it was
//! replaced. Where the queue has no room, lossy events give way; where it holds none, the
//! handler falls *behind*: others are not queued any more but read from the store, in their
//! order, until it has caught up.

use crate::protocol::api::Event;
use crate::protocol::handlers::HandlerCounters;
use crate::protocol::{DaemonFact, kinds};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The events on their way to one handler, from any thread.
#[derive(Debug)]
pub struct Queue {
    /// The handler's name: what is said about it is not told to it.
    name: String,
    events: Vec<String>,
    bound: usize,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Arc<Event>>,
    /// How many of them are lossy.
    lossy: usize,
    in_hand: Option<Arc<Event>>,
    /// Which instance may take events.
    life: u64,
    /// The newest event that was pushed, whether or not it was for this handler.
    seen: u64,
    /// Every event up to this one is done with.
    cursor: u64,
    /// Where events are to be read from the store: after this number.
    behind: Option<u64>,
    counters: HandlerCounters,
}

/// What an instance is to do next.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// Handle this, then say [`Queue::done`].
    Event(Arc<Event>),
    /// Wait for [`Queue::news`].
    Nothing,
    /// Read the events after this one from the store, for [`Queue::refill`].
    Behind(u64),
    /// End: another instance has taken its place.
    Replaced,
}

/// What an instance had in hand when it failed.
#[derive(Debug, PartialEq)]
pub struct Lost {
    /// The event.
    pub event: Arc<Event>,
    /// Whether the next instance gets it again.
    pub again: bool,
}

impl Queue {
    /// A queue for at most `bound` events of the kinds `events`. It begins after event
    /// `cursor`; what was stored since then, up to `newest`, is read from the store.
    pub fn new(name: &str, events: &[String], bound: usize, cursor: u64, newest: u64) -> Self {
        let state = State {
            seen: newest,
            cursor,
            behind: (cursor < newest).then_some(cursor),
            ..State::default()
        };
        Self {
            name: name.to_owned(),
            events: events.to_owned(),
            bound: bound.max(1),
            state: Mutex::new(state),
            wake: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the handler gets this event.
    pub fn takes(&self, event: &Event) -> bool {
        if event.kind == "gap" {
            return !self.events.is_empty();
        }
        self.events.iter().any(|p| kinds::matches(p, &event.kind)) && !self.is_about_it(event)
    }

    /// A handler that fails is not told so: it could fail again.
    fn is_about_it(&self, event: &Event) -> bool {
        event.kind.starts_with("handler_")
            && event
                .daemon_fact()
                .as_ref()
                .and_then(DaemonFact::handler)
                .is_some_and(|name| name == self.name)
    }

    /// Events happened. Never waits.
    pub fn push(&self, events: &[Arc<Event>]) {
        let mut state = self.state();
        let before = state.waiting.len();
        for event in events {
            if !event.is_passing() {
                if event.id <= state.seen {
                    continue;
                }
                state.seen = event.id;
            }
            match self.takes(event) {
                true => state.put(event, self.bound),
                false => state.pass(event.id),
            }
        }
        // One that has something to do looks again before it waits.
        let is_news = before == 0 && !state.waiting.is_empty();
        drop(state);
        if is_news {
            self.wake.notify_one();
        }
    }

    /// What comes after the newest event that was pushed is to be read from the store.
    pub fn fall_behind(&self) {
        let mut state = self.state();
        let seen = state.seen;
        state.behind.get_or_insert(seen);
        drop(state);
        self.wake.notify_one();
    }

    /// An instance begins: the one that events are given to from now on.
    pub fn open(&self) -> u64 {
        let mut state = self.state();
        state.take_back();
        state.life += 1;
        state.life
    }

    /// What the instance `life` is to do.
    pub fn next(&self, life: u64) -> Next {
        let mut state = self.state();
        if state.life != life {
            return Next::Replaced;
        }
        match (state.waiting.pop_front(), state.behind) {
            (Some(event), _) => {
                state.lossy -= usize::from(event.is_lossy());
                state.in_hand = Some(event.clone());
                Next::Event(event)
            }
            (None, Some(after)) => Next::Behind(after),
            (None, None) => Next::Nothing,
        }
    }

    /// The instance `life` is done with the event that it has in hand.
    pub fn done(&self, life: u64) {
        let mut state = self.state();
        if state.life != life {
            return;
        }
        if let Some(event) = state.in_hand.take() {
            state.counters.delivered += 1;
            state.cursor = state.cursor.max(event.id);
            let seen = state.seen;
            state.pass(seen);
        }
    }

    /// The instance failed or was given up: nothing is given to it any more.
    pub fn fail(&self) -> Option<Lost> {
        let mut state = self.state();
        state.life += 1;
        state.counters.failed += 1;
        state.take_back()
    }

    /// The handler is removed: no instance is given anything any more.
    pub fn close(&self) {
        self.state().life += 1;
    }

    /// Counts a restart.
    pub fn restarted(&self) {
        self.state().counters.restarted += 1;
    }

    /// Events from the store, after the number that [`Next::Behind`] gave; `next` is the
    /// last number that was looked at, `end` whether there are none after it.
    pub fn refill(&self, events: impl IntoIterator<Item = Arc<Event>>, next: u64, end: bool) {
        let mut state = self.state();
        for event in events {
            if self.takes(&event) && !event.is_lossy() {
                state.waiting.push_back(event);
            }
        }
        // What was pushed meanwhile and is not in this page is in the next one.
        let caught_up = end && next >= state.seen;
        state.behind = (!caught_up).then_some(next);
        if state.waiting.is_empty() {
            state.cursor = state.cursor.max(next);
        }
    }

    /// Waits until there may be something to do.
    pub async fn news(&self) {
        self.wake.notified().await;
    }

    /// What became of the events so far, and how many wait, the one in hand included.
    pub fn counts(&self) -> (HandlerCounters, usize) {
        let state = self.state();
        let waiting = state.waiting.len() + usize::from(state.in_hand.is_some());
        (state.counters, waiting)
    }

    /// The last event that the handler is done with.
    pub fn cursor(&self) -> u64 {
        self.state().cursor
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        let state = self.state();
        state.waiting.is_empty() && state.in_hand.is_none() && state.behind.is_none()
    }
}

impl State {
    /// An event for the handler.
    fn put(&mut self, event: &Arc<Event>, bound: usize) {
        let lossy = event.is_lossy();
        if self.behind.is_none() && self.waiting.len() >= bound && !self.evict() {
            if !lossy {
                self.behind = Some(event.id - 1);
            } else {
                self.counters.dropped += 1;
                return;
            }
        }
        if self.behind.is_some() {
            match lossy {
                true => self.counters.dropped += 1,
                false => self.counters.lagged += 1,
            }
            return;
        }
        self.lossy += usize::from(lossy);
        self.waiting.push_back(event.clone());
    }

    /// An idle handler need not look at `id` again after a restart.
    fn pass(&mut self, id: u64) {
        if self.waiting.is_empty() && self.in_hand.is_none() && self.behind.is_none() {
            self.cursor = self.cursor.max(id);
        }
    }

    /// Lets the oldest lossy event go, if there is one.
    fn evict(&mut self) -> bool {
        if self.lossy == 0 {
            return false;
        }
        let Some(oldest) = self.waiting.iter().position(|event| event.is_lossy()) else {
            return false;
        };
        self.waiting.remove(oldest);
        self.lossy -= 1;
        self.counters.dropped += 1;
        true
    }

    /// The event in hand is for the next instance, unless it is lossy.
    fn take_back(&mut self) -> Option<Lost> {
        let event = self.in_hand.take()?;
        let again = !event.is_lossy();
        if again {
            self.waiting.push_front(event.clone());
        }
        Some(Lost { event, again })
    }
}

#[cfg(test)]
mod tests;

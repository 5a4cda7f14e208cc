//! The two queues between a worker and whoever drives it.
//!
//! Bound: the worker never waits for its listener. Past [`CAPACITY`] undelivered facts the
//! frequent kinds (step, progress) are dropped and counted; every other kind is always
//! kept, and there are few of them.

use crate::protocol::{Command, Fact, Frame, VERSION};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Undelivered facts past which frequent kinds are dropped: some 20 MiB at worst.
pub const CAPACITY: usize = 1 << 16;

#[derive(Default)]
struct State {
    facts: VecDeque<Frame>,
    commands: VecDeque<Command>,
    seq: u64,
    dropped: u64,
    closed: bool,
}

struct Shared {
    run: String,
    /// Grows whenever the worker passes by.
    beats: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between statements, so a panicked holder harms nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The worker's end: facts out, commands in. Closing it (drop) ends the listener's loop.
pub struct WorkerLink(Arc<Shared>);

/// The listener's end.
#[derive(Clone)]
pub struct Listener(Arc<Shared>);

/// A link for the run `run`.
pub fn link(run: &str) -> (WorkerLink, Listener) {
    let shared = Arc::new(Shared {
        run: run.to_owned(),
        beats: AtomicU64::new(0),
        state: Mutex::default(),
        changed: Condvar::new(),
    });
    (WorkerLink(shared.clone()), Listener(shared))
}

impl WorkerLink {
    /// Tells the listener; never blocks on it.
    pub fn send(&self, fact: Fact) {
        self.beat();
        let mut state = self.0.lock();
        state.seq += 1;
        let frequent = matches!(fact, Fact::Step(_) | Fact::Progress { .. });
        if frequent && state.facts.len() >= CAPACITY {
            state.dropped += 1;
            return;
        }
        let frame = Frame {
            v: VERSION,
            seq: state.seq,
            run: self.0.run.clone(),
            fact,
        };
        state.facts.push_back(frame);
        self.0.changed.notify_all();
    }

    /// Shows that the worker is at work.
    pub fn beat(&self) {
        self.0.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// The oldest command that was not yet taken.
    pub fn command(&self) -> Option<Command> {
        self.beat();
        self.0.lock().commands.pop_front()
    }

    /// Waits for a command; for a worker that is paused.
    pub fn wait_command(&self) -> Command {
        let mut state = self.0.lock();
        loop {
            if let Some(command) = state.commands.pop_front() {
                return command;
            }
            state = self
                .0
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for WorkerLink {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

/// What [`Listener::next`] found.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// A fact.
    Frame(Box<Frame>),
    /// Nothing within the time given.
    Nothing,
    /// The worker is gone and every fact was delivered.
    Closed,
}

impl Listener {
    /// The next fact, waiting for at most `timeout`.
    pub fn next(&self, timeout: Duration) -> Next {
        let state = self.0.lock();
        let (mut state, _) = self
            .0
            .changed
            .wait_timeout_while(state, timeout, |s| s.facts.is_empty() && !s.closed)
            .unwrap_or_else(PoisonError::into_inner);
        match state.facts.pop_front() {
            Some(frame) => Next::Frame(Box::new(frame)),
            None if state.closed => Next::Closed,
            None => Next::Nothing,
        }
    }

    /// Tells the worker.
    pub fn command(&self, command: Command) {
        self.0.lock().commands.push_back(command);
        self.0.changed.notify_all();
    }

    /// A number that grows while the worker is at work.
    pub fn beats(&self) -> u64 {
        self.0.beats.load(Ordering::Relaxed)
    }

    /// Facts that were dropped because this end did not take them.
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Stage;

    fn progress(done: u64) -> Fact {
        Fact::Progress {
            stage: Stage::Tokenizing,
            done,
            total: None,
        }
    }

    #[test]
    fn facts_arrive_in_order_with_sequence_numbers_and_the_end_is_seen() {
        let (worker, listener) = link("a");
        let thread = std::thread::spawn(move || {
            for done in 0..100 {
                worker.send(progress(done));
            }
        });
        for expected in 0..100 {
            let Next::Frame(frame) = listener.next(Duration::from_secs(5)) else {
                panic!("no frame {expected}");
            };
            assert_eq!(
                (frame.seq, &frame.fact),
                (expected + 1, &progress(expected))
            );
        }
        assert_eq!(listener.next(Duration::from_secs(5)), Next::Closed);
        thread.join().unwrap();
    }

    /// behaviour: event-15
    #[test]
    fn a_listener_that_does_not_listen_loses_frequent_facts_only_and_they_are_counted() {
        let (worker, listener) = link("a");
        for done in 0..CAPACITY as u64 + 7 {
            worker.send(progress(done));
        }
        worker.send(Fact::Paused { step: 3 });
        drop(worker);
        assert_eq!(listener.dropped(), 7);
        let mut last = None;
        while let Next::Frame(frame) = listener.next(Duration::ZERO) {
            last = Some(frame);
        }
        let last = last.unwrap();
        assert_eq!(last.fact, Fact::Paused { step: 3 });
        assert_eq!(
            last.seq,
            CAPACITY as u64 + 8,
            "the gap shows in the numbers"
        );
    }

    #[test]
    fn commands_travel_down() {
        let (worker, listener) = link("a");
        assert_eq!(worker.command(), None);
        listener.command(Command::Stop);
        assert_eq!(worker.wait_command(), Command::Stop);
    }
}

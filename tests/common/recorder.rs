//! A subscriber that records what it hears.

use backpropd::domain::Result;
use backpropd::handlers::{EventHandler, Kinds};
use backpropd::protocol::api::Event;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long events are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What subscribers of kind `record` heard. Clones share it.
#[derive(Clone, Default)]
pub struct Recorder(Arc<(Mutex<Vec<Heard>>, Condvar)>);

/// An event, when it was heard, and by which handler.
#[derive(Clone, Debug)]
pub struct Heard {
    pub event: Event,
    pub at: Instant,
    pub by: String,
}

struct Listener {
    name: String,
    recorder: Recorder,
}

impl EventHandler for Listener {
    fn handle(&mut self, event: &Event) -> Result<()> {
        let (heard, more) = &*self.recorder.0;
        heard.lock().unwrap().push(Heard {
            event: event.clone(),
            at: Instant::now(),
            by: self.name.clone(),
        });
        more.notify_all();
        Ok(())
    }
}

impl Recorder {
    /// `kinds` with one more, whose handlers record into this.
    pub fn kind(&self, kinds: Kinds) -> Kinds {
        let recorder = self.clone();
        kinds.with("record", move |settings| {
            let (name, recorder) = (settings.name.clone(), recorder.clone());
            Ok(move || {
                Ok(Listener {
                    name: name.clone(),
                    recorder: recorder.clone(),
                })
            })
        })
    }

    /// Everything so far.
    pub fn all(&self) -> Vec<Heard> {
        self.0.0.lock().unwrap().clone()
    }

    /// What handler `by` heard of `kind`.
    pub fn of(&self, by: &str, kind: &str) -> Vec<Event> {
        let all = self.all().into_iter();
        let of = all.filter(|heard| heard.by == by && heard.event.kind == kind);
        of.map(|heard| heard.event).collect()
    }

    /// Waits, without looking again and again, until `by` has heard `n` events of `kind`,
    /// and gives them back.
    pub fn wait(&self, by: &str, kind: &str, n: usize) -> Vec<Event> {
        let (heard, more) = &*self.0;
        let few = |heard: &mut Vec<Heard>| {
            let of = heard.iter().filter(|h| h.by == by && h.event.kind == kind);
            of.count() < n
        };
        let heard = heard.lock().unwrap();
        let (heard, timeout) = more.wait_timeout_while(heard, PATIENCE, few).unwrap();
        let kinds: Vec<_> = heard.iter().map(|h| (&h.by, &h.event.kind)).collect();
        assert!(
            !timeout.timed_out(),
            "{n} × {kind} for {by}; heard: {kinds:?}"
        );
        drop(heard);
        self.of(by, kind)
    }

    /// Asserts that `by` heard exactly these kinds, in this order by time and by number.
    pub fn assert_order(&self, by: &str, kinds: &[&str]) {
        let mut heard = self.all();
        heard.retain(|heard| heard.by == by);
        let heard_kinds: Vec<_> = heard
            .iter()
            .map(|heard| heard.event.kind.as_str())
            .collect();
        assert_eq!(heard_kinds, kinds);
        for pair in heard.windows(2) {
            let [a, b] = pair else { unreachable!() };
            assert!(
                a.event.id < b.event.id && a.at <= b.at,
                "{a:?} before {b:?}"
            );
        }
    }
}

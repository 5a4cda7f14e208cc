//! What the supervisor of the handlers says of them.

use crate::actors::reporter::{Reporter, report};
use crate::handlers::Queue;
use crate::protocol::DaemonFact;
use crate::supervise::{ChildRef, Notice};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

/// The handlers by the names of their actors: shared with the thread that hears the notices.
#[derive(Clone, Default)]
pub struct Roster(Arc<Mutex<BTreeMap<String, Arc<Listed>>>>);

/// A handler in the roster.
pub struct Listed {
    name: String,
    queue: Arc<Queue>,
    /// Whether it last failed on what was said of handlers and actors. That is not told on:
    /// two handlers could make each other fail for ever.
    quiet: AtomicBool,
}

impl Roster {
    /// Adds the handler `name`, whose actor is called `actor`.
    pub fn add(&self, actor: &str, name: &str, queue: Arc<Queue>) {
        let listed = Listed {
            name: name.to_owned(),
            queue,
            quiet: AtomicBool::new(false),
        };
        let mut roster = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        roster.insert(actor.to_owned(), Arc::new(listed));
    }

    /// Takes it out.
    pub fn remove(&self, actor: &str) {
        let mut roster = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        roster.remove(actor);
    }

    fn get(&self, actor: &str) -> Option<Arc<Listed>> {
        let roster = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        roster.get(actor).cloned()
    }

    /// Notes what happened to a handler, logs it, and has it reported.
    pub fn hear(&self, notice: Notice, reporter: &ChildRef<Reporter>) {
        let (Notice::Failed { child, .. }
        | Notice::Restarted { child, .. }
        | Notice::Quarantined { child, .. }) = &notice;
        // One that was removed meanwhile is of no interest.
        let Some(listed) = self.get(child) else {
            return;
        };
        let fact = listed.note(notice);
        let is_end = matches!(fact, DaemonFact::HandlerQuarantined { .. });
        if is_end || !listed.quiet.load(Relaxed) {
            report(reporter, fact);
        }
    }
}

impl Listed {
    fn note(&self, notice: Notice) -> DaemonFact {
        let handler = self.name.clone();
        match notice {
            Notice::Failed {
                cause,
                restart_in_ms,
                ..
            } => {
                let lost = self.queue.fail();
                let kept = lost.as_ref().filter(|lost| !lost.event.is_passing());
                let event = kept.map(|lost| lost.event.id);
                let event_kind = lost.as_ref().map(|lost| lost.event.kind.clone());
                let told =
                    |kind: &String| kind.starts_with("handler_") || kind == "actor_restarted";
                self.quiet
                    .store(event_kind.as_ref().is_some_and(told), Relaxed);
                tracing::warn!(%handler, event, kind = event_kind.as_deref(), "an event handler {cause}");
                DaemonFact::HandlerFailed {
                    handler,
                    event,
                    event_kind,
                    cause: cause.to_string(),
                    restart_in_ms,
                }
            }
            Notice::Restarted { restarts, .. } => {
                self.queue.restarted();
                tracing::info!(%handler, restarts, "an event handler was restarted");
                DaemonFact::HandlerRestarted { handler, restarts }
            }
            Notice::Quarantined { first, .. } => {
                tracing::error!(
                    %handler,
                    "an event handler failed too often and stays down until it is released; it \
                     began with: {first}"
                );
                DaemonFact::HandlerQuarantined {
                    handler,
                    first: first.to_string(),
                }
            }
        }
    }
}

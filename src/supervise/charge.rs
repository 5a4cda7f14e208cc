//! What a message carries along: its place in the mailbox, and the ear of its sender.

use super::Panicked;
use super::life::Life;
use std::cell::RefCell;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use tokio::sync::OwnedSemaphorePermit;

/// Where the sender of a message finds what the message did to the actor.
pub(super) type Verdict = Arc<OnceLock<Panicked>>;

/// A message's place in the mailbox, held until the message is answered.
#[derive(Debug)]
pub(super) struct Charge {
    pub verdict: Verdict,
    life: Arc<Life>,
    answered: bool,
    _permit: OwnedSemaphorePermit,
}

impl Charge {
    pub fn new(verdict: Verdict, life: Arc<Life>, permit: OwnedSemaphorePermit) -> Self {
        Self {
            verdict,
            life,
            answered: false,
            _permit: permit,
        }
    }

    /// The message is done with: that is progress.
    pub fn answered(mut self) {
        self.answered = true;
        self.life.made_progress();
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if !self.answered {
            self.life.tally.lost.fetch_add(1, Relaxed);
        }
    }
}

thread_local! {
    static IN_HAND: RefCell<Option<Charge>> = const { RefCell::new(None) };
}

/// Runs `send`, in which actix packs exactly one message, which takes the charge.
///
/// Actix's senders have no place for anything beside the message, and pack it before they
/// return; hence this detour. A charge that was not taken is handed back.
pub(super) fn deliver<T>(charge: Charge, send: impl FnOnce() -> T) -> (T, Option<Charge>) {
    IN_HAND.set(Some(charge));
    let sent = send();
    (sent, IN_HAND.take())
}

/// Takes the charge of the message that is being packed.
pub(super) fn take() -> Option<Charge> {
    IN_HAND.take()
}

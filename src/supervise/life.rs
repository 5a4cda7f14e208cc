//! One generation as seen from outside: what supervisor, peers and the actor's own driver
//! share about it.

use super::panics::contain;
use super::{CallError, Cause};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Waker;
use std::thread::ThreadId;
use tokio::sync::{Semaphore, watch};

/// What the driver is to do.
const RUN: u8 = 0;
const STOP: u8 = 1;
const ABANDONED: u8 = 2;
/// The driver is through with it.
const ENDED: u8 = 3;

/// Counts over all generations of a child.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Messages that generations took along when they ended.
    pub lost: AtomicU64,
    /// Abandoned generations that have not returned.
    pub abandoned: AtomicU64,
}

/// One generation.
#[derive(Debug)]
pub(super) struct Life {
    pub child: Arc<str>,
    pub generation: u64,
    /// A permit for each message that is not answered yet; closed at the end.
    pub room: Arc<Semaphore>,
    pub bound: usize,
    pub tally: Arc<Tally>,
    /// Messages answered and progress reported.
    pub progress: AtomicU64,
    /// Work that the actor declared beside its messages.
    pub work: AtomicU64,
    /// Whether it is on its thread at this moment, and for the how manieth time.
    pub polling: AtomicBool,
    pub polls: AtomicU64,
    /// The thread it runs on, known from its first poll.
    pub thread: OnceLock<ThreadId>,
    fate: watch::Sender<Option<Cause>>,
    order: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

impl Life {
    pub fn new(child: Arc<str>, generation: u64, bound: usize, tally: Arc<Tally>) -> Arc<Self> {
        Arc::new(Self {
            child,
            generation,
            room: Arc::new(Semaphore::new(bound)),
            bound,
            tally,
            progress: AtomicU64::new(0),
            work: AtomicU64::new(0),
            polling: AtomicBool::new(false),
            polls: AtomicU64::new(0),
            thread: OnceLock::new(),
            fate: watch::Sender::new(None),
            order: AtomicU8::new(RUN),
            waker: Mutex::new(None),
        })
    }

    /// Messages that were accepted and not answered yet.
    pub fn depth(&self) -> usize {
        match self.fate.borrow().is_some() {
            true => 0,
            false => self.bound.saturating_sub(self.room.available_permits()),
        }
    }

    /// Asks it to stop, once.
    pub fn stop(&self) {
        if self
            .order
            .compare_exchange(RUN, STOP, AcqRel, Acquire)
            .is_ok()
        {
            self.wake();
        }
    }

    /// Turns away from it: its peers hear `cause` now, and it handles nothing more from
    /// the next time it yields.
    pub fn abandon(&self, cause: Cause) {
        // Counted first, so that the driver's subtraction cannot come before it.
        self.tally.abandoned.fetch_add(1, AcqRel);
        let taken = self.order.fetch_update(AcqRel, Acquire, |order| {
            (order < ABANDONED).then_some(ABANDONED)
        });
        if taken.is_err() {
            self.tally.abandoned.fetch_sub(1, AcqRel);
        }
        self.seal(cause);
        self.wake();
    }

    /// The driver is gone.
    pub fn end(&self, cause: Cause) {
        self.seal(cause);
        if self.order.swap(ENDED, AcqRel) == ABANDONED {
            self.tally.abandoned.fetch_sub(1, AcqRel);
        }
    }

    pub fn told_to_stop(&self) -> bool {
        self.order.load(Acquire) == STOP
    }

    pub fn abandoned(&self) -> bool {
        self.order.load(Acquire) == ABANDONED
    }

    /// The thread that it is on at this moment.
    pub fn holds(&self) -> Option<ThreadId> {
        let polling = self.polling.load(Acquire);
        self.thread.get().copied().filter(|_| polling)
    }

    /// Where [`Life::stop`] and [`Life::abandon`] find the driver.
    pub fn wake_by(&self, waker: &Waker) {
        let mut slot = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *slot {
            Some(known) => known.clone_from(waker),
            empty => *empty = Some(waker.clone()),
        }
    }

    fn wake(&self) {
        let waker = self
            .waker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(waker) = waker {
            contain(|| waker.wake());
        }
    }

    /// Tells its peers that it is over, and why: the first cause is the one that stays.
    pub fn seal(&self, cause: Cause) {
        self.fate.send_if_modified(|fate| {
            let first = fate.is_none();
            fate.get_or_insert(cause);
            first
        });
        self.room.close();
    }

    /// Why it ended, if it did.
    pub fn fate(&self) -> Option<Cause> {
        self.fate.borrow().clone()
    }

    /// Waits for its end.
    pub async fn ended(&self) {
        let mut fate = self.fate.subscribe();
        // Fails only when the sender is gone, and that is in `self`.
        let _ = fate.wait_for(Option::is_some).await;
    }

    /// What a peer hears whose message went down with it.
    pub fn down(&self) -> CallError {
        CallError::Down {
            child: self.child.clone(),
            generation: self.generation,
            cause: self.fate(),
        }
    }

    pub fn made_progress(&self) {
        self.progress.fetch_add(1, Relaxed);
    }
}

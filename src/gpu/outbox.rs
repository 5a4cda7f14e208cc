//! Between the monitor and whoever listens.

use crate::domain::gpu::Notice;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Who listens. It must not block: a full queue gives the notice back, and it is offered
/// again.
pub trait Sink: Send {
    /// Takes a notice, or gives it back.
    ///
    /// # Errors
    /// The notice itself, where there is no room for it now.
    fn offer(&mut self, notice: Notice) -> Result<(), Box<Notice>>;
}

impl<F> Sink for F
where
    F: FnMut(Notice) -> Result<(), Box<Notice>> + Send,
{
    fn offer(&mut self, notice: Notice) -> Result<(), Box<Notice>> {
        self(notice)
    }
}

/// Notices that wait for room. Statuses never pile up here, so the bound is on changes: at
/// a handful a minute, this many mean that nobody listened for hours.
const BOUND: usize = 1024;

pub(super) struct Outbox {
    sink: Box<dyn Sink>,
    waiting: VecDeque<Notice>,
    /// Statuses that a newer one replaced before they could be told.
    pub coalesced: u64,
    /// Notices that were given up: the oldest of too many, or a sink that panicked.
    pub lost: u64,
}

impl Outbox {
    pub fn new(sink: Box<dyn Sink>) -> Self {
        Self {
            sink,
            waiting: VecDeque::new(),
            coalesced: 0,
            lost: 0,
        }
    }

    /// Queues a notice. A status takes the place of an older one of its GPU.
    pub fn push(&mut self, notice: Notice) {
        if notice.is_lossy() {
            let gpu = index(&notice);
            let before = self.waiting.len();
            self.waiting
                .retain(|old| !(old.is_lossy() && index(old) == gpu));
            self.coalesced += (before - self.waiting.len()) as u64;
        }
        if self.waiting.len() == BOUND {
            self.waiting.pop_front();
            self.lost += 1;
        }
        self.waiting.push_back(notice);
    }

    /// Offers what waits, in order, until there is no more room. `silent` is asked before
    /// each.
    pub fn flush(&mut self, silent: impl Fn() -> bool) {
        while !silent() {
            let Some(notice) = self.waiting.pop_front() else {
                return;
            };
            // A listener's panic costs its notice, not the monitor.
            match catch_unwind(AssertUnwindSafe(|| self.sink.offer(notice))) {
                Ok(Ok(())) => {}
                Ok(Err(notice)) => return self.waiting.push_front(*notice),
                Err(_) => self.lost += 1,
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

fn index(notice: &Notice) -> Option<u32> {
    notice.fact.status().map(|status| status.reading.index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::gpu::{Action, Driver, GpuFact, GpuStatus, Reading};
    use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

    fn status(index: u32, timestamp_ms: u64) -> Notice {
        Notice::only(GpuFact::GpuStatus {
            status: Box::new(GpuStatus {
                reading: Reading {
                    index,
                    timestamp_ms,
                    ..Reading::default()
                },
                ..GpuStatus::default()
            }),
        })
    }

    fn driver() -> Notice {
        Notice::only(GpuFact::GpuDriver {
            driver: Driver::Starting,
        })
    }

    fn sink(to: SyncSender<Notice>) -> Box<dyn Sink> {
        Box::new(move |notice: Notice| match to.try_send(notice) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(n) | TrySendError::Disconnected(n)) => Err(Box::new(n)),
        })
    }

    fn received(from: &Receiver<Notice>) -> Vec<Notice> {
        from.try_iter().collect()
    }

    #[test]
    fn a_full_listener_gets_every_change_in_order_and_the_newest_status() {
        let (to, from) = sync_channel(1);
        let mut outbox = Outbox::new(sink(to));
        outbox.push(driver());
        outbox.flush(|| false);
        for notice in [
            status(0, 1),
            status(1, 1),
            driver(),
            status(0, 2),
            status(0, 3),
        ] {
            outbox.push(notice);
            outbox.flush(|| false);
        }
        assert_eq!(outbox.coalesced, 2);
        let mut all = Vec::new();
        while !outbox.is_empty() {
            all.extend(received(&from));
            outbox.flush(|| false);
        }
        all.extend(received(&from));
        assert_eq!(all, [driver(), status(1, 1), driver(), status(0, 3)]);
        assert_eq!(outbox.lost, 0);
    }

    #[test]
    fn a_status_that_carries_an_action_is_never_replaced() {
        let (to, from) = sync_channel(8);
        let mut outbox = Outbox::new(sink(to));
        let mut pausing = status(0, 1);
        pausing.action = Action::Pause;
        outbox.push(pausing.clone());
        outbox.push(status(0, 2));
        outbox.flush(|| false);
        assert_eq!(received(&from), [pausing, status(0, 2)]);
    }

    #[test]
    fn nobody_listening_costs_bounded_memory_and_is_counted() {
        let (to, from) = sync_channel(1);
        drop(from);
        let mut outbox = Outbox::new(sink(to));
        for _ in 0..BOUND + 7 {
            outbox.push(driver());
            outbox.flush(|| false);
        }
        assert_eq!((outbox.waiting.len(), outbox.lost), (BOUND, 7));
    }

    /// behaviour: gpu-11
    #[test]
    fn a_listener_that_panics_loses_one_notice_and_gets_the_next() {
        let (to, from) = sync_channel(8);
        let mut first = true;
        let mut outbox = Outbox::new(Box::new(move |notice: Notice| {
            assert!(!std::mem::take(&mut first), "a listener's panic");
            to.try_send(notice).unwrap();
            Ok(())
        }));
        outbox.push(status(0, 1));
        outbox.push(status(1, 2));
        outbox.flush(|| false);
        assert_eq!(received(&from), [status(1, 2)]);
        assert_eq!(outbox.lost, 1);
    }
}

//! The monitor as others see it: a handle, and the thread behind it.

use super::clock::{Clock, SystemClock};
use super::core::{Core, Effect, Input};
use super::outbox::{Outbox, Sink};
use super::reader::{Inbox, Reader};
use crate::domain::gpu::{Driver, GpuSettings, GpuStatus};
use crate::domain::{Code, Error, Result};
use serde::Serialize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Answers, errors and wake-ups that wait for the monitor. It takes them in microseconds,
/// and their senders can wait.
const INBOX: usize = 64;

/// When a listener that had no room is asked again.
const OFFER_AGAIN: Duration = Duration::from_millis(100);

/// Starts monitors.
#[derive(Debug)]
pub struct Monitor;

/// All that can be asked for at any time, at no cost to anybody.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// Where the driver stands.
    pub driver: Driver,
    /// Whether nothing is told at the moment.
    pub paused: bool,
    /// The latest status of each GPU.
    pub gpus: Vec<GpuStatus>,
    /// Threads that hang in the driver and were given up.
    pub given_up_threads: usize,
    /// Answers that came too late to count.
    pub late_answers: u64,
    /// Statuses that listeners were too slow for.
    pub coalesced: u64,
    /// Notices that listeners never took.
    pub lost: u64,
}

/// A running monitor. Dropping it stops it, without waiting.
pub struct MonitorHandle {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    inbox: Inbox,
}

struct Shared {
    /// Held for microseconds: no call to a driver, a listener or a file stands inside.
    core: Mutex<Core>,
    stopping: AtomicBool,
    stopped: Mutex<bool>,
    on_stopped: Condvar,
    coalesced: AtomicU64,
    lost: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Monitor {
    /// Starts a monitor that tells `sink`.
    ///
    /// # Errors
    /// `config-invalid` about a key; `device-unavailable` where the system has no thread
    /// left. A machine without a driver is no error: see [`Snapshot::driver`].
    pub fn spawn(settings: GpuSettings, sink: impl Sink + 'static) -> Result<MonitorHandle> {
        Self::spawn_with(settings, sink, Arc::new(SystemClock::default()))
    }

    /// … with a clock of one's own.
    ///
    /// # Errors
    /// As [`Monitor::spawn`].
    pub fn spawn_with(
        settings: GpuSettings,
        sink: impl Sink + 'static,
        clock: Arc<dyn Clock>,
    ) -> Result<MonitorHandle> {
        settings.validate()?;
        let no_thread = |error: std::io::Error| {
            Error::new(
                Code::DeviceUnavailable,
                "gpu monitor",
                format_args!("its thread cannot be started: {error}"),
            )
            .hint("raise the limit on processes, or switch the monitor off")
        };
        let (sender, inputs) = sync_channel(INBOX);
        let inbox = Inbox(sender);
        let reader =
            Reader::start(0, settings.library.clone(), inbox.clone()).map_err(no_thread)?;
        let shared = Arc::new(Shared {
            core: Mutex::new(Core::new(settings, clock.now())),
            stopping: AtomicBool::new(false),
            stopped: Mutex::new(false),
            on_stopped: Condvar::new(),
            coalesced: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let handle = MonitorHandle {
            shared: Arc::clone(&shared),
            clock: Arc::clone(&clock),
            inbox: inbox.clone(),
        };
        let waker = inbox.clone();
        clock.on_change(Box::new(move || waker.wake()));
        let mut thread = Thread {
            shared,
            clock,
            inputs,
            inbox,
            reader: Some(reader),
            outbox: Outbox::new(Box::new(sink)),
        };
        std::thread::Builder::new()
            .name("gpu-monitor".into())
            .spawn(move || {
                thread.run();
                let shared = Arc::clone(&thread.shared);
                // The sink goes first: after the word "stopped" it hears nothing.
                drop(thread);
                *lock(&shared.stopped) = true;
                shared.on_stopped.notify_all();
            })
            .map_err(no_thread)?;
        Ok(handle)
    }
}

impl MonitorHandle {
    /// Tells nothing until [`MonitorHandle::resume`]. Looking goes on, and so does the
    /// history; what changes meanwhile is told afterwards.
    pub fn pause(&self) {
        lock(&self.shared.core).set_paused(true);
    }

    /// Tells again.
    pub fn resume(&self) {
        lock(&self.shared.core).set_paused(false);
        self.inbox.wake();
    }

    /// Puts other settings into force. The library is an exception: it stays the one that
    /// was opened.
    ///
    /// # Errors
    /// `config-invalid` about a key; the old settings stay in force.
    pub fn reconfigure(&self, settings: GpuSettings) -> Result<()> {
        settings.validate()?;
        lock(&self.shared.core).set_settings(settings, self.clock.now());
        self.inbox.wake();
        Ok(())
    }

    /// Lowers the temperature at which the runs on a GPU pause, or lifts that again.
    pub fn set_max_temperature(&self, index: u32, max_c: Option<f64>) {
        lock(&self.shared.core).set_cap(index, max_c);
    }

    /// What is known now.
    pub fn snapshot(&self) -> Snapshot {
        let core = lock(&self.shared.core);
        Snapshot {
            driver: core.driver().clone(),
            paused: core.is_paused(),
            gpus: core.histories().filter_map(|h| h.back().cloned()).collect(),
            given_up_threads: core.given_up(),
            late_answers: core.late_answers(),
            coalesced: self.shared.coalesced.load(Ordering::Relaxed),
            lost: self.shared.lost.load(Ordering::Relaxed),
        }
    }

    /// The kept statuses of a GPU, oldest first; none of a GPU that is not known.
    pub fn history(&self, index: u32) -> Vec<GpuStatus> {
        lock(&self.shared.core)
            .histories()
            .find(|h| h.back().is_some_and(|s| s.reading.index == index))
            .map(|h| h.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Stops, waiting for at most `bound` (real time). True once nothing will be told any
    /// more; false where a listener is still busy with its last notice. Can be repeated.
    pub fn stop(&self, bound: Duration) -> bool {
        self.begin_stop();
        let stopped = lock(&self.shared.stopped);
        let (stopped, _) = self
            .shared
            .on_stopped
            .wait_timeout_while(stopped, bound, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        *stopped
    }

    fn begin_stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.inbox.wake();
    }
}

impl Drop for MonitorHandle {
    fn drop(&mut self) {
        self.begin_stop();
    }
}

impl std::fmt::Debug for MonitorHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MonitorHandle")
            .field(&self.snapshot())
            .finish()
    }
}

/// What `gpu-monitor` owns.
struct Thread {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    inputs: Receiver<Input>,
    inbox: Inbox,
    /// `None` where no thread could be started in the place of a hung one.
    reader: Option<Reader>,
    outbox: Outbox,
}

impl Thread {
    fn run(&mut self) {
        let stopping = |shared: &Shared| shared.stopping.load(Ordering::SeqCst);
        while !stopping(&self.shared) {
            let input = self.wait();
            let (now, unix_ms) = (self.clock.now(), self.clock.unix_ms());
            let effects = lock(&self.shared.core).on(input, now, unix_ms);
            for effect in effects {
                self.carry_out(effect);
            }
            let shared = &self.shared;
            self.outbox
                .flush(|| stopping(shared) || lock(&shared.core).is_paused());
            shared
                .coalesced
                .store(self.outbox.coalesced, Ordering::Relaxed);
            shared.lost.store(self.outbox.lost, Ordering::Relaxed);
        }
    }

    fn wait(&self) -> Input {
        let mut until = lock(&self.shared.core).deadline();
        if !self.outbox.is_empty() {
            until = until.min(self.clock.now() + OFFER_AGAIN);
        }
        let input = match self.clock.real_wait(until) {
            Some(wait) => self.inputs.recv_timeout(wait).ok(),
            // This thread holds a sender itself: there is always another input.
            None => self.inputs.recv().ok(),
        };
        input.unwrap_or(Input::Time)
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Tell(notice) => self.outbox.push(notice),
            Effect::Replace { generation } => {
                let library = lock(&self.shared.core).settings().library.clone();
                // Without a thread the question that follows is never answered, which is
                // what the monitor reports already.
                self.reader = Reader::start(generation, library, self.inbox.clone()).ok();
            }
            Effect::Ask { question } => {
                if let Some(reader) = &self.reader {
                    reader.ask(question);
                }
            }
        }
    }
}

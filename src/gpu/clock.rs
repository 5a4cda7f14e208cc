//! Time as the monitor sees it, so that a test can be its master.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What a clock calls when it was set.
pub type Wake = Box<dyn Fn() + Send>;

/// A source of time.
pub trait Clock: Send + Sync {
    /// Time since some fixed moment. Never goes back.
    fn now(&self) -> Duration;

    /// Milliseconds since 1970, UTC, for people to read. May jump; nothing depends on it.
    fn unix_ms(&self) -> u64;

    /// How long to wait, in real time, until this clock shows `until`; `None`: for as long
    /// as the clock does not call what [`Clock::on_change`] left with it.
    fn real_wait(&self, until: Duration) -> Option<Duration>;

    /// Leaves a function that the clock calls when it was set.
    fn on_change(&self, wake: Wake);
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn unix_ms(&self) -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|d| u64::try_from(d.as_millis()).ok())
            .unwrap_or(0)
    }

    fn real_wait(&self, until: Duration) -> Option<Duration> {
        Some(until.saturating_sub(self.now()))
    }

    fn on_change(&self, _wake: Wake) {}
}

/// A clock that stands still until it is told otherwise. It starts at 0, and 1970.
#[derive(Default)]
pub struct ManualClock {
    now: Mutex<Duration>,
    wakes: Mutex<Vec<Wake>>,
}

impl ManualClock {
    /// Goes forward and wakes who waits.
    pub fn advance(&self, by: Duration) {
        *lock(&self.now) += by;
        for wake in lock(&self.wakes).iter() {
            wake();
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        *lock(&self.now)
    }

    fn unix_ms(&self) -> u64 {
        u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX)
    }

    fn real_wait(&self, until: Duration) -> Option<Duration> {
        (until <= self.now()).then_some(Duration::ZERO)
    }

    fn on_change(&self, wake: Wake) {
        lock(&self.wakes).push(wake);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

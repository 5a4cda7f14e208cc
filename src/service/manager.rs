//! What the service manager is told, at the socket that `NOTIFY_SOCKET` names.

use sd_notify::NotifyState;
use std::time::Duration;

/// The service manager, or nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manager;

impl Manager {
    /// Whether there is one.
    pub fn is_there() -> bool {
        std::env::var_os("NOTIFY_SOCKET").is_some()
    }

    /// Requests are answered from now on.
    pub fn ready(self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The settings are read again; [`Manager::ready`] follows. One datagram: the time
    /// belongs to the word.
    pub fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(e) => tracing::warn!("the monotonic clock cannot be read: {e}"),
        }
    }

    /// A line for whoever looks at the service.
    pub fn status(self, status: &str) {
        tell(&[NotifyState::Status(status)]);
    }

    /// The end has begun and takes this long at most.
    pub fn stopping(self, within: Duration) {
        let micros = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
        tell(&[
            NotifyState::Stopping,
            NotifyState::ExtendTimeoutUsec(micros),
            NotifyState::Status("saving all runs"),
        ]);
    }

    /// A sign of life.
    pub fn alive(self) {
        tell(&[NotifyState::Watchdog]);
    }

    /// How often it expects one; none where it does not.
    pub fn watchdog(self) -> Option<Duration> {
        sd_notify::watchdog_enabled()
    }
}

/// Without a service manager there is nobody to tell.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::warn!("the service manager cannot be told: {e}");
    }
}

//! The one way in which a handler can influence a run.

use crate::domain::run_state::Command;
use crate::domain::{Code, Error, Result, RunId};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

/// How long an answer is waited for. Nobody who answers ever waits for a handler.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the answer to a command goes: whether anything changes.
pub type Reply = SyncSender<Result<bool>>;

/// Sends commands to the supervisor of the runs.
#[derive(Clone)]
pub struct Orders(Arc<dyn Fn(RunId, Command, Reply) + Send + Sync>);

impl Orders {
    /// Orders that `carry` takes to the supervisor, without waiting for it.
    pub fn new(carry: impl Fn(RunId, Command, Reply) + Send + Sync + 'static) -> Self {
        Self(Arc::new(carry))
    }

    /// Tells a run something, as `backpropd ctl` would: it is durable when this returns, and
    /// whether anything changes.
    ///
    /// # Errors
    /// `not-found`, `not-possible`; `daemon-unavailable` while nobody answers.
    pub fn send(&self, run: RunId, command: Command) -> Result<bool> {
        let (reply, answer) = sync_channel(1);
        (self.0)(run, command, reply);
        answer.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let message = "the supervisor of the runs does not answer";
            Err(Error::new(
                Code::DaemonUnavailable,
                format_args!("run {run}"),
                message,
            ))
        })
    }
}

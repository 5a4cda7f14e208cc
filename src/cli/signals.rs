//! Signals that end a run with a checkpoint.

use crate::domain::{Code, Error, Result};
use crate::protocol::Command;
use crate::worker::link::Listener;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// SIGINT, SIGTERM and SIGHUP as a `Stop` command.
#[derive(Clone)]
pub struct Signals {
    first: Arc<AtomicI32>,
    training: Arc<AtomicBool>,
}

impl Signals {
    /// Catches them from now on; they go to `listener`.
    ///
    /// # Errors
    /// `internal` where the system refuses.
    pub fn catch(listener: &Listener) -> Result<Self> {
        let this = Self {
            first: Arc::default(),
            training: Arc::default(),
        };
        let (first, training) = (this.first.clone(), this.training.clone());
        let listener = listener.clone();
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
            .map_err(|e| Error::new(Code::Internal, "signals", e))?;
        let act = move || {
            for signal in signals.forever() {
                let again = first.swap(signal, Ordering::SeqCst) != 0;
                // Before the first step there is nothing to save, and caches are written
                // under temporary names.
                if again || !training.load(Ordering::SeqCst) {
                    signal_hook::low_level::exit(128 + signal);
                }
                listener.command(Command::Stop);
            }
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(act)
            .map_err(|e| Error::new(Code::Internal, "signals", e))?;
        Ok(this)
    }

    /// From now on there is something to save.
    pub fn training_began(&self) {
        self.training.store(true, Ordering::SeqCst);
    }

    /// Whether it did.
    pub fn has_training_begun(&self) -> bool {
        self.training.load(Ordering::SeqCst)
    }

    /// 128 + the signal that stopped the run; 0 where none did.
    pub fn exit_code(&self) -> ExitCode {
        match self.first.load(Ordering::SeqCst) {
            0 => ExitCode::SUCCESS,
            signal => ExitCode::from(128 + signal.clamp(0, 127) as u8),
        }
    }
}

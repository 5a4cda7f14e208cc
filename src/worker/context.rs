//! What every part of a worker needs: the link, and where the run stands.

use super::link::WorkerLink;
use crate::domain::Result;
use crate::protocol::{Command, Fact, Stage};
use std::time::{Duration, Instant};

/// Progress of a stage is told at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// What a command asks of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Go on.
    Continue,
    /// Save and go on.
    Checkpoint,
    /// Save and end.
    Stop,
    /// End.
    Abort,
}

/// The link, and where the run stands.
pub struct Context<'a> {
    link: &'a WorkerLink,
    /// Steps done.
    pub step: u64,
    /// When this worker began.
    pub began: Instant,
    told: Option<(Stage, Instant)>,
}

impl<'a> Context<'a> {
    /// A worker that begins now.
    pub fn new(link: &'a WorkerLink) -> Self {
        Self {
            link,
            step: 0,
            began: Instant::now(),
            told: None,
        }
    }

    /// Tells the listener.
    pub fn send(&self, fact: Fact) {
        self.link.send(fact);
    }

    /// Tells the listener something that it should know.
    pub fn warn(&self, message: impl Into<String>) {
        self.send(Fact::Warning {
            message: message.into(),
        });
    }

    /// Shows that the worker is at work, where it waits for others.
    pub fn beat(&self) {
        self.link.beat();
    }

    /// Tells the listener how far `stage` is; not more often than it can be read.
    pub fn progress(&mut self, stage: Stage, done: u64, total: Option<u64>) -> Result<()> {
        let now = Instant::now();
        let due = self
            .told
            .is_none_or(|(told, at)| told != stage || now - at >= PROGRESS_EVERY);
        if due || total == Some(done) {
            self.told = Some((stage, now));
            self.send(Fact::Progress { stage, done, total });
        }
        Ok(())
    }

    /// Takes the commands that have come, and waits while the run is paused. Each is valid
    /// at any time: what changes nothing is passed over.
    pub fn obey(&self) -> Wish {
        while let Some(command) = self.link.command() {
            match command {
                Command::Stop => return Wish::Stop,
                Command::Abort => return Wish::Abort,
                // Before what comes after it: a pause may last.
                Command::Checkpoint => return Wish::Checkpoint,
                Command::Resume => {}
                Command::Pause => match self.pause() {
                    Wish::Continue => {}
                    end => return end,
                },
            }
        }
        Wish::Continue
    }

    fn pause(&self) -> Wish {
        self.send(Fact::Paused { step: self.step });
        loop {
            match self.link.wait_command() {
                Command::Pause | Command::Checkpoint => {}
                Command::Resume => {
                    self.send(Fact::Resumed { step: self.step });
                    return Wish::Continue;
                }
                Command::Stop => return Wish::Stop,
                Command::Abort => return Wish::Abort,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::link::{Next, link};
    use super::*;

    #[test]
    fn commands_are_valid_in_every_state_and_idempotent() {
        let (worker, listener) = link("a");
        let context = Context::new(&worker);
        use Command::*;
        let cases: &[(&[Command], Wish)] = &[
            (&[], Wish::Continue),
            (&[Resume, Resume], Wish::Continue),
            (&[Checkpoint, Checkpoint], Wish::Checkpoint),
            (&[Pause, Pause, Resume, Resume], Wish::Continue),
            (&[Pause, Resume, Checkpoint], Wish::Checkpoint),
            (&[Pause, Stop], Wish::Stop),
            (&[Pause, Abort], Wish::Abort),
            (&[Checkpoint, Pause, Stop], Wish::Checkpoint),
            (&[Stop, Stop], Wish::Stop),
        ];
        for (commands, wish) in cases {
            commands.iter().for_each(|c| listener.command(*c));
            assert_eq!(context.obey(), *wish, "{commands:?}");
            while context.link.command().is_some() {}
        }
        let mut paused = 0;
        while let Next::Frame(frame) = listener.next(Duration::ZERO) {
            paused += u32::from(frame.fact == Fact::Paused { step: 0 });
        }
        assert_eq!(paused, 4);
    }
}

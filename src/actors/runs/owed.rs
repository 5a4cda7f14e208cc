//! What workers were told before the store knew of it.
//!
//! What protects a GPU and what ends a run waits for no disk. It is noted as soon as the
//! disk takes it, once, and before anything that the worker says afterwards. If the daemon
//! is killed before that, the worker saves and ends with it, and nobody was promised more.

use super::heat::Wanted;
use crate::domain::RunId;
use crate::domain::run_state::Command;

/// A note that the store is owed.
#[derive(Clone)]
pub(super) enum Debt {
    /// A person ended the run.
    Word(RunId, Command),
    /// Its GPU was too hot.
    Heat(RunId, Wanted),
}

/// Debts, oldest first.
#[derive(Default)]
pub(super) struct Owed {
    debts: Vec<Debt>,
    /// Whether they are being noted, and whether that is asked for again since: never two at
    /// once, for each is to be noted once.
    settling: bool,
    again: bool,
}

impl Owed {
    /// Owes `debt`.
    pub fn note(&mut self, debt: Debt) {
        self.debts.push(debt);
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.debts.is_empty()
    }

    /// Whether there is something about `run`.
    pub fn concerns(&self, run: RunId) -> bool {
        self.debts.iter().any(|debt| {
            let (Debt::Word(id, _) | Debt::Heat(id, _)) = debt;
            *id == run
        })
    }

    /// Whether a person ended `run`.
    pub fn ended(&self, run: RunId) -> bool {
        let ends = |debt: &Debt| matches!(debt, Debt::Word(id, _) if *id == run);
        self.debts.iter().any(ends)
    }

    /// What is to be noted now; none while that is under way.
    pub fn settle(&mut self) -> Option<Vec<Debt>> {
        self.again = std::mem::replace(&mut self.settling, true);
        (!self.again).then(|| self.debts.clone())
    }

    /// The first `count` debts are noted, and none is being noted any more. Returns whether
    /// that was asked for again.
    pub fn settled(&mut self, count: usize) -> bool {
        self.debts.drain(..count);
        self.settling = false;
        std::mem::take(&mut self.again)
    }
}

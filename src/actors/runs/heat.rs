//! What the condition of its GPU means for a run.
//!
//! A hot GPU waits for no disk. A worker is told at once, by what was last known of its run;
//! the store notes it as soon as it can, before anything that the worker says then.

use super::Runs;
use super::command::{of_worker, tell};
use super::owed::Debt;
use crate::actors::store::{read, write};
use crate::domain::gpu::{Action, GpuHold, GpuName, Hold, Stance};
use crate::domain::run_state::{Command, RunState};
use crate::domain::{Code, Error, Result, RunId};
use crate::protocol;
use crate::protocol::DaemonFact;
use crate::store::{Failure, Run, Tx};
use crate::supervise::Context;
use crate::system::clock::now_millis;
use actix::prelude::*;

/// What is wanted of the runs on a GPU, and why.
#[derive(Clone)]
pub(super) struct Wanted {
    pub gpu: GpuName,
    pub hold: Hold,
    pub reason: String,
}

/// What the condition of its GPU means for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// It saves and waits.
    Pause,
    /// It goes on.
    Resume,
    /// It saves and ends.
    End,
    /// What was decided earlier no longer matters.
    Forget,
}

impl Decision {
    /// What it means for the state of the run, and what the worker is told.
    fn commands(self) -> Option<(Command, &'static [protocol::Command])> {
        use protocol::Command::{Checkpoint, Pause, Resume, Stop};
        match self {
            Decision::Pause => Some((Command::Pause, &[Checkpoint, Pause])),
            Decision::Resume => Some((Command::Resume, &[Resume])),
            Decision::End => Some((Command::Abort, &[Stop])),
            Decision::Forget => None,
        }
    }

    /// What is kept of it with the run.
    fn hold(self, wanted: &Wanted) -> Option<GpuHold> {
        let stance = match self {
            Decision::Pause => Stance::Paused,
            Decision::End => Stance::Ending,
            Decision::Resume | Decision::Forget => return None,
        };
        Some(GpuHold {
            gpu: wanted.gpu.clone(),
            stance,
            reason: wanted.reason.clone(),
        })
    }
}

/// The one rule for a run and a GPU. It says nothing where it was obeyed already, so it can
/// be asked with every look.
fn decide(run: &Run, wanted: &Wanted) -> Option<Decision> {
    use RunState::{Held, Paused, Pausing, Resuming, Running, Starting};
    let Wanted { gpu, hold, .. } = wanted;
    let computes = run.lease.as_ref().is_some_and(|lease| lease.gpu.is(gpu));
    let stance = run
        .hold
        .as_ref()
        .filter(|h| h.gpu.is(gpu))
        .map(|h| h.stance);
    match (hold, stance, run.state) {
        (Hold::Pause, Some(Stance::Overruled | Stance::Ending), _) => None,
        (Hold::Pause, _, Starting | Running | Resuming) if computes => Some(Decision::Pause),
        (Hold::Abort, _, Starting | Running | Resuming | Pausing | Paused) if computes => {
            Some(Decision::End)
        }
        // A person's pause has no stance, and stays.
        (Hold::Run, Some(Stance::Paused), Pausing | Paused | Held) => Some(Decision::Resume),
        (Hold::Run, Some(Stance::Paused | Stance::Overruled), _) => Some(Decision::Forget),
        _ => None,
    }
}

/// Workers that are to be told something.
type Told = Vec<(RunId, Vec<protocol::Command>)>;

impl Runs {
    /// Lets workers wait or end whose GPU is too hot, and owes the store the note.
    pub(super) fn guard(&mut self) {
        for wanted in self.wanted() {
            for (id, worker) in &mut self.workers {
                let protects = |d: &Decision| matches!(d, Decision::Pause | Decision::End);
                let Some(decision) = decide(&worker.run, &wanted).filter(protects) else {
                    continue;
                };
                if let Some((command, commands)) = decision.commands() {
                    commands.iter().for_each(|command| worker.tell(*command));
                    worker.foresee(command);
                }
                worker.run.hold = decision.hold(&wanted);
                self.owed.note(Debt::Heat(*id, wanted.clone()));
            }
        }
    }

    /// Does with the runs what their GPUs ask for, and notes what is owed to the store.
    pub(super) fn heed(&mut self, ctx: &mut Context<Self>) {
        let Some(debts) = self.owed.settle() else {
            return;
        };
        let (wanted, store, count) = (self.wanted(), self.store.clone(), debts.len());
        let heeded = async move {
            let runs = read(&store, |view| view.runs_with_gpu()).await?;
            let any = |w: &Wanted| runs.iter().any(|run| decide(run, w).is_some());
            match debts.is_empty() && !wanted.iter().any(any) {
                true => Ok((Told::new(), runs)),
                false => write(&store, move |tx| heed(tx, &debts, &wanted)).await,
            }
        };
        ctx.spawn(heeded.into_actor(self).map(move |heeded, this, ctx| {
            let settled = heeded.as_ref().map_or(0, |_| count);
            let again = this.owed.settled(settled);
            match heeded {
                Ok((told, runs)) => {
                    runs.into_iter().for_each(|run| this.learn(run));
                    let any = !told.is_empty();
                    for (run, commands) in told {
                        commands.iter().for_each(|command| this.tell(run, *command));
                    }
                    if any {
                        this.schedule(ctx);
                    }
                    this.keep(ctx);
                }
                Err(error) => {
                    tracing::error!("what runs were told and are to do is not stored: {error}");
                    this.try_again_soon();
                }
            }
            if again {
                this.heed(ctx);
            }
        }));
    }
}

/// Notes `debts`, decides anew, in one piece with what follows, and says what the workers
/// are told, and how the runs stand then.
fn heed(tx: &Tx<'_>, debts: &[Debt], wanted: &[Wanted]) -> Result<(Told, Vec<Run>)> {
    let mut told = Told::new();
    for debt in debts {
        match debt {
            Debt::Word(run, command) => {
                // Where it is not possible any more the run has ended otherwise.
                let _ = tell(tx, *run, *command)?;
            }
            Debt::Heat(run, wanted) => {
                let run = tx.run(*run)?;
                match decide(&run, wanted) {
                    Some(decision) => carry_out(tx, &run, wanted, decision)?,
                    // Somebody's word to go on was stored before.
                    None if !run.state.is_waiting() => {
                        let goes_on = run.state.has_worker().then(|| of_worker(&run));
                        let command = goes_on.map(|c| c.unwrap_or(protocol::Command::Resume));
                        told.extend(command.map(|command| (run.id, vec![command])));
                    }
                    None => {}
                }
            }
        }
    }
    for wanted in wanted {
        for run in tx.runs_with_gpu()? {
            if let Some(decision) = decide(&run, wanted) {
                carry_out(tx, &run, wanted, decision)?;
                let commands = decision.commands().map(|(_, commands)| commands.to_vec());
                told.extend(commands.map(|commands| (run.id, commands)));
            }
        }
    }
    Ok((told, tx.runs_with_gpu()?))
}

fn carry_out(tx: &Tx<'_>, run: &Run, wanted: &Wanted, decision: Decision) -> Result<()> {
    let Wanted { gpu, reason, .. } = wanted;
    let (action, effect) = match decision {
        Decision::Pause => (Action::Pause, "it saves and waits"),
        Decision::End => (Action::AbortWithCheckpoint, "it saves and ends"),
        Decision::Resume => (Action::Resume, ""),
        Decision::Forget => return tx.set_hold(run.id, None),
    };
    let message = match decision {
        Decision::Resume => format!("GPU {} has recovered", gpu.index),
        _ => format!("GPU {}: {reason}; {effect}", gpu.index),
    };
    if let Some((command, _)) = decision.commands() {
        let _ = tx.apply(run.id, command, now_millis())?;
    }
    tx.set_hold(run.id, decision.hold(wanted).as_ref())?;
    let fact = DaemonFact::GpuAction {
        message,
        action,
        gpu: gpu.clone(),
    };
    tx.append_fact(Some(run.id), &fact, now_millis())?;
    Ok(())
}

/// A person's word counts more than the monitor's. Returns whether it took something over
/// that the state of the run does not show.
pub(super) fn overrule(tx: &Tx<'_>, run: &Run, command: Command) -> Result<bool> {
    let Some(hold) = run
        .hold
        .as_ref()
        .filter(|hold| hold.stance == Stance::Paused)
    else {
        return Ok(false);
    };
    match command {
        // It stays paused when the GPU has recovered.
        Command::Pause => tx.set_hold(run.id, None).map(|()| true),
        Command::Resume => {
            let stance = Stance::Overruled;
            let hold = GpuHold {
                stance,
                ..hold.clone()
            };
            tx.set_hold(run.id, Some(&hold)).map(|()| true)
        }
        _ => Ok(false),
    }
}

/// Why an emergency ends a run, where one does.
pub(super) fn emergency(run: &Run) -> Option<Failure> {
    let hold = run
        .hold
        .as_ref()
        .filter(|hold| hold.stance == Stance::Ending)?;
    let about = format!("GPU {}", hold.gpu.index);
    let error = Error::new(Code::GpuEmergency, about, &hold.reason)
        .hint("when it has cooled down `retry` goes on from the checkpoint that was saved");
    Some(Failure {
        code: error.code.as_str().to_owned(),
        message: error.to_string(),
    })
}

#[cfg(test)]
mod tests;

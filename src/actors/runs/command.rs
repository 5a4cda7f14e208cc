//! What runs are told by people and policies.

use super::Runs;
use super::hear::own;
use super::heat::{emergency, overrule};
use super::owed::Debt;
use crate::actors::assets::refer;
use crate::actors::store::write;
use crate::config::RunConfig;
use crate::domain::run_state::{Answer, Command, RunState};
use crate::domain::{Code, Error, Result, RunId};
use crate::protocol;
use crate::protocol::api::Submit;
use crate::store::{NewRun, Run, Tx};
use crate::supervise::Context;
use crate::system::clock::now_millis;
use actix::prelude::*;

/// For whoever ended a run that is not noted to end.
const FOREWARNED: &str = "the run's worker was told and ends all the same; the daemon notes that \
                          once its disk can be written";

/// Queue a run. Answered with it when that is durable, and whether it is new.
#[derive(Message)]
#[rtype(result = "Result<(Run, bool)>")]
pub struct Submission(pub Submit);

impl Handler<Submission> for Runs {
    type Result = ResponseActFuture<Self, Result<(Run, bool)>>;

    fn handle(&mut self, Submission(submit): Submission, _: &mut Self::Context) -> Self::Result {
        let leaving = self.leaving.is_some();
        let store = self.store.clone();
        let state_dir = self.state_dir.clone();
        let queued = async move {
            if leaving {
                let message = "it saves all runs and ends, and takes no more";
                return Err(Error::new(Code::DaemonUnavailable, "the daemon", message)
                    .hint("submit again when it is back"));
            }
            let key = submit.key.clone();
            let (new, mut config) = resolve(submit)?;
            write(&store, move |tx| {
                let done = tx.submit(&new, key.as_deref(), now_millis())?;
                if done.new {
                    // In the same transaction: what a run uses is not deleted meanwhile.
                    refer::resolve(tx, &mut config)?;
                    if config.output.as_os_str().is_empty() {
                        // The number makes it unique, which names need not be.
                        let folder = format!("{}-{}", done.run, config.name);
                        config.output = state_dir.join("runs").join(folder);
                    }
                    tx.set_toml(done.run, &config.to_toml()?)?;
                    let message = format!("queued as run {}", done.run);
                    own(tx, done.run, "run_queued", &message)?;
                }
                Ok((tx.run(done.run)?, done.new))
            })
            .await
        };
        Box::pin(queued.into_actor(self).map(|queued, this, ctx| {
            let queued = queued?;
            this.schedule(ctx);
            Ok(queued)
        }))
    }
}

/// The run as it will be started: every default spelled out, every path absolute but that
/// of a folder which the daemon is to choose.
fn resolve(submit: Submit) -> Result<(NewRun, RunConfig)> {
    if !submit.base.is_absolute() {
        let message = "is not absolute; the daemon works in another folder than you do";
        return Err(Error::new(Code::Usage, "base", message));
    }
    if let Some(max_temperature) = submit
        .max_temperature
        .filter(|c| !(1.0..=150.0).contains(c))
    {
        let message = format!("{max_temperature} °C is not within 1 and 150");
        return Err(Error::new(Code::Usage, "max_temperature", message));
    }
    let mut config = RunConfig::parse(&submit.file, &submit.run_toml, &submit.base, &submit.set)?;
    if !config.output.as_os_str().is_empty() {
        config.output = submit.base.join(&config.output);
    }
    let new = NewRun {
        name: config.name.clone(),
        priority: submit.priority,
        toml: config.to_toml()?,
        max_temperature: submit.max_temperature,
        ..NewRun::default()
    };
    Ok((new, config))
}

/// Tell a run. Answered when it is durable that it was told. The worker of one that is to end
/// hears it at once, whatever becomes of the store.
#[derive(Message)]
#[rtype(result = "Result<Told>")]
pub struct Order {
    /// The run.
    pub run: RunId,
    /// What it is told.
    pub command: Command,
}

/// What came of an [`Order`].
pub struct Told {
    /// Whether anything changes.
    pub changed: bool,
    /// The run as it is now.
    pub run: Run,
}

impl Handler<Order> for Runs {
    type Result = ResponseActFuture<Self, Result<Told>>;

    fn handle(&mut self, order: Order, _: &mut Self::Context) -> Self::Result {
        let store = self.store.clone();
        let Order { run, command } = order;
        let (ending, forewarned) = (self.owed.ended(run), self.forewarn(run, command));
        let told = async move {
            if ending && !command.ends() {
                let message = "was told to end, which is not stored yet";
                return Err(Error::new(
                    Code::DaemonUnavailable,
                    format_args!("run {run}"),
                    message,
                )
                .hint("try again when the daemon's disk can be written"));
            }
            let told = write(&store, move |tx| {
                let before = tx.run(run)?;
                let answer = tell(tx, run, command)?;
                let overruled = overrule(tx, &before, command)?;
                Ok((answer, overruled, tx.run(run)?))
            });
            let (answer, overruled, run) = told.await?;
            match answer {
                Answer::Applied(_) => Ok(Told { changed: true, run }),
                Answer::AlreadySo => Ok(Told {
                    changed: overruled,
                    run,
                }),
                Answer::NotPossible(refusal) => Err(refusal.error(format_args!("run {}", run.id))),
            }
        };
        Box::pin(
            told.into_actor(self)
                .map(move |told, this, ctx| match told {
                    Ok(told) => {
                        this.was_told(&told, ctx);
                        Ok(told)
                    }
                    Err(error) if forewarned && is_of_the_store(&error) => {
                        this.owed.note(Debt::Word(run, command));
                        this.try_again_soon();
                        let hint = format!("{}; {FOREWARNED}", error.hint);
                        Err(error.hint(hint.trim_start_matches("; ")))
                    }
                    Err(error) => Err(error),
                }),
        )
    }
}

impl Runs {
    /// Tells the worker of a run that is to end, where that is possible as far as is known
    /// here. Returns whether it was told.
    fn forewarn(&mut self, run: RunId, command: Command) -> bool {
        let Some(worker) = self.workers.get_mut(&run).filter(|_| command.ends()) else {
            return false;
        };
        if let Answer::NotPossible(_) = worker.run.state.on(command) {
            return false;
        }
        worker.foresee(command);
        let command = of_worker(&worker.run);
        command.into_iter().for_each(|command| worker.tell(command));
        command.is_some()
    }

    fn was_told(&mut self, told: &Told, ctx: &mut Context<Self>) {
        let run = told.run.id;
        if let Some(command) = of_worker(&told.run) {
            self.tell(run, command);
        }
        self.learn(told.run.clone());
        if told.run.state == RunState::Queued {
            // Somebody wants it now.
            self.not_before.remove(&run);
            self.lost.remove(&run);
        }
        self.advance_sweeps(ctx);
        self.schedule(ctx);
    }
}

/// Whether the store is the reason, and not the run.
fn is_of_the_store(error: &Error) -> bool {
    !matches!(error.code, Code::NotPossible | Code::NotFound)
}

/// Tells a run. One that ends by that without a worker ends here, and says so.
pub(in crate::actors) fn tell(tx: &Tx<'_>, run: RunId, command: Command) -> Result<Answer> {
    let before = tx.run(run)?;
    let answer = tx.apply(run, command, now_millis())?;
    if let Answer::Applied(state) = answer
        && state.has_ended()
        && !before.state.has_ended()
    {
        let message = match before.life {
            0 => "before it had begun",
            _ => "while it had no worker",
        };
        own(tx, run, state.as_str(), message)?;
    }
    Ok(answer)
}

/// What a worker is told for a command that it has not answered.
pub(super) fn of_worker(run: &Run) -> Option<protocol::Command> {
    Some(match run.state.unanswered()? {
        // An emergency leaves a checkpoint.
        Command::Abort if emergency(run).is_some() => protocol::Command::Stop,
        Command::Pause => protocol::Command::Pause,
        Command::Resume => protocol::Command::Resume,
        Command::Stop | Command::EndEarly => protocol::Command::Stop,
        Command::Abort => protocol::Command::Abort,
        Command::Retry => return None,
    })
}

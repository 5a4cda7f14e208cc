//! A sweep at work: its session looks at the runs in the store, and what it wants done is
//! done in the same transaction.
//!
//! So every fact of a sweep is told once, in its order, and no run is begun twice or
//! forgotten, whatever dies in between.

mod say;

use crate::actors::assets::refer;
use crate::actors::runs::tell as tell_run;
use crate::config::RunConfig;
use crate::config::sweep::SweepConfig;
use crate::domain::gpu::Stance;
use crate::domain::measure::Measure;
use crate::domain::run_state::{self, RunState};
use crate::domain::sweep::{Act, Answer, Command, Phase, Plan, Seen, Session};
use crate::domain::{Code, Error, Result, RunId, SweepId};
use crate::protocol::Ending;
use crate::protocol::sweep::{BestRun, SweepFact};
use crate::store::{NewRun, NewSweep, Run, Sweep as Stored, Tx, View};
use crate::system::clock::now_millis;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A sweep with all that is known of it.
pub struct Sweep {
    /// Its number.
    pub id: SweepId,
    /// What it is made of.
    pub config: SweepConfig,
    /// Its runs by their indices.
    pub runs: Vec<Run>,
    /// Runs that have begun.
    pub begun: u64,
    /// When it was submitted.
    pub created_at: i64,
    /// When anything last changed.
    pub updated_at: i64,
    session: Session,
}

/// Runs that were told something, so that their workers must hear it.
pub type Told = BTreeSet<RunId>;

/// Begins a sweep; a key that is known names the sweep that it made.
///
/// # Errors
/// Those of the store.
pub fn begin(
    tx: &Tx<'_>,
    mut config: SweepConfig,
    key: Option<&str>,
    state_dir: &Path,
) -> Result<(SweepId, bool)> {
    let now = now_millis();
    let session = Session::new(&config.plan);
    let new = NewSweep {
        name: config.name.clone(),
        spec: json(&config)?,
        session: json(&session)?,
    };
    let (id, is_new) = tx.add_sweep(&new, key, now)?;
    if !is_new {
        return Ok((id, false));
    }
    if config.output.as_os_str().is_empty() {
        // The number makes it unique, which names need not be.
        let folder = format!("{id}-{}", config.name);
        config.output = state_dir.join("sweeps").join(folder);
        tx.set_sweep_spec(id, &config)?;
    }
    // Models and datasets are looked up now, so that a wrong name is told before any run.
    for index in 1..=config.plan.runs {
        refer::resolve(tx, &mut config.run(index)?)?;
    }
    let (metric, mode) = config.plan.metric();
    let began = SweepFact::MultiRunStarted {
        name: config.name,
        runs: config.plan.runs,
        parallel: config.plan.parallel,
        metric,
        mode,
    };
    say::tell(tx, id, &began)?;
    advance(tx, id)?;
    Ok((id, true))
}

/// Lets a sweep do whatever it can do now.
///
/// # Errors
/// Those of the store.
pub fn advance(tx: &Tx<'_>, id: SweepId) -> Result<Told> {
    let mut sweep = Sweep::load(tx, id)?;
    let before = sweep.session.clone();
    let mut told = Told::new();
    sweep.advance(tx, &mut told)?;
    sweep.save_if_new(tx, &before)?;
    Ok(told)
}

/// Lets every sweep do whatever it can do now. One that cannot go on ends, so that it holds up
/// no other: as failed where that is a defect of the daemon.
///
/// # Errors
/// Those of the disk.
pub fn advance_all(tx: &Tx<'_>) -> Result<Told> {
    let mut told = Told::new();
    for id in tx.live_sweeps()? {
        let error = match tx.whole(|| advance(tx, id)) {
            Ok(more) => {
                told.extend(more);
                continue;
            }
            Err(error) if error.code.is_of_the_disk() => return Err(error),
            Err(error) => error,
        };
        tracing::error!(sweep = %id, "cannot go on: {error}");
        let why = error.to_string();
        let ended = tx.whole(|| match error.code {
            Code::Internal => fail(tx, id, &why),
            _ => order(tx, id, Command::Abort, &why).map(|(_, told)| told),
        });
        match ended {
            Ok(more) => told.extend(more),
            Err(error) => tracing::error!(sweep = %id, "cannot be ended: {error}"),
        }
    }
    Ok(told)
}

/// Tells a sweep, and says whether that changes anything.
///
/// # Errors
/// `not-found`, `not-possible`; those of the store.
pub fn order(tx: &Tx<'_>, id: SweepId, command: Command, reason: &str) -> Result<(bool, Told)> {
    let mut sweep = Sweep::load(tx, id)?;
    let before = sweep.session.clone();
    let mut told = Told::new();
    let (plan, seen) = (sweep.config.plan.clone(), sweep.seen());
    match sweep.session.told(command, reason, &plan, &seen) {
        Answer::Applied(acts) => {
            sweep.act(tx, acts, &mut told)?;
            sweep.advance(tx, &mut told)?;
        }
        Answer::AlreadySo => return Ok((false, told)),
        Answer::NotPossible(phase) => return Err(phase.refusal(format_args!("sweep {id}"))),
    }
    sweep.save_if_new(tx, &before)?;
    Ok((true, told))
}

/// Ends a sweep as failed, whatever its runs do.
fn fail(tx: &Tx<'_>, id: SweepId, why: &str) -> Result<Told> {
    let mut sweep = Sweep::load(tx, id)?;
    let (before, seen) = (sweep.session.clone(), sweep.seen());
    let mut told = Told::new();
    let acts = sweep.session.fail(why, &seen);
    sweep.act(tx, acts, &mut told)?;
    sweep.save_if_new(tx, &before)?;
    Ok(told)
}

impl Sweep {
    /// A sweep as it is.
    ///
    /// # Errors
    /// `not-found`; `internal` where it cannot be understood.
    pub fn load(view: &View<'_>, id: SweepId) -> Result<Self> {
        Ok(Self {
            runs: view.sweep_runs(id)?,
            ..Self::without_runs(view.sweep(id)?)?
        })
    }

    /// What the store knows of a sweep, without its runs: for lists.
    ///
    /// # Errors
    /// `internal` where it cannot be understood.
    pub fn without_runs(stored: Stored) -> Result<Self> {
        let id = stored.id;
        let strange = |e: serde_json::Error| {
            let message = format!("cannot be understood: {e}");
            Error::new(Code::Internal, format_args!("sweep {id}"), message)
        };
        Ok(Self {
            id,
            config: serde_json::from_value(stored.spec).map_err(strange)?,
            session: serde_json::from_value(stored.session).map_err(strange)?,
            runs: Vec::new(),
            begun: stored.next_index - 1,
            created_at: stored.created_at,
            updated_at: stored.updated_at,
        })
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.session.phase()
    }

    /// Why, where it was told to end, or failed.
    pub fn reason(&self) -> Option<&str> {
        self.session.reason()
    }

    /// What decides between its runs.
    pub fn plan(&self) -> &Plan {
        &self.config.plan
    }

    /// Keys that are a run's own, with their values in TOML.
    pub fn overrides(&self, index: u64) -> BTreeMap<String, String> {
        let own = usize::try_from(index - 1).ok();
        let own = own.and_then(|at| self.config.overrides.get(at));
        own.cloned().unwrap_or_default()
    }

    /// Whether it has nothing more to do with a run.
    pub fn is_complete(&self, index: u64) -> bool {
        self.session.has_reported(index)
    }

    /// The best run with success so far.
    pub fn best(&self) -> Option<BestRun> {
        let (metric, mode) = self.plan().metric();
        let mut best: Option<BestRun> = None;
        for (run_idx, run) in (1..).zip(&self.runs) {
            let value = measure(run, metric).filter(|_| run.state.has_succeeded());
            let better = |value: f64| match &best {
                None => true,
                Some(best) => mode.gain(value, best.value) > 0.0,
            };
            if let Some(value) = value.filter(|value| better(*value)) {
                best = Some(BestRun {
                    run_idx,
                    metric,
                    value,
                });
            }
        }
        best
    }

    fn seen(&self) -> Vec<Seen> {
        let (metric, _) = self.plan().metric();
        let see = |run: &Run| Seen {
            state: run.state,
            step: run.progress.step,
            value: measure(run, metric),
            asked_to_wait: run.state.is_waiting() && !is_held(run),
        };
        self.runs.iter().map(see).collect()
    }

    /// Looks at its runs again until there is nothing to do. A session that never came to an
    /// end would keep the store's thread for good.
    fn advance(&mut self, tx: &Tx<'_>, told: &mut Told) -> Result<()> {
        let most = self.config.plan.most_rounds();
        for _ in 0..=most {
            let (plan, seen) = (self.config.plan.clone(), self.seen());
            let acts = self.session.advance(&plan, &seen);
            if acts.is_empty() {
                return Ok(());
            }
            self.act(tx, acts, told)?;
        }
        let message = format!("wants still more after {most} rounds, which is all it can need");
        let error = Error::new(Code::Internal, format_args!("sweep {}", self.id), message);
        Err(error.hint("this is a defect of backpropd: please report it"))
    }

    fn save_if_new(&self, tx: &Tx<'_>, before: &Session) -> Result<()> {
        if self.session == *before {
            return Ok(());
        }
        tx.set_sweep(self.id, self.phase(), &self.session, now_millis())
    }

    fn act(&mut self, tx: &Tx<'_>, acts: Vec<Act>, told: &mut Told) -> Result<()> {
        for act in acts {
            match act {
                Act::Submit(index, stop_at) => self.submit(tx, index, stop_at)?,
                Act::Tell(index, command) => self.tell(tx, index, command, told)?,
                Act::Extend(index, stop_at) => {
                    let run = self.run_of(index)?.id;
                    let toml = tx.run_config(run)?.toml;
                    let mut config = RunConfig::parse("run.toml", &toml, Path::new("/"), &[])?;
                    config.training.stop_at = stop_at;
                    tx.set_toml(run, &config.to_toml()?)?;
                    self.tell(tx, index, run_state::Command::Resume, told)?;
                }
                Act::Say(news) => {
                    let fact = self.fact(&news)?;
                    say::tell(tx, self.id, &fact)?;
                }
            }
        }
        self.runs = tx.sweep_runs(self.id)?;
        Ok(())
    }

    /// A run that the command does not fit has moved on, and is looked at again.
    fn tell(
        &self,
        tx: &Tx<'_>,
        index: u64,
        command: run_state::Command,
        told: &mut Told,
    ) -> Result<()> {
        let run = self.run_of(index)?;
        match command {
            // When the GPU has cooled down it goes on waiting, for the sweep.
            run_state::Command::Pause if is_held(run) => tx.set_hold(run.id, None)?,
            // The monitor lets it go on.
            run_state::Command::Resume if is_held(run) => return Ok(()),
            _ => {}
        }
        if let run_state::Answer::Applied(_) = tell_run(tx, run.id, command)? {
            told.insert(run.id);
        }
        Ok(())
    }

    fn submit(&self, tx: &Tx<'_>, index: u64, stop_at: Option<u64>) -> Result<()> {
        let mut run = self.config.run(index)?;
        run.output = self.config.folder(index);
        if stop_at.is_some() {
            run.training.stop_at = stop_at;
        }
        if self.config.carry_over {
            let before = self.runs.iter().rposition(|run| run.state.has_succeeded());
            let from = before.map(|at| self.config.folder(at as u64 + 1));
            run.training.init_from = from.or(run.training.init_from);
        }
        refer::resolve(tx, &mut run)?;
        let overrides = self.overrides(index);
        let new = NewRun {
            name: run.name.clone(),
            priority: self.config.priority,
            toml: run.to_toml()?,
            overrides: overrides.clone(),
            max_temperature: self.config.max_temperature,
        };
        let now = now_millis();
        let (run_id, taken) = tx.submit_next(self.id, &new, now)?;
        if taken != index {
            let message = format!("run {taken} came where run {index} was to come");
            let about = format!("sweep {}", self.id);
            return Err(Error::new(Code::Internal, about, message));
        }
        let began = SweepFact::RunStart {
            run_idx: index,
            run_id,
            name: run.name,
            overrides,
        };
        say::tell(tx, self.id, &began)?;
        let message = format!("queued as run {run_id}, run {index} of sweep {}", self.id);
        let fields = serde_json::json!({ "message": message });
        tx.append(Some(run_id), "run_queued", &fields, now)
            .map(|_| ())
    }

    fn run_of(&self, index: u64) -> Result<&Run> {
        let run = usize::try_from(index - 1)
            .ok()
            .and_then(|at| self.runs.get(at));
        run.ok_or_else(|| {
            let about = format!("sweep {}", self.id);
            Error::new(Code::Internal, about, format_args!("has no run {index}"))
        })
    }
}

/// Whether the GPU monitor lets a run wait.
fn is_held(run: &Run) -> bool {
    let stance = run.hold.as_ref().map(|hold| hold.stance);
    stance == Some(Stance::Paused)
}

/// `measure` after the last step of a run, where it is known.
fn measure(run: &Run, measure: Measure) -> Option<f64> {
    ending(run)?.measure(measure)
}

/// What a run's worker said at its end, where the run stands there still.
fn ending(run: &Run) -> Option<Ending> {
    let at_its_end = run.state.has_succeeded() || run.state == RunState::Stopped;
    let said = run.ending.as_ref().filter(|_| at_its_end)?;
    let ending = Ending::deserialize(said).ok()?;
    (ending.step == run.progress.step).then_some(ending)
}

/// What was measured after the last step of a run: all measures that are known.
pub fn measures(run: &Run) -> BTreeMap<String, f64> {
    let Some(ending) = ending(run) else {
        return BTreeMap::new();
    };
    let known = |m: &Measure| Some((m.as_str().to_owned(), ending.measure(*m)?));
    Measure::ALL.iter().filter_map(known).collect()
}

fn json(value: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|e| Error::new(Code::Internal, "sweep", e))
}

#[cfg(test)]
mod tests;

//! GPUs: which run is given which, and what their condition means for the runs on them.

use super::Runs;
use crate::actors::store::{read, write};
use crate::domain::gpu::{
    Action, Driver, GpuHold, GpuName, GpuStatus, Hold, Lease, Stance, free_places, leasable,
};
use crate::domain::run_state::{Command, RunState};
use crate::domain::{Code, DeviceName, Error, Result, RunId};
use crate::protocol;
use crate::protocol::DaemonFact;
use crate::protocol::gpus::{GpuView, GpusView, Watching};
use crate::store::{Failure, Run, Tx};
use crate::supervise::Context;
use crate::system::clock::now_millis;
use actix::prelude::*;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long runs wait for the first word of the GPUs. The monitor gives the driver less.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// How the GPUs stand, told with every look. Answered with the temperatures by index at
/// which runs on them ask to pause, where that is less than what the host allows.
#[derive(Message, Clone)]
#[rtype(result = "BTreeMap<u32, f64>")]
pub struct GpuNews {
    /// What is known of them.
    pub view: GpusView,
    /// Those that runs are given, as `CUDA_VISIBLE_DEVICES` names them; empty for those that
    /// the daemon was left.
    pub devices: String,
    /// Runs that compute on one GPU at once.
    pub each: usize,
}

/// What the supervisor of the runs knows of the GPUs.
pub(super) struct Known {
    news: Option<GpuNews>,
    since: Instant,
    /// Whether a look at the runs is under way, and whether there is news since.
    heeding: bool,
    again: bool,
}

/// Where a further run can compute.
pub(super) enum Places {
    /// No run is given a GPU here.
    Unneeded,
    /// On one of these, in this order; none for now where there is none.
    These(Vec<Lease>),
}

impl Default for Known {
    fn default() -> Self {
        Self {
            news: None,
            since: Instant::now(),
            heeding: false,
            again: false,
        }
    }
}

impl Known {
    /// Places beside those that are `taken`.
    pub fn places(&self, device: DeviceName, taken: &[Lease]) -> Places {
        if device == DeviceName::Cpu {
            return Places::Unneeded;
        }
        let Some(GpuNews {
            view,
            devices,
            each,
        }) = &self.news
        else {
            return match self.since.elapsed() < FIRST_WORD {
                true => Places::These(Vec::new()),
                false => Places::Unneeded,
            };
        };
        match (view.watching, &view.driver) {
            (Watching::Off, _) => return Places::Unneeded,
            // Whether there are GPUs is not known; who starts in a driver that hangs, hangs.
            (_, Driver::Hung { .. } | Driver::Starting) if view.gpus.is_empty() => {
                return Places::These(Vec::new());
            }
            _ => {}
        }
        let own = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        let allowed = Some(devices.as_str())
            .filter(|d| !d.is_empty())
            .or(own.as_deref());
        let gpus: Vec<GpuStatus> = view.gpus.iter().map(|gpu| gpu.status.clone()).collect();
        let mut fit = leasable(&gpus, allowed);
        if fit.is_empty() {
            return Places::Unneeded;
        }
        fit.retain(|lease| {
            let gpu = view.gpus.iter().find(|gpu| is(gpu, &lease.gpu));
            gpu.is_some_and(may_begin)
        });
        Places::These(free_places(&fit, taken, *each))
    }
}

fn is(gpu: &GpuView, name: &GpuName) -> bool {
    GpuName::from(&gpu.status.reading).is(name)
}

/// Whether a run may begin on it.
fn may_begin(gpu: &GpuView) -> bool {
    let status = &gpu.status;
    status.available && !status.stale && status.hold.may_begin() && gpu.drained.is_none()
}

impl Handler<GpuNews> for Runs {
    type Result = MessageResult<GpuNews>;

    fn handle(&mut self, news: GpuNews, ctx: &mut Self::Context) -> Self::Result {
        let mut caps = BTreeMap::new();
        for (lease, max_temperature) in self
            .workers
            .values()
            .filter_map(|w| w.lease.as_ref().zip(w.max_temperature))
        {
            let cap = caps.entry(lease.gpu.index).or_insert(max_temperature);
            *cap = max_temperature.min(*cap);
        }
        self.gpus.news = Some(news);
        self.heed(ctx);
        self.schedule(ctx);
        MessageResult(caps)
    }
}

/// What is wanted of the runs on a GPU, and why.
#[derive(Clone)]
struct Wanted {
    gpu: GpuName,
    hold: Hold,
    reason: String,
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

/// The one rule for a run and a GPU. It says nothing where it was obeyed already, so it can
/// be asked with every look.
fn decide(run: &Run, gpu: &GpuName, hold: Hold) -> Option<Decision> {
    use RunState::{Held, Paused, Pausing, Resuming, Running, Starting};
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

impl Runs {
    /// Does with the runs what their GPUs ask for.
    fn heed(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.gpus.heeding, true) {
            self.gpus.again = true;
            return;
        }
        let wanted = self.wanted();
        let (store, asked) = (self.store.clone(), wanted.clone());
        let heeded = async move {
            let runs = read(&store, |view| view.runs_with_gpu()).await?;
            let any = |w: &Wanted| runs.iter().any(|run| decide(run, &w.gpu, w.hold).is_some());
            match asked.iter().any(any) {
                false => Ok(Vec::new()),
                true => write(&store, move |tx| heed(tx, &asked)).await,
            }
        };
        ctx.spawn(heeded.into_actor(self).map(move |heeded, this, ctx| {
            this.gpus.heeding = false;
            match heeded {
                Ok(told) => {
                    let any = !told.is_empty();
                    for (run, commands) in told {
                        commands.iter().for_each(|command| this.tell(run, *command));
                    }
                    if any {
                        this.schedule(ctx);
                    }
                }
                Err(error) => {
                    tracing::error!("what the GPUs ask for is not stored: {error}");
                    this.protect(&wanted);
                }
            }
            if std::mem::take(&mut this.gpus.again) {
                this.heed(ctx);
            }
        }));
    }

    fn wanted(&self) -> Vec<Wanted> {
        let news = self.gpus.news.as_ref().map(|news| &news.view);
        let watched = news.filter(|view| view.watching == Watching::On);
        let gpus = watched.map_or(&[][..], |view| &view.gpus);
        gpus.iter()
            .map(|gpu| Wanted {
                gpu: GpuName::from(&gpu.status.reading),
                hold: gpu.status.hold,
                reason: gpu.status.reasons.join("; "),
            })
            .collect()
    }

    /// A GPU does not wait for a disk: without the store its runs are told all the same, and
    /// the next look notes it.
    fn protect(&self, wanted: &[Wanted]) {
        for (run, worker) in &self.workers {
            let Some(lease) = &worker.lease else { continue };
            let hold = wanted.iter().find(|w| w.gpu.is(&lease.gpu)).map(|w| w.hold);
            match hold {
                Some(Hold::Pause) => self.tell(*run, protocol::Command::Pause),
                Some(Hold::Abort) => self.tell(*run, protocol::Command::Stop),
                _ => {}
            }
        }
    }

    /// The GPUs that runs compute on, also those of an earlier daemon.
    pub(super) fn taken(&self) -> Vec<Lease> {
        let workers = self.workers.values().filter_map(|w| w.lease.clone());
        let leftover = self.leftover.iter().filter_map(|l| l.lease.clone());
        workers.chain(leftover).collect()
    }
}

/// Decides anew, in one piece with what follows, and says what the workers are told.
fn heed(tx: &Tx<'_>, wanted: &[Wanted]) -> Result<Vec<(RunId, Vec<protocol::Command>)>> {
    let mut told = Vec::new();
    for wanted in wanted {
        for run in tx.runs_with_gpu()? {
            if let Some(decision) = decide(&run, &wanted.gpu, wanted.hold) {
                told.push((run.id, carry_out(tx, &run, wanted, decision)?));
            }
        }
    }
    Ok(told)
}

fn carry_out(
    tx: &Tx<'_>,
    run: &Run,
    wanted: &Wanted,
    decision: Decision,
) -> Result<Vec<protocol::Command>> {
    let Wanted { gpu, reason, .. } = wanted;
    let (action, command, stance, commands) = match decision {
        Decision::Pause => (
            Action::Pause,
            Command::Pause,
            Some(Stance::Paused),
            vec![protocol::Command::Checkpoint, protocol::Command::Pause],
        ),
        Decision::Resume => (
            Action::Resume,
            Command::Resume,
            None,
            vec![protocol::Command::Resume],
        ),
        Decision::End => (
            Action::AbortWithCheckpoint,
            Command::Abort,
            Some(Stance::Ending),
            vec![protocol::Command::Stop],
        ),
        Decision::Forget => {
            tx.set_hold(run.id, None)?;
            return Ok(Vec::new());
        }
    };
    let message = match decision {
        Decision::Pause => format!("GPU {}: {reason}; it saves and waits", gpu.index),
        Decision::End => format!("GPU {}: {reason}; it saves and ends", gpu.index),
        Decision::Resume | Decision::Forget => format!("GPU {} has recovered", gpu.index),
    };
    let hold = stance.map(|stance| GpuHold {
        gpu: gpu.clone(),
        stance,
        reason: reason.clone(),
    });
    let _ = tx.apply(run.id, command, now_millis())?;
    tx.set_hold(run.id, hold.as_ref())?;
    let fact = DaemonFact::GpuAction {
        message,
        action,
        gpu: gpu.clone(),
    };
    tx.append_fact(Some(run.id), &fact, now_millis())?;
    Ok(commands)
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

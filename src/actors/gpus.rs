//! The GPU monitor as a part of the daemon: what it notices becomes events, and what it
//! wants of the runs goes to their supervisor.
//!
//! What is wanted is told as it stands with every look, not once when it changes: a message
//! that is lost, an actor that is restarted and a daemon that comes back all end with the
//! next look.

use super::runs::{GpuNews, Runs};
use super::store::{Live, StoreRef, write};
use crate::domain::gpu::{Driver, GpuFact, GpuSettings, GpuStatus, Notice, XidAdvice};
use crate::domain::{Code, Error, Result};
use crate::gpu::{Monitor, MonitorHandle};
use crate::protocol::api::Event;
use crate::protocol::gpus::{GpuView, GpusView, Watching};
use crate::supervise::{ChildRef, Context};
use crate::system::clock::now_millis;
use actix::prelude::*;
use futures_util::{FutureExt, StreamExt};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_stream::wrappers::ReceiverStream;

/// Notices on their way from the monitor's thread. It keeps what finds no room, in order,
/// and of statuses the newest.
const NOTICES: usize = 64;
/// How long an event may wait for the disk before it is given up.
const PATIENCE: Duration = Duration::from_secs(2);

/// The actor.
pub struct Gpus {
    settings: GpuSettings,
    store: StoreRef,
    live: Live,
    runs: ChildRef<Runs>,
    monitor: Option<MonitorHandle>,
    /// The latest statuses of which all was told, by index, and those of which the rest is
    /// on its way.
    told: BTreeMap<u32, GpuStatus>,
    half_told: BTreeMap<u32, GpuStatus>,
    /// Why no further run is given a GPU, by index.
    drained: BTreeMap<u32, String>,
    /// °C from which on the runs on a GPU pause, by index, where a run asked for less.
    caps: BTreeMap<u32, f64>,
    /// Whether the supervisor of the runs is being told, and whether there is news since.
    telling: bool,
    again: bool,
}

impl Gpus {
    /// A monitor with `settings`, which were validated.
    pub fn new(settings: GpuSettings, store: StoreRef, live: Live, runs: ChildRef<Runs>) -> Self {
        Self {
            settings,
            store,
            live,
            runs,
            monitor: None,
            told: BTreeMap::new(),
            half_told: BTreeMap::new(),
            drained: BTreeMap::new(),
            caps: BTreeMap::new(),
            telling: false,
            again: false,
        }
    }

    fn watch(&mut self, ctx: &mut Context<Self>) -> Result<()> {
        let (to, notices) = mpsc::channel(NOTICES);
        let sink = move |notice: Notice| match to.try_send(notice) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(notice) | TrySendError::Closed(notice)) => Err(Box::new(notice)),
        };
        self.monitor = Some(Monitor::spawn(self.settings.clone(), sink)?);
        ctx.add_stream(ReceiverStream::new(notices).ready_chunks(NOTICES));
        Ok(())
    }

    /// What is known now.
    fn view(&self) -> GpusView {
        let Some(monitor) = &self.monitor else {
            return GpusView {
                watching: Watching::Off,
                driver: Driver::Starting,
                gpus: Vec::new(),
                given_up_threads: 0,
                late_answers: 0,
                coalesced: 0,
                lost: 0,
            };
        };
        let snapshot = monitor.snapshot();
        let view = |status: GpuStatus| GpuView {
            runs: Vec::new(),
            drained: self.drained.get(&status.reading.index).cloned(),
            max_temperature: self.caps.get(&status.reading.index).copied(),
            status,
        };
        GpusView {
            watching: match snapshot.paused {
                true => Watching::Paused,
                false => Watching::On,
            },
            driver: snapshot.driver,
            gpus: snapshot.gpus.into_iter().map(view).collect(),
            given_up_threads: snapshot.given_up_threads,
            late_answers: snapshot.late_answers,
            coalesced: snapshot.coalesced,
            lost: snapshot.lost,
        }
    }

    /// Tells the supervisor of the runs how things stand, and takes from it what they ask
    /// for. One word at a time: the next one says what is true then.
    fn tell_runs(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.telling, true) {
            self.again = true;
            return;
        }
        // Not what is known since: the word to a run is not to come before its reason.
        let mut view = self.view();
        view.gpus.retain_mut(|gpu| {
            let told = self.told.get(&gpu.status.reading.index);
            told.is_some_and(|told| {
                gpu.status = told.clone();
                true
            })
        });
        let news = GpuNews {
            view,
            devices: self.settings.devices.clone(),
            each: self.settings.runs_per_gpu,
        };
        let runs = self.runs.clone();
        let told = async move { runs.send(news).await };
        ctx.spawn(told.into_actor(self).map(|caps, this, ctx| {
            this.telling = false;
            match caps {
                Ok(caps) => this.cap(caps),
                // It is told anew with the next look.
                Err(error) => tracing::warn!("the runs do not hear of the GPUs: {error}"),
            }
            if std::mem::take(&mut this.again) {
                this.tell_runs(ctx);
            }
        }));
    }

    fn cap(&mut self, caps: BTreeMap<u32, f64>) {
        let Some(monitor) = &self.monitor else {
            return;
        };
        for index in self.caps.keys().chain(caps.keys()) {
            monitor.set_max_temperature(*index, caps.get(index).copied());
        }
        self.caps = caps;
    }

    /// What the daemon itself has to know of a notice.
    fn learn(&mut self, notice: &Notice) {
        match &notice.fact {
            GpuFact::GpuDriver { driver } => match driver {
                Driver::Starting => {}
                Driver::None { reason } => tracing::warn!(
                    "gpus: none ({reason}); no thermal protection is active, runs compute on the CPU"
                ),
                Driver::Hung { reason } => tracing::error!("gpus: {reason}"),
                Driver::Ready { version, gpus } => {
                    let version = version.as_deref().unwrap_or("of unknown version");
                    tracing::info!("gpus: {gpus}, watched through the driver {version}");
                    // It was loaded anew, and whatever was wrong was reset with it.
                    self.drained.clear();
                }
            },
            GpuFact::GpuXid { gpu, xid } if xid.advice == XidAdvice::Drain => {
                let number = xid.number.map_or_else(String::new, |n| format!(" {n}"));
                let why = format!("XID{number}: {}", xid.meaning);
                tracing::error!(gpu = gpu.index, "{why}; no further run is given this GPU");
                self.drained.insert(gpu.index, why);
            }
            GpuFact::GpuXid { gpu, xid } => {
                tracing::warn!(gpu = gpu.index, number = xid.number, "{}", xid.meaning);
            }
            fact => {
                let serious = !fact.is_passing() && !matches!(fact, GpuFact::GpuWarning { .. });
                if let Some(status) = fact.status().filter(|_| serious) {
                    let (gpu, why) = (status.reading.index, status.reasons.join("; "));
                    tracing::warn!(gpu, "{} {why}", fact.kind());
                }
            }
        }
    }

    /// Tells what passes, and stores the rest, which is told by that. When this returns the
    /// store was asked, so that what is asked of it later stands behind; what it returns ends
    /// with the answer.
    fn publish(&self, notices: Vec<Notice>) -> impl Future<Output = ()> + 'static {
        let now = now_millis();
        let (passing, lasting): (Vec<_>, Vec<_>) =
            notices.into_iter().partition(|n| n.fact.is_passing());
        for notice in passing {
            let (kind, fields) = parts(&notice);
            let _ = self.live.send(Arc::new(Event::passing(now, kind, fields)));
        }
        let store = self.store.clone();
        let mut published = Box::pin(async move {
            if lasting.is_empty() {
                return;
            }
            let stored = write(&store, move |tx| {
                lasting.iter().try_for_each(|notice| {
                    let (kind, fields) = parts(notice);
                    tx.append(None, kind, &fields, now).map(|_| ())
                })
            });
            match tokio::time::timeout(PATIENCE, stored).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!("what happens to GPUs is not stored: {error}"),
                Err(_) => tracing::error!("what happens to GPUs waits for the disk"),
            }
        });
        let done = (&mut published).now_or_never().is_some();
        async move {
            if !done {
                published.await;
            }
        }
    }
}

/// The kind of a notice, and the rest of it.
fn parts(notice: &Notice) -> (&'static str, Value) {
    // A notice has no map with keys that are no strings: it always becomes an object.
    let mut fields = serde_json::to_value(notice).unwrap_or_default();
    if let Some(fields) = fields.as_object_mut() {
        fields.remove("kind");
    }
    (notice.fact.kind(), fields)
}

impl Actor for Gpus {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if !self.settings.monitor {
            tracing::warn!("gpus: not watched (gpus.monitor); no thermal protection is active");
            return self.tell_runs(ctx);
        }
        if let Err(error) = self.watch(ctx) {
            ctx.fail(error);
        }
    }
}

impl StreamHandler<Vec<Notice>> for Gpus {
    fn handle(&mut self, notices: Vec<Notice>, ctx: &mut Self::Context) {
        for notice in &notices {
            self.learn(notice);
        }
        // A host that never had a driver has no news of it with every start.
        let lasting = |notice: &Notice| {
            !matches!(
                &notice.fact,
                GpuFact::GpuDriver {
                    driver: Driver::None { .. }
                }
            )
        };
        let seen: Vec<(Option<GpuStatus>, bool)> = notices
            .iter()
            .map(|notice| (notice.fact.status().cloned(), notice.more))
            .collect();
        // Told first and acted upon then, so that the reason stands before the effect. The
        // effect does not wait for the disk.
        let published = self.publish(notices.into_iter().filter(lasting).collect());
        ctx.spawn(published.into_actor(self));
        for (status, more) in seen {
            self.half_told
                .extend(status.map(|status| (status.reading.index, status)));
            if !more {
                self.told.append(&mut self.half_told);
            }
        }
        self.tell_runs(ctx);
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.fail("the monitor's thread has ended");
    }
}

/// What is known of the GPUs; without the runs that were given them.
#[derive(Message)]
#[rtype(result = "GpusView")]
pub struct GetGpus;

impl Handler<GetGpus> for Gpus {
    type Result = MessageResult<GetGpus>;

    fn handle(&mut self, _: GetGpus, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.view())
    }
}

/// The statuses of a GPU that are kept, oldest first.
#[derive(Message)]
#[rtype(result = "Result<Vec<GpuStatus>>")]
pub struct GetGpuHistory(pub u32);

impl Handler<GetGpuHistory> for Gpus {
    type Result = Result<Vec<GpuStatus>>;

    fn handle(
        &mut self,
        GetGpuHistory(index): GetGpuHistory,
        _: &mut Self::Context,
    ) -> Self::Result {
        let history = self.monitor.as_ref().map(|m| m.history(index));
        history.filter(|kept| !kept.is_empty()).ok_or_else(|| {
            Error::new(Code::NotFound, format_args!("GPU {index}"), "is not known")
                .hint("GET /v1/gpus lists those that are")
        })
    }
}

/// Whether the monitor tells and acts. It looks either way.
#[derive(Message)]
#[rtype(result = "Result<GpusView>")]
pub struct Watch(pub bool);

impl Handler<Watch> for Gpus {
    type Result = Result<GpusView>;

    fn handle(&mut self, Watch(on): Watch, ctx: &mut Self::Context) -> Self::Result {
        let Some(monitor) = &self.monitor else {
            return Err(Error::new(Code::NotPossible, "gpus", "are not watched")
                .hint("set gpus.monitor = true in daemon.toml"));
        };
        match on {
            true => monitor.resume(),
            false => {
                tracing::warn!("gpus: the monitor is paused; no thermal protection is active");
                monitor.pause();
            }
        }
        self.tell_runs(ctx);
        Ok(self.view())
    }
}

/// Other settings; `monitor` and `library` stay as they were when the daemon began.
#[derive(Message)]
#[rtype(result = "Result<()>")]
pub struct Reconfigure(pub GpuSettings);

impl Handler<Reconfigure> for Gpus {
    type Result = Result<()>;

    fn handle(&mut self, Reconfigure(new): Reconfigure, ctx: &mut Self::Context) -> Self::Result {
        if let Some(monitor) = &self.monitor {
            monitor.reconfigure(new.clone())?;
        }
        self.settings = new;
        self.tell_runs(ctx);
        Ok(())
    }
}

//! What the supervisor of the runs knows of the GPUs, and which run is given which.

use super::Runs;
use super::heat::Wanted;
use crate::domain::DeviceName;
use crate::domain::gpu::{Driver, GpuName, GpuStatus, Lease, free_places, leasable};
use crate::protocol::gpus::{GpuView, GpusView, Watching};
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
            .filter_map(|w| w.lease.as_ref().zip(w.run.max_temperature))
        {
            let cap = caps.entry(lease.gpu.index).or_insert(max_temperature);
            *cap = max_temperature.min(*cap);
        }
        self.gpus.news = Some(news);
        self.guard();
        self.heed(ctx);
        self.schedule(ctx);
        MessageResult(caps)
    }
}

impl Runs {
    /// What is wanted of the runs, as the GPUs stand.
    pub(super) fn wanted(&self) -> Vec<Wanted> {
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

    /// The GPUs that runs compute on, also those of an earlier daemon.
    pub(super) fn taken(&self) -> Vec<Lease> {
        let workers = self.workers.values().filter_map(|w| w.lease.clone());
        let leftover = self.leftover.iter().filter_map(|l| l.lease.clone());
        workers.chain(leftover).collect()
    }
}

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
        // `cuda` is any of them, and `cuda:N` that one.
        if let DeviceName::Cuda(n @ 1..) = device {
            fit = fit.into_iter().skip(n.into()).take(1).collect();
        }
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

/// The least of what the runs on each GPU ask for, by index.
fn caps<'a>(asked: impl Iterator<Item = (&'a Lease, f64)>) -> BTreeMap<u32, f64> {
    let mut caps = BTreeMap::new();
    for (lease, max_temperature) in asked {
        let cap = caps.entry(lease.gpu.index).or_insert(max_temperature);
        *cap = max_temperature.min(*cap);
    }
    caps
}

impl Handler<GpuNews> for Runs {
    type Result = MessageResult<GpuNews>;

    fn handle(&mut self, news: GpuNews, ctx: &mut Self::Context) -> Self::Result {
        let workers = self.workers.values();
        let caps = caps(workers.filter_map(|w| w.lease.as_ref().zip(w.run.max_temperature)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::gpu::{Hold, Reading};

    fn lease(index: u32) -> Lease {
        let device = format!("GPU-{index}");
        Lease {
            gpu: GpuName {
                index,
                uuid: Some(device.clone()),
            },
            device,
        }
    }

    /// A GPU that a run may begin on.
    fn well(index: u32) -> GpuView {
        GpuView {
            status: GpuStatus {
                available: true,
                reading: Reading {
                    index,
                    uuid: lease(index).gpu.uuid,
                    ..Reading::default()
                },
                ..GpuStatus::default()
            },
            runs: Vec::new(),
            drained: None,
            max_temperature: None,
        }
    }

    fn known(watching: Watching, driver: Driver, gpus: Vec<GpuView>) -> Known {
        let view = GpusView {
            watching,
            driver,
            gpus,
            given_up_threads: 0,
            late_answers: 0,
            coalesced: 0,
            lost: 0,
        };
        Known {
            news: Some(GpuNews {
                view,
                devices: "0,1".into(),
                each: 1,
            }),
            ..Known::default()
        }
    }

    fn ready() -> Driver {
        Driver::Ready {
            version: None,
            gpus: 2,
        }
    }

    /// The indices of the places; none where no GPU is needed.
    fn places(known: &Known, taken: &[Lease]) -> Option<Vec<u32>> {
        match known.places(DeviceName::Auto, taken) {
            Places::Unneeded => None,
            Places::These(places) => Some(places.iter().map(|lease| lease.gpu.index).collect()),
        }
    }

    #[test]
    fn a_run_begins_only_where_a_gpu_is_free_and_well() {
        let both = known(Watching::On, ready(), vec![well(0), well(1)]);
        assert_eq!(places(&both, &[]), Some(vec![0, 1]));
        assert_eq!(places(&both, &[lease(0)]), Some(vec![1]));
        assert_eq!(places(&both, &[lease(0), lease(1)]), Some(vec![]));
        let ill: [fn(&mut GpuView); 6] = [
            |gpu| gpu.status.available = false,
            |gpu| gpu.status.stale = true,
            |gpu| gpu.status.hold = Hold::Pause,
            |gpu| gpu.status.hold = Hold::Abort,
            |gpu| gpu.drained = Some("XID 79".into()),
            |gpu| (gpu.status.stale, gpu.drained) = (true, Some("XID 79".into())),
        ];
        for (n, ail) in ill.into_iter().enumerate() {
            let mut gpus = vec![well(0), well(1)];
            ail(&mut gpus[0]);
            let known = known(Watching::On, ready(), gpus);
            assert_eq!(places(&known, &[]), Some(vec![1]), "{n}");
        }
    }

    #[test]
    fn a_daemon_that_is_told_a_number_gives_that_gpu() {
        let both = known(Watching::On, ready(), vec![well(0), well(1)]);
        let given = |n| match both.places(DeviceName::Cuda(n), &[]) {
            Places::Unneeded => None,
            Places::These(places) => Some(places.iter().map(|l| l.gpu.index).collect::<Vec<_>>()),
        };
        assert_eq!(given(0), Some(vec![0, 1]));
        assert_eq!(given(1), Some(vec![1]));
        assert_eq!(given(2), None, "its worker says that there is none");
    }

    #[test]
    fn whether_a_run_waits_for_gpus_that_are_not_known() {
        let hung = || Driver::Hung {
            reason: "no answer".into(),
        };
        let none = || Driver::None {
            reason: "no library".into(),
        };
        assert_eq!(places(&Known::default(), &[]), Some(vec![]), "a moment");
        for (watching, driver, expected) in [
            (Watching::On, Driver::Starting, Some(vec![])),
            (Watching::On, hung(), Some(vec![])),
            (Watching::On, none(), None),
            (Watching::Off, Driver::Starting, None),
        ] {
            let known = known(watching, driver, Vec::new());
            assert_eq!(places(&known, &[]), expected);
        }
        let both = known(Watching::On, hung(), vec![well(0), well(1)]);
        assert!(matches!(
            both.places(DeviceName::Cpu, &[]),
            Places::Unneeded
        ));
    }

    #[test]
    fn the_run_that_asks_for_the_least_heat_decides_for_its_gpu() {
        let asked = [
            (lease(0), 85.0),
            (lease(1), 90.0),
            (lease(0), 70.0),
            (lease(0), 80.0),
        ];
        let caps = caps(asked.iter().map(|(lease, cap)| (lease, *cap)));
        assert_eq!(caps, BTreeMap::from([(0, 70.0), (1, 90.0)]));
    }
}

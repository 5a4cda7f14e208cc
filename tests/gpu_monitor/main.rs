//! The whole GPU monitor, down to a driver's library that is opened while running: a
//! stand-in that plays traces.

mod driver;
mod reading;
#[path = "../stub_nvml/mod.rs"]
mod stub_nvml;

use backpropd::domain::gpu::{
    Action, Condition, Driver, GpuFact, GpuSettings, GpuStatus, Notice, XidAdvice,
};
use backpropd::gpu::{ManualClock, Monitor, MonitorHandle};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TrySendError, sync_channel};
use std::time::{Duration, Instant};
use stub_nvml::StubNvml;

const SECOND: Duration = Duration::from_secs(1);
/// More than anything here takes, by orders.
const PATIENCE: Duration = Duration::from_secs(20);

/// A monitor on a clock that the test moves.
struct Watched {
    handle: MonitorHandle,
    clock: Arc<ManualClock>,
    notices: Receiver<Notice>,
}

impl Watched {
    fn new(stub: &StubNvml) -> Self {
        Self::with(GpuSettings {
            library: Some(stub.library()),
            ..GpuSettings::default()
        })
    }

    fn with(settings: GpuSettings) -> Self {
        let (to, notices) = sync_channel(1000);
        let clock = Arc::new(ManualClock::default());
        let sink = move |notice: Notice| match to.try_send(notice) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(n) | TrySendError::Disconnected(n)) => Err(Box::new(n)),
        };
        let handle = Monitor::spawn_with(settings, sink, clock.clone()).unwrap();
        Self {
            handle,
            clock,
            notices,
        }
    }

    fn next(&self) -> Notice {
        self.notices.recv_timeout(PATIENCE).expect("a notice")
    }

    /// The next notices, which are these. One too many is found by the next call.
    fn expect(&self, expected: &[&str]) -> Vec<Notice> {
        let notices: Vec<Notice> = expected.iter().map(|_| self.next()).collect();
        assert_eq!(kinds(&notices), expected);
        notices
    }

    /// Goes on by one interval, to these notices.
    fn look(&self, expected: &[&str]) -> Vec<Notice> {
        self.clock.advance(5 * SECOND);
        self.expect(expected)
    }

    /// Stops; nothing more was told.
    fn finish(self) {
        assert!(self.handle.stop(PATIENCE));
        let rest = until_the_end(&self.notices);
        assert!(rest.is_empty(), "{:?}", kinds(&rest));
    }

    fn status(&self, index: usize) -> GpuStatus {
        self.handle.snapshot().gpus[index].clone()
    }

    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < PATIENCE, "{what}: {:?}", self.handle);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// All that is left, of a sender that is gone.
fn until_the_end<T>(from: &Receiver<T>) -> Vec<T> {
    let mut all = Vec::new();
    loop {
        match from.recv_timeout(PATIENCE) {
            Ok(one) => all.push(one),
            Err(RecvTimeoutError::Disconnected) => return all,
            Err(RecvTimeoutError::Timeout) => panic!("the sender was kept"),
        }
    }
}

fn kinds(notices: &[Notice]) -> Vec<String> {
    notices
        .iter()
        .map(|n| match n.action {
            Action::None => n.fact.kind().to_owned(),
            action => format!("{} {action:?}", n.fact.kind()),
        })
        .collect()
}

/// behaviour: gpu-04, gpu-08, gpu-09, gpu-15, gpu-16, gpu-17, multi-10
#[test]
fn a_trace_of_temperatures_through_the_drivers_library() {
    let stub = StubNvml::new(
        "driver 570.86.10\ngpus 1\nname 0 Stub H100\nuuid 0 GPU-5a\nshutdown 0 100\n\
         temperature 0 70 80 91 !999 96 84 70\n",
    );
    let watched = Watched::new(&stub);
    let course: [(&[&str], Condition); 7] = [
        (&["gpu_driver", "gpu_status"], Condition::Ok),
        (&["gpu_status", "gpu_warning"], Condition::Warning),
        (&["gpu_status", "gpu_critical Pause"], Condition::Critical),
        (&["gpu_status"], Condition::Critical),
        (
            &["gpu_status", "gpu_emergency AbortWithCheckpoint"],
            Condition::Emergency,
        ),
        (&["gpu_status", "gpu_recovered Resume"], Condition::Warning),
        (&["gpu_status", "gpu_recovered"], Condition::Ok),
    ];
    for (look, (expected, condition)) in course.into_iter().enumerate() {
        if look > 0 {
            watched.clock.advance(5 * SECOND);
        }
        let notices = watched.expect(expected);
        for status in notices.iter().filter_map(|n| n.fact.status()) {
            assert_eq!(status.condition, condition);
            assert_eq!(status.reading.timestamp_ms, look as u64 * 5000);
            assert_eq!(status.reading.name.as_deref(), Some("Stub H100"));
            assert_eq!(status.reading.uuid.as_deref(), Some("GPU-5a"));
            assert_eq!(status.reading.shutdown_c, Some(100.0));
            assert_eq!(status.reading.temperature_c.is_none(), look == 3);
        }
    }
    assert_eq!(watched.handle.history(0).len(), 7);
    watched.finish();
}

/// behaviour: gpu-13
#[test]
fn stopping_is_bounded_and_nothing_is_told_after_it() {
    let stub = StubNvml::new("gpus 1\ntemperature 0 50\n");
    let (entered, is_inside) = sync_channel(1);
    let (leave, may_leave) = sync_channel::<()>(0);
    let (to, told) = sync_channel(10);
    let clock = Arc::new(ManualClock::default());
    let settings = GpuSettings {
        library: Some(stub.library()),
        ..GpuSettings::default()
    };
    // A listener that breaks the rule and blocks.
    let sink = move |notice: Notice| {
        entered.send(()).unwrap();
        may_leave.recv().unwrap();
        to.send(notice.fact.kind()).unwrap();
        Ok(())
    };
    let handle = Monitor::spawn_with(settings, sink, clock.clone()).unwrap();
    is_inside.recv_timeout(PATIENCE).unwrap();
    let asked = Instant::now();
    assert!(!handle.stop(Duration::from_millis(50)), "not yet");
    assert!(asked.elapsed() < 5 * SECOND);
    leave.send(()).unwrap();
    assert!(handle.stop(PATIENCE));
    assert!(handle.stop(Duration::ZERO), "again");
    clock.advance(100 * SECOND);
    assert_eq!(
        until_the_end(&told),
        ["gpu_driver"],
        "what waited behind it was not told"
    );
}

/// behaviour: gpu-14, gpu-21
#[test]
fn a_paused_monitor_looks_and_keeps_silent() {
    let stub = StubNvml::new("gpus 1\ntemperature 0 50 91 91 93\n");
    let watched = Watched::new(&stub);
    watched.expect(&["gpu_driver", "gpu_status"]);
    watched.handle.pause();
    for looks in 2..=3 {
        watched.clock.advance(5 * SECOND);
        watched.until("a look", |w| w.handle.history(0).len() == looks);
    }
    assert!(watched.notices.try_recv().is_err());
    assert!(watched.handle.snapshot().paused);
    watched.handle.resume();
    watched.look(&["gpu_status", "gpu_critical Pause"]);
    assert_eq!(watched.handle.history(0).len(), 4);
    assert!(watched.handle.history(7).is_empty());
}

/// behaviour: gpu-22
#[test]
fn limits_can_change_while_it_runs() {
    let stub = StubNvml::new("gpus 1\ntemperature 0 82\n");
    let watched = Watched::new(&stub);
    watched.expect(&["gpu_driver", "gpu_status", "gpu_warning"]);
    watched.handle.set_max_temperature(0, Some(82.0));
    watched.look(&["gpu_status", "gpu_critical Pause"]);
    let mut settings = GpuSettings::default();
    settings.limits.temperature_warning = 99.0;
    let error = watched.handle.reconfigure(settings.clone()).unwrap_err();
    assert_eq!(error.about, "limits.temperature_warning");
    watched.handle.set_max_temperature(0, None);
    settings.limits.temperature_emergency = 82.0;
    settings.limits.temperature_critical = 81.0;
    settings.limits.temperature_warning = 80.0;
    watched.handle.reconfigure(settings).unwrap();
    // At once.
    watched.expect(&["gpu_status", "gpu_emergency AbortWithCheckpoint"]);
    watched.finish();
}

#[test]
fn the_machines_clock_keeps_the_interval() {
    let stub = StubNvml::new("gpus 1\ntemperature 0 50\n");
    let (to, notices) = sync_channel(1000);
    let settings = GpuSettings {
        library: Some(stub.library()),
        interval_seconds: 0.1,
        ..GpuSettings::default()
    };
    let start = Instant::now();
    let handle = Monitor::spawn(settings, move |notice: Notice| {
        let _ = to.send(notice);
        Ok(())
    })
    .unwrap();
    let statuses = notices
        .iter()
        .filter(|n| n.fact.kind() == "gpu_status")
        .take(5);
    assert_eq!(statuses.count(), 5);
    assert!(start.elapsed() >= Duration::from_millis(400));
    assert!(handle.stop(PATIENCE));
}

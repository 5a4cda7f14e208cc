//! A driver that is not there, or does not answer.

use super::*;
use std::path::PathBuf;

/// A machine without the library, and the ways in which one with it has no driver.
#[test]
fn no_driver_is_one_line_and_no_failure() {
    let absent = PathBuf::from("/nonexistent/libnvidia-ml.so.1");
    let folder = tempfile::tempdir().unwrap();
    let no_library = folder.path().join("libnvidia-ml.so.1");
    std::fs::write(&no_library, "this is no library").unwrap();
    let script = |text: &str| {
        let stub = StubNvml::new(text);
        (stub.library(), Some(stub))
    };
    for ((library, _stub), expected) in [
        (
            (absent, None),
            "no NVIDIA driver: /nonexistent/libnvidia-ml.so.1: cannot open shared object file",
        ),
        ((no_library, None), "no NVIDIA driver: "),
        (
            script("init 9"),
            "the NVIDIA driver is installed but not loaded",
        ),
        (script("init 18"), "the NVIDIA driver was updated"),
        (script("init 4"), "this user may not use the NVIDIA driver"),
        (script("init 999"), "the NVIDIA driver cannot be used: "),
        (script("gpus !1"), "the NVIDIA driver failed: "),
        (
            script("gpus 0"),
            "the NVIDIA driver is loaded but knows no GPU",
        ),
    ] {
        let watched = Watched::with(GpuSettings {
            library: Some(library),
            ..GpuSettings::default()
        });
        let GpuFact::GpuDriver {
            driver: Driver::None { reason },
        } = watched.next().fact
        else {
            panic!("{expected}")
        };
        assert_eq!(reason.matches("libnvidia-ml").count().max(1), 1, "{reason}");
        assert!(reason.starts_with(expected), "{reason}");
        assert!(!reason.contains('\n'));
        watched.clock.advance(5 * SECOND);
        assert!(watched.handle.snapshot().gpus.is_empty());
        assert!(watched.handle.stop(PATIENCE));
        assert!(watched.notices.try_recv().is_err(), "once");
    }
}

#[test]
fn a_library_of_something_else_is_no_driver() {
    // The C library opens, and has none of the functions.
    let watched = Watched::with(GpuSettings {
        library: Some("libc.so.6".into()),
        ..GpuSettings::default()
    });
    let fact = watched.next().fact;
    assert!(
        matches!(
            &fact,
            GpuFact::GpuDriver {
                driver: Driver::None { .. }
            }
        ),
        "{fact:?}"
    );
}

/// behaviour: gpu-10
#[test]
fn a_call_that_hangs_makes_nobody_wait() {
    let stub = StubNvml::new("gpus 1\ntemperature 0 91 hang 20 50\n");
    let watched = Watched::new(&stub);
    watched.expect(&["gpu_driver", "gpu_status", "gpu_critical Pause"]);
    watched.clock.advance(5 * SECOND);
    watched.until("the hang", |_| stub.is_hanging());
    let asked = Instant::now();
    assert_eq!(watched.handle.snapshot().gpus.len(), 1);
    watched.handle.pause();
    watched.handle.resume();
    assert!(asked.elapsed() < SECOND, "asking does not wait");
    watched.clock.advance(2 * SECOND);
    let notices = watched.expect(&["gpu_driver", "gpu_status"]);
    let GpuFact::GpuDriver {
        driver: Driver::Hung { reason },
    } = &notices[0].fact
    else {
        panic!("{notices:?}")
    };
    assert_eq!(reason, "the NVIDIA driver has not answered for 2 s");
    let status = watched.status(0);
    assert!(status.stale);
    assert_eq!(status.condition, Condition::Critical);
    watched.clock.advance(3 * SECOND);
    watched.expect(&["gpu_status"]);
    // The late answer is 20 °C: no recovery.
    stub.release();
    watched.until("the late answer", |w| w.handle.snapshot().late_answers == 1);
    assert!(watched.status(0).stale);
    watched.look(&["gpu_driver", "gpu_status", "gpu_recovered Resume"]);
    assert_eq!(watched.status(0).reading.temperature_c, Some(50.0));
    watched.finish();
}

#[test]
fn a_thread_that_never_comes_back_is_replaced() {
    // One call hangs; the calls of another thread do not.
    let stub = StubNvml::new("gpus 1\ntemperature 0 50 hang 60 70\n");
    let watched = Watched::new(&stub);
    watched.expect(&["gpu_driver", "gpu_status"]);
    watched.clock.advance(5 * SECOND);
    watched.until("the hang", |_| stub.is_hanging());
    watched.clock.advance(2 * SECOND);
    watched.expect(&["gpu_driver", "gpu_status"]);
    watched.look(&["gpu_status"]);
    watched.look(&["gpu_status", "monitoring_blind"]);
    for _ in 0..9 {
        let status = watched.look(&["gpu_status"]);
        assert!(status[0].fact.status().unwrap().stale);
    }
    assert_eq!(watched.handle.snapshot().given_up_threads, 0);
    watched.look(&["gpu_driver", "gpu_status", "monitoring_restored"]);
    let status = watched.status(0);
    assert!(!status.stale);
    assert_eq!(status.reading.temperature_c, Some(60.0));
    assert_eq!(watched.handle.snapshot().given_up_threads, 1);
    stub.release();
    watched.until("the lost thread", |w| {
        w.handle.snapshot().given_up_threads == 0
    });
    assert_eq!(watched.handle.snapshot().late_answers, 1);
    watched.finish();
}

#[test]
fn opening_the_library_may_hang_too() {
    let stub = StubNvml::new("init hang 0\ngpus 1\ntemperature 0 50\n");
    let watched = Watched::new(&stub);
    watched.until("the first question", |w| {
        w.clock.advance(2 * SECOND);
        matches!(w.handle.snapshot().driver, Driver::Hung { .. })
    });
    assert!(watched.handle.snapshot().gpus.is_empty());
    assert!(watched.handle.stop(PATIENCE), "nor does stopping wait");
}

#[test]
fn a_library_that_lacks_functions_costs_what_they_tell_or_the_driver() {
    let script = "gpus 1\ntemperature 0 50\nmemory.total 0 100\nmemory.used 0 1\n";
    let stub = StubNvml::lacking("nvmlDeviceGetTemperature", script);
    let watched = Watched::new(&stub);
    watched.expect(&["gpu_driver", "gpu_status"]);
    let status = watched.status(0);
    assert_eq!(status.condition, Condition::Unknown);
    assert_eq!(status.reading.memory_used, Some(1));

    for function in ["nvmlShutdown", "nvmlEventSetFree", "nvmlInit_v2"] {
        let stub = StubNvml::lacking(function, script);
        let watched = Watched::new(&stub);
        let fact = watched.next().fact;
        let GpuFact::GpuDriver {
            driver: Driver::None { reason },
        } = fact
        else {
            panic!("{fact:?}")
        };
        assert!(reason.starts_with("the NVIDIA driver cannot be used: "));
        watched.finish();
    }
}

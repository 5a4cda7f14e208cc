//! What is read of every GPU, and what each of them may fail to tell.

use super::*;

/// behaviour: multi-11
#[test]
fn every_field_is_read_and_each_may_fail_alone() {
    let script = "driver 570.00\ngpus 2\n\
         name 0 A\nuuid 0 GPU-a\ntemperature 0 61\nshutdown 0 98\nmemory.total 0 1000\n\
         memory.used 0 250\npower 0 350500\nlimit 0 701000\nutilisation 0 93\nthrottle 0 0\n\
         temperature 1 !3\nshutdown 1 !3\nmemory.total 1 !3\npower 1 !4\nlimit 1 300000\n\
         utilisation 1 !999\n";
    let stub = StubNvml::new(script);
    let watched = Watched::new(&stub);
    let notices = watched.expect(&["gpu_driver", "gpu_status", "gpu_status"]);
    let GpuFact::GpuDriver { driver } = &notices[0].fact else {
        panic!("{notices:?}")
    };
    assert_eq!(
        *driver,
        Driver::Ready {
            version: Some("570.00".into()),
            gpus: 2
        }
    );
    let full = watched.status(0);
    assert!(full.available && !full.stale);
    assert_eq!(full.reading.memory_free, Some(750));
    assert_eq!(full.memory_percent, Some(25.0));
    assert_eq!(full.reading.power_draw_w, Some(350.5));
    assert_eq!(full.power_percent, Some(50.0));
    assert_eq!(full.reading.utilisation_percent, Some(93.0));
    assert_eq!(full.reading.temperature_c, Some(61.0));
    let bare = watched.status(1);
    assert!(bare.available);
    assert_eq!(bare.condition, Condition::Unknown);
    let json = serde_json::to_value(&bare).unwrap();
    let known: Vec<_> = json
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(key, _)| key.as_str())
        .collect();
    assert_eq!(
        known,
        [
            "available",
            "condition",
            "hold",
            "index",
            "power_limit_w",
            "reasons",
            "stale",
            "timestamp_ms"
        ]
    );
}

/// behaviour: gpu-07
#[test]
fn cards_that_tell_margins_have_a_shutdown_temperature_too() {
    let stub = StubNvml::new(
        "gpus 3\ntemperature 0 86\nmargin 0 1\ntlimit 0 -2\n\
         temperature 1 50\nshutdown 1 0\ntemperature 2 4294967295\nshutdown 2 95\n",
    );
    let watched = Watched::new(&stub);
    watched.expect(&[
        "gpu_driver",
        "gpu_status",
        "gpu_emergency AbortWithCheckpoint",
        "gpu_status",
        "gpu_status",
    ]);
    let near = watched.status(0);
    assert_eq!(near.reading.shutdown_c, Some(89.0));
    assert_eq!(near.condition, Condition::Emergency);
    let untold = watched.status(1);
    assert_eq!(untold.reading.shutdown_c, None, "0 is no temperature");
    assert_eq!(untold.condition, Condition::Ok);
    let absurd = watched.status(2);
    assert_eq!(absurd.reading.temperature_c, None);
    assert_eq!(absurd.condition, Condition::Unknown);
}

#[test]
fn a_lost_gpu_is_unavailable_and_the_others_go_on() {
    let stub = StubNvml::new(
        "gpus 3\nuuid 0 GPU-a\nuuid 1 GPU-b\ntemperature 0 91 !15 !15 50\n\
         temperature 1 50 50 !16 50\nhandle 2 !4\n",
    );
    let watched = Watched::new(&stub);
    watched.expect(&[
        "gpu_driver",
        "gpu_status",
        "gpu_critical Pause",
        "gpu_status",
        "gpu_status",
    ]);
    watched.look(&["gpu_status", "gpu_status", "gpu_status"]);
    let lost = watched.status(0);
    assert!(!lost.available);
    assert_eq!(
        lost.reading.uuid.as_deref(),
        Some("GPU-a"),
        "still known by name"
    );
    assert_eq!(lost.reading.temperature_c, None);
    assert_eq!(lost.condition, Condition::Critical);
    assert!(
        lost.reasons[1].starts_with("GPU 0 cannot be read: "),
        "{lost:?}"
    );
    assert!(watched.status(1).available);
    let forbidden = watched.status(2);
    assert!(!forbidden.available);
    assert_eq!(forbidden.condition, Condition::Unknown);
    // The other way round.
    watched.look(&["gpu_status", "gpu_status", "gpu_status", "monitoring_blind"]);
    assert!(!watched.status(1).available);
    watched.look(&[
        "gpu_status",
        "gpu_recovered Resume",
        "gpu_status",
        "gpu_status",
    ]);
    assert!(watched.status(0).available && watched.status(1).available);
    watched.finish();
}

#[test]
fn driver_errors_arrive_without_waiting_for_the_next_look() {
    let stub = StubNvml::new(
        "gpus 3\nuuid 0 GPU-a\nuuid 1 GPU-b\nuuid 2 GPU-c\ntemperature 0 50\n\
         temperature 1 50\ntemperature 2 50\nevents 1 !4\n",
    );
    let watched = Watched::new(&stub);
    watched.expect(&["gpu_driver", "gpu_status", "gpu_status", "gpu_status"]);
    stub.raise_xid(2, 79);
    let GpuFact::GpuXid { gpu, xid } = watched.next().fact else {
        panic!()
    };
    assert_eq!(
        gpu.uuid.as_deref(),
        Some("GPU-c"),
        "one GPU that refuses costs the others nothing"
    );
    assert_eq!((xid.number, xid.advice), (Some(79), XidAdvice::Drain));
    stub.raise_xid(0, 999);
    let GpuFact::GpuXid { gpu, xid } = watched.next().fact else {
        panic!()
    };
    assert_eq!((gpu.index, xid.number), (0, None));
}

#[test]
fn memory_errors_and_slow_clocks_come_from_the_driver() {
    let stub = StubNvml::new(
        "gpus 1\ntemperature 0 50\necc.corrected 0 3 5\necc.uncorrected 0 0 0 1\n\
         throttle 0 1 68 0\n",
    );
    let watched = Watched::new(&stub);
    watched.expect(&["gpu_driver", "gpu_status"]);
    let notices = watched.look(&["gpu_status", "gpu_ecc", "gpu_throttle"]);
    let json = serde_json::to_value(&notices).unwrap();
    assert_eq!(json[1]["corrected"], 2);
    assert_eq!(json[1]["uncorrected"], 0);
    assert_eq!(
        json[2]["started"].to_string(),
        r#"["power_cap","hardware_thermal"]"#
    );
    watched.look(&["gpu_status", "gpu_ecc", "gpu_throttle"]);
    watched.look(&["gpu_status"]);
    watched.finish();
}

#[test]
fn a_divided_gpu_names_its_instances() {
    let stub = StubNvml::new(
        "gpus 2\ntemperature 0 50\ntemperature 1 50\nmig 0 3\nmig.place 0 8 !6 9\nmig 1 0\n\
         uuid 8 MIG-a\nmemory.total 8 100\nmemory.used 8 30\nuuid 9 MIG-b\n",
    );
    let watched = Watched::new(&stub);
    watched.expect(&["gpu_driver", "gpu_status", "gpu_status"]);
    let json = serde_json::to_value(watched.status(0)).unwrap();
    assert_eq!(
        json["mig"].to_string(),
        r#"[{"memory_total":100,"memory_used":30,"uuid":"MIG-a"},{"memory_total":null,"memory_used":null,"uuid":"MIG-b"}]"#
    );
    assert_eq!(watched.status(1).reading.mig, None);
    watched.finish();
}

use super::*;

/// behaviour: gpu-05
#[test]
fn a_warning_begins_at_each_of_its_limits() {
    for (reading, below) in [
        (memory(0, 80.0), memory(0, 79.0)),
        (memory(900, 20.0), memory(899, 20.0)),
        (power(100.0, 20.0), power(94.9, 20.0)),
        (power(95.0, 20.0), power(94.0, 20.0)),
    ] {
        let mut trace = defaults();
        assert!(said(&trace.read(below)).is_empty());
        assert_eq!(trace.watch.latest().condition, Condition::Ok);
        assert_eq!(said(&trace.read(reading)), ["gpu_warning"]);
        assert_eq!(trace.watch.latest().condition, Condition::Warning);
    }
}

/// behaviour: gpu-06
#[test]
fn critical_begins_at_each_of_its_limits_and_at_that_of_a_run() {
    assert_eq!(said(&defaults().temperature(90.0)), ["gpu_critical Pause"]);
    assert_eq!(said(&defaults().temperature(89.0)), ["gpu_warning"]);
    assert_eq!(said(&defaults().read(memory(950, 20.0))), ["gpu_critical"]);
    assert_eq!(said(&defaults().read(memory(949, 20.0))), ["gpu_warning"]);

    let mut careful = Trace::new(Thresholds::default().capped(85.0));
    assert_eq!(said(&careful.temperature(84.0)), ["gpu_warning"]);
    assert_eq!(said(&careful.temperature(85.0)), ["gpu_critical Pause"]);
    let mut bold = Trace::new(Thresholds::default().capped(200.0));
    assert_eq!(said(&bold.temperature(90.0)), ["gpu_critical Pause"]);
}

/// behaviour: gpu-07
#[test]
fn an_emergency_begins_at_its_limit_or_near_the_cards_own() {
    let near = |temperature: f64, shutdown: f64| {
        let mut trace = defaults();
        let notices = trace.read(Reading {
            temperature_c: Some(temperature),
            shutdown_c: Some(shutdown),
            ..Reading::default()
        });
        (said(&notices), trace.watch.latest().reasons.clone())
    };
    assert_eq!(
        said(&defaults().temperature(95.0)),
        ["gpu_emergency AbortWithCheckpoint"]
    );
    // A card that endures more changes nothing.
    assert_eq!(near(94.0, 105.0).0, ["gpu_critical Pause"]);
    assert_eq!(near(95.0, 105.0).0, ["gpu_emergency AbortWithCheckpoint"]);
    assert_eq!(near(91.0, 95.0).0, ["gpu_critical Pause"]);
    let (said, reasons) = near(92.0, 95.0);
    assert_eq!(said, ["gpu_emergency AbortWithCheckpoint"]);
    assert_eq!(
        reasons,
        ["temperature 92 °C ≥ emergency limit 92 °C, 3 °C below the card's shutdown at 95 °C"]
    );
    // One that endures less than the softer limits goes before them.
    assert_eq!(near(77.0, 80.0).0, ["gpu_emergency AbortWithCheckpoint"]);
    assert!(near(76.0, 80.0).0.is_empty());
}

/// behaviour: gpu-15, gpu-16, gpu-17
#[test]
fn a_card_heats_up_and_cools_down() {
    let mut trace = defaults();
    let course = [
        (79.0, "ok", vec![]),
        (80.0, "warning", vec!["gpu_warning"]),
        (85.0, "warning", vec![]),
        (91.0, "critical", vec!["gpu_critical Pause"]),
        (93.0, "critical", vec![]),
        (96.0, "emergency", vec!["gpu_emergency AbortWithCheckpoint"]),
        (97.0, "emergency", vec![]),
        (91.0, "emergency", vec![]),
        (89.9, "critical", vec!["gpu_recovered"]),
        (85.0, "critical", vec![]),
        (84.9, "warning", vec!["gpu_recovered Resume"]),
        (75.0, "warning", vec![]),
        (74.9, "ok", vec!["gpu_recovered"]),
        (20.0, "ok", vec![]),
    ];
    for (temperature, condition, expected) in course {
        let notices = trace.temperature(temperature);
        assert_eq!(said(&notices), expected, "at {temperature}");
        for notice in &notices {
            let status = notice.fact.status().unwrap();
            assert_eq!(status.condition.as_str(), condition, "at {temperature}");
            assert_eq!(status.reading.temperature_c, Some(temperature));
        }
    }
}

/// behaviour: gpu-15, gpu-17
#[test]
fn a_pause_that_never_became_an_emergency_is_resumed_once() {
    let mut trace = defaults();
    assert_eq!(said(&trace.temperature(90.0)), ["gpu_critical Pause"]);
    assert_eq!(said(&trace.temperature(70.0)), ["gpu_recovered Resume"]);
    assert_eq!(trace.watch.latest().condition, Condition::Ok);
    assert!(said(&trace.temperature(70.0)).is_empty());
    assert_eq!(said(&trace.temperature(90.0)), ["gpu_critical Pause"]);
}

/// behaviour: gpu-17
#[test]
fn a_value_that_trembles_around_a_limit_says_so_once() {
    let mut trace = defaults();
    let mut all = Vec::new();
    for _ in 0..50 {
        for temperature in [90.0, 89.0, 86.0, 85.0, 91.0] {
            all.extend(said(&trace.temperature(temperature)));
        }
    }
    assert_eq!(all, ["gpu_critical Pause"]);
}

/// behaviour: gpu-17
#[test]
fn an_unknown_reading_is_no_recovery() {
    let mut trace = defaults();
    trace.temperature(91.0);
    for look in 1..=10 {
        let notices = trace.temperature(None);
        let expected: &[&str] = if look == 3 {
            &["monitoring_blind"]
        } else {
            &[]
        };
        assert_eq!(said(&notices), expected);
        assert_eq!(trace.watch.latest().condition, Condition::Critical);
        assert_eq!(
            trace.watch.latest().reasons,
            ["temperature unknown, last 91 °C, critical until below 85 °C (critical limit 90 °C)"]
        );
    }
    assert_eq!(
        said(&trace.temperature(86.0)),
        ["monitoring_restored"],
        "still within the hysteresis"
    );
    assert_eq!(said(&trace.temperature(84.0)), ["gpu_recovered Resume"]);
}

/// behaviour: gpu-17
#[test]
fn a_lost_card_and_a_silent_driver_are_no_recovery_either() {
    let mut trace = defaults();
    trace.temperature(96.0);
    let lost = Observation::Lost {
        reason: "GPU 0 cannot be read: it fell off the bus".into(),
        timestamp_ms: 7,
    };
    let silent = Observation::Silent {
        reason: "the driver does not answer".into(),
    };
    assert!(said(&trace.see(silent.clone())).is_empty());
    let status = trace.watch.latest().clone();
    assert!(status.stale && status.available);
    assert_eq!(
        status.reading.temperature_c,
        Some(96.0),
        "the old number, as stale"
    );
    assert_eq!(
        status.reading.timestamp_ms, 5000,
        "… with the time of its reading"
    );
    assert_eq!(status.reasons[1], "the driver does not answer");

    assert!(said(&trace.see(lost.clone())).is_empty());
    let status = trace.watch.latest().clone();
    assert!(!status.stale && !status.available);
    assert_eq!(status.reading.temperature_c, None);
    assert_eq!(status.condition, Condition::Emergency);
    let notices = trace.see(lost);
    let GpuFact::MonitoringBlind { reason, .. } = &notices[1].fact else {
        panic!("{notices:?}")
    };
    assert_eq!(
        reason,
        "GPU 0 cannot be read: it fell off the bus, 3 looks in a row"
    );
}

/// behaviour: gpu-18, gpu-09
#[test]
fn the_worst_measure_wins_and_all_are_named() {
    let mut trace = defaults();
    let notices = trace.read(Reading {
        temperature_c: Some(91.0),
        memory_total: Some(1000),
        memory_used: Some(923),
        power_draw_w: Some(712.0),
        power_limit_w: Some(700.0),
        ..Reading::default()
    });
    assert_eq!(said(&notices), ["gpu_critical Pause"]);
    assert_eq!(
        trace.watch.latest().reasons,
        [
            "temperature 91 °C ≥ critical limit 90 °C",
            "memory 92.3 % ≥ warning limit 90 %",
            "power 101.7 % ≥ warning limit 100 %, the card's power limit",
        ]
    );
    let status = notices[1].fact.status().unwrap();
    assert_eq!(
        status,
        trace.watch.latest(),
        "the event carries the whole status"
    );
}

/// behaviour: gpu-18
#[test]
fn reasons_are_sorted_by_severity_and_name_what_lingers() {
    let mut trace = defaults();
    trace.read(memory(960, 81.0));
    assert_eq!(
        trace.watch.latest().reasons,
        [
            "memory 96 % ≥ critical limit 95 %",
            "temperature 81 °C ≥ warning limit 80 °C",
        ]
    );
    trace.read(memory(940, 78.0));
    assert_eq!(
        trace.watch.latest().reasons,
        [
            "memory 94 %, critical until below 93 % (limit 95 %)",
            "temperature 78 °C, warning until below 75 °C (limit 80 °C)",
        ]
    );
}

#[test]
fn memory_pauses_only_where_asked_for() {
    let mut trace = defaults();
    assert_eq!(said(&trace.read(memory(990, 50.0))), ["gpu_critical"]);
    // The heat that follows pauses although the condition is what it was.
    assert_eq!(said(&trace.read(memory(990, 91.0))), ["gpu_status Pause"]);
    assert_eq!(said(&trace.read(memory(990, 50.0))), ["gpu_status Resume"]);

    let mut strict = Trace::new(Thresholds {
        memory_pauses: true,
        ..Thresholds::default()
    });
    assert_eq!(
        said(&strict.read(memory(950, 50.0))),
        ["gpu_critical Pause"]
    );
    assert!(said(&strict.read(memory(930, 50.0))).is_empty());
    assert_eq!(
        said(&strict.read(memory(920, 50.0))),
        ["gpu_recovered Resume"]
    );
}

#[test]
fn power_never_pauses() {
    let mut trace = defaults();
    assert_eq!(said(&trace.read(power(140.0, 50.0))), ["gpu_warning"]);
    assert!(said(&trace.read(power(90.0, 50.0))).is_empty());
    assert_eq!(said(&trace.read(power(89.0, 50.0))), ["gpu_recovered"]);
}

/// behaviour: gpu-11
#[test]
fn blindness_is_announced_once_and_so_is_its_end() {
    let mut trace = defaults();
    let course = [
        (None, vec![]),
        (None, vec![]),
        (None, vec!["monitoring_blind"]),
        (None, vec![]),
        (Some(50.0), vec!["monitoring_restored"]),
        (None, vec![]),
        (None, vec![]),
        (Some(50.0), vec![]),
    ];
    for (look, (temperature, expected)) in course.into_iter().enumerate() {
        assert_eq!(said(&trace.temperature(temperature)), expected, "{look}");
        let condition = trace.watch.latest().condition;
        let known = temperature.map_or(Condition::Unknown, |_| Condition::Ok);
        assert_eq!(condition, known);
    }
}

/// behaviour: gpu-17
#[test]
fn what_ends_while_the_temperature_is_unknown_is_told_when_it_is_known() {
    let mut trace = defaults();
    trace.read(memory(960, 50.0));
    assert!(said(&trace.read(memory(100, None))).is_empty());
    assert_eq!(trace.watch.latest().condition, Condition::Unknown);
    assert_eq!(said(&trace.read(memory(100, 50.0))), ["gpu_recovered"]);
}

/// behaviour: multi-11
#[test]
fn what_is_not_known_is_null() {
    let mut trace = defaults();
    trace.read(Reading {
        power_draw_w: Some(10.0),
        power_limit_w: Some(0.0),
        memory_used: Some(5),
        memory_total: Some(0),
        ..Reading::default()
    });
    let json = serde_json::to_value(trace.watch.latest()).unwrap();
    let keys: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys.len(), 20, "{keys:?}");
    for key in [
        "name",
        "uuid",
        "temperature_c",
        "shutdown_c",
        "memory_free",
        "memory_percent",
        "power_percent",
        "utilisation_percent",
    ] {
        assert!(json[key].is_null(), "{key}: {}", json[key]);
        assert!(json.get(key).is_some(), "{key} is there");
    }
    assert_eq!(json["available"], true);
    assert_eq!(json["stale"], false);
    assert_eq!(json["index"], 0);
    assert_eq!(json["condition"], "unknown");
    assert_eq!(json["reasons"][0], "temperature unknown");
    assert_eq!(json["timestamp_ms"], 5000);
    let back: GpuStatus = serde_json::from_value(json).unwrap();
    assert_eq!(&back, trace.watch.latest());
}

#[test]
fn lower_limits_take_hold_at_the_next_look() {
    let mut trace = defaults();
    assert_eq!(said(&trace.temperature(86.0)), ["gpu_warning"]);
    trace.limits = Thresholds::default().capped(85.0);
    assert_eq!(said(&trace.temperature(86.0)), ["gpu_critical Pause"]);
    trace.limits = Thresholds::default();
    assert!(
        said(&trace.temperature(86.0)).is_empty(),
        "held by the hysteresis"
    );
    assert_eq!(said(&trace.temperature(84.0)), ["gpu_recovered Resume"]);
}

#[test]
fn random_traces_keep_the_rules() {
    let mut random = 7_u64;
    for _ in 0..2000 {
        let mut trace = defaults();
        let mut held = Action::Resume;
        let mut told = Condition::Ok;
        for _ in 0..100 {
            random = random
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let dice = random >> 33;
            let temperature = (!dice.is_multiple_of(7)).then_some(70.0 + (dice % 31) as f64);
            let known = temperature.is_some();
            let notices = trace.read(memory(850 + dice / 40 % 150, temperature));
            let now = trace.watch.latest().condition;
            for notice in &notices {
                assert!(known || notice.action != Action::Resume);
                if notice.action != Action::None {
                    assert_ne!(notice.action, held, "an action is said once");
                    held = notice.action;
                }
                if let GpuFact::GpuRecovered { from, status } = &notice.fact {
                    assert_eq!(*from, told);
                    assert!(status.condition < *from);
                    assert!(status.condition != Condition::Unknown);
                    // A second emergency ends runs again, although none should be there.
                    if *from == Condition::Emergency && held == Action::AbortWithCheckpoint {
                        held = Action::Pause;
                    }
                }
                if notice.fact.kind().ends_with(now.as_str()) {
                    assert!(now > told);
                }
            }
            if now != Condition::Unknown {
                told = now;
            }
            if temperature.is_some_and(|t| t >= 95.0) {
                assert_eq!(held, Action::AbortWithCheckpoint);
            } else if temperature.is_some_and(|t| t >= 90.0) {
                assert_ne!(held, Action::Resume);
            } else if temperature.is_some_and(|t| t < 85.0) {
                assert_eq!(held, Action::Resume);
            }
        }
    }
}

/// Who comes anew does not know what was paused before: behaviour: gpu-17
#[test]
fn a_monitor_that_just_began_lets_runs_go_on_only_well_below_the_limit() {
    for (temperatures, holds) in [
        (
            &[None, Some(86.0), Some(84.0), None][..],
            "unknown unknown run run",
        ),
        (&[Some(50.0), Some(89.0)], "run run"),
        (
            &[Some(91.0), Some(86.0), None, Some(84.0)],
            "pause pause pause run",
        ),
        (&[Some(96.0), Some(91.0), Some(84.0)], "abort abort run"),
    ] {
        let mut trace = defaults();
        let found: Vec<String> = temperatures
            .iter()
            .map(|t| {
                trace.temperature(*t);
                let hold = trace.watch.latest().hold;
                serde_json::to_value(hold)
                    .unwrap()
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(found.join(" "), holds);
    }
}

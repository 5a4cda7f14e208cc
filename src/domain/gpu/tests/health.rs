use super::*;

fn look(trace: &mut Trace, health: Health) -> Vec<GpuFact> {
    let reading = Reading {
        index: 1,
        uuid: Some("GPU-1".into()),
        temperature_c: Some(40.0),
        ..Reading::default()
    };
    let notices = trace.see(Observation::Read(Box::new(reading), health));
    notices.into_iter().skip(1).map(|n| n.fact).collect()
}

fn gpu() -> GpuName {
    GpuName {
        index: 1,
        uuid: Some("GPU-1".into()),
    }
}

#[test]
fn memory_errors_are_told_as_they_come() {
    let mut trace = defaults();
    let ecc = |corrected: u64, uncorrected: Option<u64>| Health {
        ecc_corrected: Some(corrected),
        ecc_uncorrected: uncorrected,
        throttle: None,
    };
    let event = |corrected, uncorrected| {
        vec![GpuFact::GpuEcc {
            gpu: gpu(),
            corrected,
            uncorrected,
        }]
    };
    assert!(
        look(&mut trace, ecc(5, Some(1))).is_empty(),
        "those of before are old"
    );
    assert!(look(&mut trace, ecc(5, Some(1))).is_empty());
    assert_eq!(look(&mut trace, ecc(7, Some(2))), event(2, 1));
    // An unreadable counter is compared with what it was before.
    assert!(look(&mut trace, ecc(7, None)).is_empty());
    assert_eq!(look(&mut trace, ecc(7, Some(4))), event(0, 2));
    // The driver was loaded anew: it counts from 0.
    assert_eq!(look(&mut trace, ecc(3, Some(0))), event(3, 0));
}

#[test]
fn slow_clocks_are_told_when_their_reasons_change() {
    let mut trace = defaults();
    let slow = |reasons: &[Throttle]| Health {
        throttle: Some(reasons.iter().copied().collect()),
        ..Health::default()
    };
    use Throttle::{HardwareThermal, PowerCap};
    let event = |started: &[Throttle], ended: &[Throttle]| {
        vec![GpuFact::GpuThrottle {
            gpu: gpu(),
            started: started.to_vec(),
            ended: ended.to_vec(),
        }]
    };
    assert!(look(&mut trace, slow(&[])).is_empty());
    assert_eq!(look(&mut trace, slow(&[PowerCap])), event(&[PowerCap], &[]));
    assert!(look(&mut trace, slow(&[PowerCap])).is_empty());
    assert!(look(&mut trace, Health::default()).is_empty(), "unknown");
    assert_eq!(
        look(&mut trace, slow(&[HardwareThermal])),
        event(&[HardwareThermal], &[PowerCap])
    );
    assert_eq!(look(&mut trace, slow(&[])), event(&[], &[HardwareThermal]));
}

#[test]
fn xids_say_whether_the_card_can_be_used_on() {
    assert_eq!(Xid::new(Some(13)).advice, XidAdvice::Retry);
    assert_eq!(Xid::new(Some(79)).advice, XidAdvice::Drain);
    assert_eq!(Xid::new(Some(63)).advice, XidAdvice::Note);
    let unknown = Xid::new(Some(123_456));
    assert_eq!(unknown.number, Some(123_456));
    assert_eq!(unknown.advice, XidAdvice::Note);
    assert_eq!(Xid::new(None).number, None);
}

#[test]
fn facts_are_flat_json_with_their_kind() {
    let notice = Notice::only(GpuFact::GpuXid {
        gpu: gpu(),
        xid: Xid::new(Some(79)),
    });
    let json = serde_json::to_value(&notice).unwrap();
    assert_eq!(json["kind"], "gpu_xid");
    assert_eq!(json["gpu"]["uuid"], "GPU-1");
    assert_eq!(json["xid"]["number"], 79);
    assert_eq!(json["action"], "none");
    let mut trace = defaults();
    for mut notice in trace.temperature(96.0) {
        // Within this process alone.
        notice.more = false;
        let json = serde_json::to_value(&notice).unwrap();
        assert_eq!(json["kind"], notice.fact.kind());
        assert_eq!(serde_json::from_value::<Notice>(json).unwrap(), notice);
    }
}

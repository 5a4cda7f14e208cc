use super::*;
use crate::domain::Code;

fn parsed(text: &str) -> Result<GpuSettings, String> {
    let settings: GpuSettings = toml::from_str(text).map_err(|e| e.to_string())?;
    settings.validate().map_err(|e| e.to_string())?;
    Ok(settings)
}

/// behaviour: gpu-19
#[test]
fn the_defaults() {
    let settings = parsed("").unwrap();
    assert_eq!(settings, GpuSettings::default());
    let limits = &settings.limits;
    assert_eq!(
        [
            limits.temperature_warning,
            limits.temperature_critical,
            limits.temperature_emergency,
        ],
        [80.0, 90.0, 95.0]
    );
    assert_eq!(
        [limits.memory_warning, limits.memory_critical],
        [90.0, 95.0]
    );
    assert_eq!([limits.power_warning, limits.power_limit], [95.0, 100.0]);
    assert_eq!(settings.interval().as_secs(), 5);
    assert_eq!(settings.history, 100);
    let text = toml::to_string(&settings).unwrap();
    assert_eq!(parsed(&text).unwrap(), settings);
}

#[test]
fn single_gpus_have_limits_of_their_own() {
    let settings = parsed(
        "interval_seconds = 1\n\
         [limits]\nmemory_warning = 85\n\
         [override.1]\ntemperature_warning = 70\npower_warning = 80\n\
         [override.gpu-AA]\ntemperature_warning = 60.5\n",
    )
    .unwrap();
    let at = |index, uuid| settings.limits_of(index, uuid);
    assert_eq!(at(0, None).temperature_warning, 80.0);
    assert_eq!(at(1, Some("GPU-bb")).temperature_warning, 70.0);
    assert_eq!(at(1, Some("GPU-bb")).memory_warning, 85.0);
    assert_eq!(at(1, Some("GPU-aa")).temperature_warning, 60.5);
    assert_eq!(at(1, Some("GPU-aa")).power_warning, 80.0);
    assert_eq!(at(0, Some("GPU-aa")).temperature_warning, 60.5);
}

#[test]
fn what_makes_no_sense_is_refused_by_its_key() {
    for (text, expected) in [
        (
            "[limits]\ntemperature_warning = 90",
            "limits.temperature_warning: 90 is not below temperature_critical 90",
        ),
        (
            "[limits]\ntemperature_emergency = 89",
            "limits.temperature_critical: 90 is not below temperature_emergency 89",
        ),
        (
            "[limits]\nmemory_critical = nan",
            "limits.memory_critical: NaN is not within 1 and 1000",
        ),
        (
            "[limits]\ntemperature_hysteresis = -1",
            "limits.temperature_hysteresis: -1 is not within 0 and 50",
        ),
        (
            "[override.0]\npower_limit = 90",
            "override.0.power_warning: 95 is not below power_limit 90",
        ),
        ("[override.first]\n", "override.first: is neither an index"),
        ("interval_seconds = 0", "interval_seconds: 0 is not within"),
        (
            "timeout_seconds = inf",
            "timeout_seconds: inf is not within",
        ),
        ("give_up_seconds = -3", "give_up_seconds: -3 is not within"),
        ("history = 0", "history: 0 is not within 1 and 100000"),
        ("blind_after = 0", "blind_after: 0 looks"),
    ] {
        let error = parsed(text).unwrap_err();
        assert!(
            error.starts_with(Code::ConfigInvalid.as_str()) && error.contains(expected),
            "{text}: {error}"
        );
        assert!(!error.contains('\n'));
    }
    for text in [
        "intervall_seconds = 5",
        "[limits]\ntemperature = 5",
        "[override.0]\ntemperature_wraning = 5",
    ] {
        assert!(
            parsed(text).unwrap_err().contains("unknown field"),
            "{text}"
        );
    }
}

#[test]
fn the_time_out_is_at_most_one_interval() {
    let settings = parsed("interval_seconds = 0.5").unwrap();
    assert_eq!(settings.timeout(), settings.interval());
}

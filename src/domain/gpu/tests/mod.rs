//! Traces of readings, and exactly what is said about them.

mod health;
mod settings;
mod traces;

use super::*;

/// A GPU that is told readings.
struct Trace {
    watch: Watch,
    limits: Thresholds,
    at: u64,
}

impl Trace {
    fn new(limits: Thresholds) -> Self {
        limits.validate().unwrap();
        Self {
            watch: Watch::new(Reading::default()),
            limits,
            at: 0,
        }
    }

    fn see(&mut self, look: Observation) -> Vec<Notice> {
        let notices = self.watch.step(look, &self.limits, 3);
        assert_eq!(notices[0].fact.kind(), "gpu_status", "the status is first");
        notices
    }

    fn read(&mut self, reading: Reading) -> Vec<Notice> {
        self.at += 5000;
        let reading = Reading {
            timestamp_ms: self.at,
            ..reading
        };
        self.see(Observation::Read(Box::new(reading), Health::default()))
    }

    fn temperature(&mut self, temperature_c: impl Into<Option<f64>>) -> Vec<Notice> {
        self.read(Reading {
            temperature_c: temperature_c.into(),
            ..Reading::default()
        })
    }
}

fn defaults() -> Trace {
    Trace::new(Thresholds::default())
}

/// What was said besides the status, in words: kinds, and actions where there are any.
fn said(notices: &[Notice]) -> Vec<String> {
    notices
        .iter()
        .filter(|n| !n.is_lossy())
        .map(|n| match n.action {
            Action::None => n.fact.kind().to_owned(),
            action => format!("{} {action:?}", n.fact.kind()),
        })
        .collect()
}

fn memory(used: u64, temperature_c: impl Into<Option<f64>>) -> Reading {
    Reading {
        temperature_c: temperature_c.into(),
        memory_total: Some(1000),
        memory_used: Some(used),
        memory_free: Some(1000 - used),
        ..Reading::default()
    }
}

fn power(draw: f64, temperature_c: f64) -> Reading {
    Reading {
        temperature_c: Some(temperature_c),
        power_draw_w: Some(draw),
        power_limit_w: Some(100.0),
        ..Reading::default()
    }
}

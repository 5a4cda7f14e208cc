//! GPUs, as the control socket shows them.

use crate::domain::RunId;
use crate::domain::gpu::{Condition, Driver, GpuStatus};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether anybody looks after the GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Watching {
    /// Yes.
    On,
    /// Somebody paused the monitor: it looks, and neither tells nor acts.
    Paused,
    /// `gpus.monitor` is false.
    #[default]
    Off,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuView {
    /// What was seen at the last look.
    #[serde(flatten)]
    pub status: GpuStatus,
    /// The runs that were given it.
    pub runs: Vec<RunId>,
    /// Why no further run is given it; null where it may be.
    pub drained: Option<String>,
    /// °C from which on its runs pause because one of them asked for less than the host
    /// allows.
    pub max_temperature: Option<f64>,
}

/// `GET /v1/gpus`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpusView {
    /// Whether they are looked after.
    pub watching: Watching,
    /// Where the driver stands.
    pub driver: Driver,
    /// Each GPU that the driver told of since the daemon began.
    pub gpus: Vec<GpuView>,
    /// Threads that hang in the driver and were given up.
    pub given_up_threads: usize,
    /// Answers that came too late to count.
    pub late_answers: u64,
    /// Statuses that were replaced by newer ones before they could be told.
    pub coalesced: u64,
    /// Notices that could not be told.
    pub lost: u64,
}

/// GPUs at a glance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuSummary {
    /// How many there are, as far as is known.
    pub count: usize,
    /// Whether somebody looks after them and acts. False where there is none.
    pub protected: bool,
    /// The worst condition.
    pub worst: Option<Condition>,
    /// One line.
    pub line: String,
}

impl GpusView {
    /// At a glance.
    pub fn summary(&self) -> GpuSummary {
        let worst = self.gpus.iter().map(|gpu| gpu.status.condition).max();
        GpuSummary {
            count: self.gpus.len(),
            protected: self.watching == Watching::On && !self.gpus.is_empty(),
            worst,
            line: self.line(),
        }
    }

    /// What a person has to know first.
    fn line(&self) -> String {
        let unprotected = match self.watching {
            Watching::On => None,
            Watching::Paused => Some("the monitor is paused: no thermal protection is active"),
            Watching::Off => Some("not watched: no thermal protection is active"),
        };
        if self.gpus.is_empty() {
            return match (&self.driver, unprotected) {
                (_, Some(why)) => why.to_owned(),
                (Driver::Starting | Driver::Ready { .. }, None) => "not seen yet".to_owned(),
                (Driver::None { reason }, None) => format!("none ({reason})"),
                (Driver::Hung { reason }, None) => format!("unknown: {reason}"),
            };
        }
        let mut parts: Vec<String> = self.gpus.iter().map(GpuView::at_a_glance).collect();
        parts.extend(unprotected.map(str::to_owned));
        parts.join(", ")
    }
}

impl GpuView {
    fn at_a_glance(&self) -> String {
        let status = &self.status;
        let mut text = format!("{} {}", status.reading.index, status.condition);
        if let Some(temperature) = status.reading.temperature_c {
            text += &format!(" {temperature} °C");
        }
        for (holds, word) in [
            (!status.available, " unavailable"),
            (status.stale, " (stale)"),
            (self.drained.is_some(), " (drained)"),
        ] {
            if holds {
                text += word;
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::gpu::Reading;

    fn view(watching: Watching, driver: Driver, gpus: Vec<GpuView>) -> GpusView {
        GpusView {
            watching,
            driver,
            gpus,
            given_up_threads: 0,
            late_answers: 0,
            coalesced: 0,
            lost: 0,
        }
    }

    fn gpu(index: u32, condition: Condition, temperature_c: Option<f64>) -> GpuView {
        GpuView {
            status: GpuStatus {
                available: true,
                condition,
                reading: Reading {
                    index,
                    temperature_c,
                    ..Reading::default()
                },
                ..GpuStatus::default()
            },
            runs: Vec::new(),
            drained: None,
            max_temperature: None,
        }
    }

    #[test]
    fn a_line_says_what_is_known_and_whether_anything_protects() {
        let none = Driver::None {
            reason: "no driver".into(),
        };
        let ready = Driver::Ready {
            version: None,
            gpus: 2,
        };
        let mut lost = gpu(1, Condition::Unknown, None);
        lost.status.available = false;
        lost.drained = Some("XID 79".into());
        let both = vec![gpu(0, Condition::Critical, Some(91.0)), lost];
        for (watching, driver, gpus, line, protected) in [
            (
                Watching::On,
                none.clone(),
                vec![],
                "none (no driver)",
                false,
            ),
            (
                Watching::Off,
                none,
                vec![],
                "not watched: no thermal protection is active",
                false,
            ),
            (
                Watching::On,
                ready.clone(),
                both.clone(),
                "0 critical 91 °C, 1 unknown unavailable (drained)",
                true,
            ),
            (
                Watching::Paused,
                ready,
                vec![both[0].clone()],
                "0 critical 91 °C, the monitor is paused: no thermal protection is active",
                false,
            ),
        ] {
            let summary = view(watching, driver, gpus).summary();
            assert_eq!(
                (summary.line.as_str(), summary.protected),
                (line, protected)
            );
        }
    }
}

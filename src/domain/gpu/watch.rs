//! The state machine of one GPU.

use super::health::new_errors;
use super::metric::{Limit, Metric, Scale, round};
use super::{
    Action, Condition, GpuFact, GpuName, GpuStatus, Health, Hold, Notice, Reading, Thresholds,
};
use std::collections::BTreeSet;

/// What came of one look at a GPU.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// The driver answered. Single values may be unknown.
    Read(Box<Reading>, Health),
    /// The driver answered that it cannot reach the GPU.
    Lost {
        /// Why, in one line.
        reason: String,
        /// When it said so.
        timestamp_ms: u64,
    },
    /// The driver did not answer: the numbers of the last look are shown, as stale.
    Silent {
        /// Why, in one line.
        reason: String,
    },
}

/// What is known of one GPU between two looks.
#[derive(Clone, Debug)]
pub struct Watch {
    latest: GpuStatus,
    temperature: Metric,
    memory: Metric,
    power: Metric,
    health: Health,
    /// The condition that listeners were last told of.
    told: Condition,
    /// Looks in a row without a temperature.
    unseen: u32,
}

impl Watch {
    /// A GPU of which only its identity is known.
    pub fn new(identity: Reading) -> Self {
        Self {
            latest: GpuStatus {
                reading: identity,
                ..GpuStatus::default()
            },
            temperature: Metric::default(),
            memory: Metric::default(),
            power: Metric::default(),
            health: Health::default(),
            told: Condition::Ok,
            unseen: 0,
        }
    }

    /// What was last seen.
    pub fn latest(&self) -> &GpuStatus {
        &self.latest
    }

    /// The one transition: what is to be said after a look, in order, the status first.
    /// `blind_after` looks without a temperature are called blindness.
    pub fn step(
        &mut self,
        look: Observation,
        limits: &Thresholds,
        blind_after: u32,
    ) -> Vec<Notice> {
        let (reading, health, trouble) = match look {
            Observation::Read(reading, health) => (*reading, health, None),
            Observation::Lost {
                reason,
                timestamp_ms,
            } => {
                let nothing = self.latest.reading.nothing(timestamp_ms);
                (nothing, Health::default(), Some((reason, false)))
            }
            Observation::Silent { reason } => {
                let before = self.latest.reading.clone();
                (before, Health::default(), Some((reason, true)))
            }
        };
        let stale = trouble.as_ref().is_some_and(|(_, stale)| *stale);
        // Stale numbers are shown, but decide nothing.
        let fresh = |value: Option<f64>| value.filter(|_| !stale);
        let temperature = fresh(reading.temperature_c);
        let memory = fresh(reading.memory_percent());
        let temperatures = temperature_scale(limits, reading.shutdown_c);
        let memories = memory_scale(limits);
        let is_clear = temperatures.is_clear_of(Condition::Critical, temperature)
            && (!limits.memory_pauses || memories.is_clear_of(Condition::Critical, memory));
        let measures = [
            (&mut self.temperature, temperature, temperatures),
            (&mut self.memory, memory, memories),
            (
                &mut self.power,
                fresh(reading.power_percent()),
                power_scale(limits),
            ),
        ];
        let mut found = Vec::new();
        for (metric, value, scale) in measures {
            metric.step(value, &scale);
            if let Some(reason) = metric.reason(value, &scale) {
                found.push((metric.condition(), reason));
            }
        }
        let held = self.latest.hold;
        let hold = held.after(self.worst_that_holds(limits), is_clear);
        // Stable: measures of one condition keep the order above.
        found.sort_by_key(|(condition, _)| std::cmp::Reverse(*condition));
        let condition = match found.first() {
            Some((worst, _)) => *worst,
            None if temperature.is_none() => Condition::Unknown,
            None => Condition::Ok,
        };
        let mut reasons: Vec<String> = found.into_iter().map(|(_, reason)| reason).collect();
        match &trouble {
            Some((reason, _)) => reasons.push(reason.clone()),
            None if condition == Condition::Unknown => reasons.push("temperature unknown".into()),
            None => {}
        }
        self.latest = GpuStatus {
            available: match &trouble {
                None => true,
                Some((_, stale)) => *stale && self.latest.available,
            },
            stale,
            memory_percent: reading.memory_percent(),
            power_percent: reading.power_percent(),
            condition,
            hold,
            reasons,
            reading,
        };
        let why = trouble.map_or_else(|| "temperature unknown".into(), |(reason, _)| reason);
        let action = held.action(hold);
        self.tell(action, blind_after, temperature.is_some(), &why, &health)
    }

    fn tell(
        &mut self,
        action: Action,
        blind_after: u32,
        seen: bool,
        why: &str,
        health: &Health,
    ) -> Vec<Notice> {
        let status = || Box::new(self.latest.clone());
        let mut notices = vec![Notice::only(GpuFact::GpuStatus { status: status() })];
        let condition = self.latest.condition;
        if condition != Condition::Unknown && condition != self.told {
            notices.push(Notice::only(match condition {
                _ if condition < self.told => GpuFact::GpuRecovered {
                    from: self.told,
                    status: status(),
                },
                Condition::Emergency => GpuFact::GpuEmergency { status: status() },
                Condition::Critical => GpuFact::GpuCritical { status: status() },
                _ => GpuFact::GpuWarning { status: status() },
            }));
            self.told = condition;
        }
        // An action goes with the change of condition that caused it; where the runs are
        // held for less than the condition says, with the status.
        if let Some(last) = notices.last_mut() {
            last.action = action;
        }
        if seen {
            if self.unseen >= blind_after {
                notices.push(Notice::only(GpuFact::MonitoringRestored {
                    status: Box::new(self.latest.clone()),
                }));
            }
            self.unseen = 0;
        } else {
            self.unseen = self.unseen.saturating_add(1);
            if self.unseen == blind_after {
                notices.push(Notice::only(GpuFact::MonitoringBlind {
                    reason: format!("{why}, {} looks in a row", self.unseen),
                    status: Box::new(self.latest.clone()),
                }));
            }
        }
        notices.extend(self.health_changes(health).map(Notice::only));
        self.health = self.health.updated(health);
        let last = notices.len() - 1;
        notices[..last].iter_mut().for_each(|n| n.more = true);
        notices
    }

    /// The condition that decides over the runs. Power does not; memory where it may.
    fn worst_that_holds(&self, limits: &Thresholds) -> Condition {
        let memory = Some(self.memory.condition()).filter(|_| limits.memory_pauses);
        let temperature = self.temperature.condition();
        memory.map_or(temperature, |memory| memory.max(temperature))
    }

    fn health_changes(&self, now: &Health) -> impl Iterator<Item = GpuFact> + use<> {
        let gpu = GpuName::from(&self.latest.reading);
        let corrected = new_errors(self.health.ecc_corrected, now.ecc_corrected);
        let uncorrected = new_errors(self.health.ecc_uncorrected, now.ecc_uncorrected);
        let ecc = (corrected > 0 || uncorrected > 0).then(|| GpuFact::GpuEcc {
            gpu: gpu.clone(),
            corrected,
            uncorrected,
        });
        let none = BTreeSet::new();
        let before = self.health.throttle.as_ref().unwrap_or(&none);
        let throttle = now
            .throttle
            .as_ref()
            .filter(|now| *now != before)
            .map(|now| GpuFact::GpuThrottle {
                gpu,
                started: now.difference(before).copied().collect(),
                ended: before.difference(now).copied().collect(),
            });
        ecc.into_iter().chain(throttle)
    }
}

impl Hold {
    /// What follows from the worst condition of those that count. Who just began to look
    /// does not know whether somebody else paused runs here: only a measure that is well
    /// clear of its limit says that they may go on.
    fn after(self, worst: Condition, is_clear: bool) -> Hold {
        match worst {
            Condition::Emergency => Hold::Abort,
            Condition::Critical => Hold::Pause,
            _ if self == Hold::Unknown && !is_clear => Hold::Unknown,
            _ => Hold::Run,
        }
    }

    /// What going from one to the other means for the runs.
    fn action(self, next: Hold) -> Action {
        match (self, next) {
            (Hold::Unknown | Hold::Run, Hold::Pause) => Action::Pause,
            (Hold::Unknown | Hold::Run | Hold::Pause, Hold::Abort) => Action::AbortWithCheckpoint,
            (Hold::Pause | Hold::Abort, Hold::Run) => Action::Resume,
            // After an abort there is nothing left to pause; should a run have slipped in,
            // the next emergency ends it again.
            (Hold::Abort, Hold::Pause) => Action::None,
            (_, Hold::Unknown) | (Hold::Unknown, Hold::Run) => Action::None,
            (Hold::Run, Hold::Run) | (Hold::Pause, Hold::Pause) | (Hold::Abort, Hold::Abort) => {
                Action::None
            }
        }
    }
}

/// The card's own shutdown temperature may bring the emergency nearer; the softer limits
/// then give way, so that their order stays.
fn temperature_scale(limits: &Thresholds, shutdown_c: Option<f64>) -> Scale {
    let own = limits.temperature_emergency;
    let emergency = match shutdown_c {
        Some(shutdown) if shutdown - limits.shutdown_margin < own => {
            Limit::new(Condition::Emergency, shutdown - limits.shutdown_margin).note(format!(
                "{} °C below the card's shutdown at {} °C",
                round(limits.shutdown_margin),
                round(shutdown)
            ))
        }
        _ => Limit::new(Condition::Emergency, own),
    };
    let critical = Limit::new(
        Condition::Critical,
        limits.temperature_critical.min(emergency.at),
    );
    let warning = Limit::new(
        Condition::Warning,
        limits.temperature_warning.min(critical.at),
    );
    Scale {
        name: "temperature",
        unit: " °C",
        limits: vec![emergency, critical, warning],
        hysteresis: limits.temperature_hysteresis,
    }
}

fn memory_scale(limits: &Thresholds) -> Scale {
    Scale {
        name: "memory",
        unit: " %",
        limits: vec![
            Limit::new(Condition::Critical, limits.memory_critical),
            Limit::new(Condition::Warning, limits.memory_warning),
        ],
        hysteresis: limits.memory_hysteresis,
    }
}

fn power_scale(limits: &Thresholds) -> Scale {
    Scale {
        name: "power",
        unit: " %",
        limits: vec![
            Limit::new(Condition::Warning, limits.power_limit).note("the card's power limit"),
            Limit::new(Condition::Warning, limits.power_warning),
        ],
        hysteresis: limits.power_hysteresis,
    }
}

//! One measure against its limits, with hysteresis.

use super::Condition;

/// From which value on a measure is in which condition.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Limit {
    pub condition: Condition,
    pub at: f64,
    /// What the limit is, where a number alone does not say it. May be empty.
    pub note: String,
}

impl Limit {
    pub fn new(condition: Condition, at: f64) -> Self {
        Self {
            condition,
            at,
            note: String::new(),
        }
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

/// A measure's limits at one look.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    pub name: &'static str,
    pub unit: &'static str,
    /// The hardest first.
    pub limits: Vec<Limit>,
    pub hysteresis: f64,
}

impl Scale {
    /// Whether a value is so far below the limit of `condition` that it would end even one
    /// that had held before anybody looked.
    pub fn is_clear_of(&self, condition: Condition, value: Option<f64>) -> bool {
        let mut limits = self.limits.iter().filter(|l| l.condition >= condition);
        value.is_some_and(|value| limits.all(|limit| value < limit.at - self.hysteresis))
    }
}

/// A measure's memory between looks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Metric {
    condition: Condition,
    /// The last value that was known.
    last: Option<f64>,
}

impl Metric {
    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// The one transition: up as soon as a limit is reached, down only below the limit
    /// minus the hysteresis, and nowhere on an unknown value.
    pub fn step(&mut self, value: Option<f64>, scale: &Scale) {
        let Some(value) = value else { return };
        let was = self.condition;
        self.last = Some(value);
        self.condition = scale
            .limits
            .iter()
            .find(|limit| {
                let held = limit.condition <= was && value >= limit.at - scale.hysteresis;
                value >= limit.at || held
            })
            .map_or(Condition::Ok, |limit| limit.condition);
    }

    /// Why the measure is not in order, with value and limit; nothing where it is.
    pub fn reason(&self, value: Option<f64>, scale: &Scale) -> Option<String> {
        if self.condition < Condition::Warning {
            return None;
        }
        let last = self.last?;
        // Of several limits with this condition the hardest that was reached; where the
        // value only lingers, the softest.
        let mut own = scale
            .limits
            .iter()
            .filter(|l| l.condition == self.condition);
        let limit = own
            .clone()
            .find(|l| last >= l.at)
            .or_else(|| own.next_back())?;
        let Scale { name, unit, .. } = scale;
        let until = format!(
            "{} until below {}{unit}",
            self.condition,
            round(limit.at - scale.hysteresis)
        );
        let (at, last) = (round(limit.at), round(last));
        let note = match limit.note.as_str() {
            "" => String::new(),
            note => format!(", {note}"),
        };
        Some(match value {
            None => format!(
                "{name} unknown, last {last}{unit}, {until} ({} limit {at}{unit}{note})",
                self.condition
            ),
            Some(value) if value >= limit.at => {
                format!(
                    "{name} {last}{unit} ≥ {} limit {at}{unit}{note}",
                    self.condition
                )
            }
            Some(_) => format!("{name} {last}{unit}, {until} (limit {at}{unit}{note})"),
        })
    }
}

/// At most one decimal place, and none where it would be 0.
pub(super) fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

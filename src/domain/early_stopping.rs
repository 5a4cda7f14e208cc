//! Early stopping: whether what is measured again and again still becomes better.
//!
//! It serves one run, measured at its validations, and a sweep, measured at its runs. A
//! value that is not known or not finite is passed over: it is neither the best one nor a
//! reason to stop.

use super::measure::{Measure, Mode};
use super::{Code, Error, Result};
use serde::{Deserialize, Serialize};

/// The `[early_stopping]` table of `run.toml` and `sweep.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// What is measured.
    pub metric: Measure,
    /// Which way is better; by default the measure's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Measurements in a row that may be no better than the best one; the last of them
    /// stops.
    #[serde(default = "default_patience")]
    pub patience: u64,
    /// What is better by no more than this is no better.
    #[serde(default)]
    pub min_delta: f64,
}

fn default_patience() -> u64 {
    3
}

impl EarlyStopping {
    /// Whether the table can be used.
    ///
    /// # Errors
    /// `config-invalid` about the key.
    pub fn validate(&self) -> Result<()> {
        let bad = |key: &str, message: String| Err(Error::new(Code::ConfigInvalid, key, message));
        if self.patience == 0 {
            return bad("patience", "0 would stop at once: give at least 1".into());
        }
        if !(self.min_delta.is_finite() && self.min_delta >= 0.0) {
            return bad("min_delta", format!("{} is not 0 or above", self.min_delta));
        }
        Ok(())
    }

    /// Which way is better.
    pub fn mode(&self) -> Mode {
        self.mode.unwrap_or(self.metric.mode())
    }
}

/// What was measured so far. Part of a checkpoint, so that a run that goes on stops where
/// it would have stopped.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stopper {
    metric: Measure,
    mode: Mode,
    best: Option<Best>,
    /// Measurements since the best one.
    stale: u64,
}

/// The best value so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Finite.
    pub value: f64,
    /// The step, or the run, of which it is.
    pub at: u64,
}

impl Stopper {
    /// Nothing is measured yet.
    pub fn new(rule: &EarlyStopping) -> Self {
        Self {
            metric: rule.metric,
            mode: rule.mode(),
            best: None,
            stale: 0,
        }
    }

    /// Goes on from `saved`, unless that was about another measure.
    pub fn resume(saved: Option<Stopper>, rule: &EarlyStopping) -> Self {
        let new = Self::new(rule);
        saved
            .filter(|saved| (saved.metric, saved.mode) == (new.metric, new.mode))
            .unwrap_or(new)
    }

    /// Takes in what was measured at `at`.
    pub fn observe(&mut self, rule: &EarlyStopping, at: u64, value: Option<f64>) {
        let Some(value) = value.filter(|value| value.is_finite()) else {
            return;
        };
        let better = self
            .best
            .is_none_or(|best| self.mode.gain(value, best.value) > rule.min_delta);
        if better {
            self.best = Some(Best { value, at });
            self.stale = 0;
        } else {
            self.stale += 1;
        }
    }

    /// Whether to stop.
    pub fn is_spent(&self, rule: &EarlyStopping) -> bool {
        self.stale >= rule.patience
    }

    /// The best value so far.
    pub fn best(&self) -> Option<Best> {
        self.best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(mode: Mode, patience: u64, min_delta: f64) -> EarlyStopping {
        EarlyStopping {
            metric: Measure::CeSae,
            mode: Some(mode),
            patience,
            min_delta,
        }
    }

    /// Where a series stops, and the best value by then.
    fn run(rule: &EarlyStopping, values: &[f64]) -> (Option<usize>, Option<Best>) {
        let mut stopper = Stopper::new(rule);
        for (index, value) in values.iter().enumerate() {
            stopper.observe(rule, index as u64, Some(*value));
            // What a checkpoint keeps is all there is to it.
            let text = serde_json::to_string(&stopper).unwrap();
            stopper = Stopper::resume(serde_json::from_str(&text).unwrap(), rule);
            if stopper.is_spent(rule) {
                return (Some(index), stopper.best());
            }
        }
        (None, stopper.best())
    }

    /// behaviour: multi-16
    #[test]
    fn it_stops_after_patience_measurements_without_an_improvement() {
        const NAN: f64 = f64::NAN;
        const INF: f64 = f64::INFINITY;
        use Mode::{Max, Min};
        type Case<'a> = (Mode, u64, f64, &'a [f64], Option<usize>, Option<(f64, u64)>);
        let cases: &[Case<'_>] = &[
            (Min, 2, 0.0, &[3.0, 2.0, 1.0, 0.0], None, Some((0.0, 3))),
            (Min, 2, 0.0, &[3.0, 2.0, 2.0, 2.5], Some(3), Some((2.0, 1))),
            (Max, 1, 0.0, &[0.5, 0.6, 0.6], Some(2), Some((0.6, 1))),
            (
                Max,
                2,
                0.0,
                &[0.5, 0.4, 0.6, 0.5, 0.5],
                Some(4),
                Some((0.6, 2)),
            ),
            // An improvement of exactly the minimum is none.
            (Max, 2, 0.5, &[1.0, 1.5, 1.5], Some(2), Some((1.0, 0))),
            (Max, 2, 0.5, &[1.0, 1.5, 2.0, 2.0], None, Some((2.0, 2))),
            // Creeping up by less than the minimum each time adds up.
            (Min, 3, 1.0, &[9.0, 8.5, 8.0, 7.5], None, Some((7.5, 3))),
            // What is not finite changes nothing, whichever way is better.
            (
                Min,
                2,
                0.0,
                &[NAN, 2.0, -INF, NAN, 1.0],
                None,
                Some((1.0, 4)),
            ),
            (
                Max,
                2,
                0.0,
                &[INF, 2.0, NAN, 1.0, INF, 1.0],
                Some(5),
                Some((2.0, 1)),
            ),
            (Max, 1, 0.0, &[NAN, NAN], None, None),
        ];
        for (mode, patience, min_delta, values, stops, best) in cases {
            let rule = rule(*mode, *patience, *min_delta);
            let best = best.map(|(value, at)| Best { value, at });
            assert_eq!(run(&rule, values), (*stops, best), "{rule:?} {values:?}");
        }
    }

    #[test]
    fn another_measure_starts_anew_and_more_patience_goes_on() {
        let first = rule(Mode::Min, 1, 0.0);
        let mut stopper = Stopper::new(&first);
        for value in [1.0, 2.0] {
            stopper.observe(&first, 0, Some(value));
        }
        assert!(stopper.is_spent(&first));
        let patient = rule(Mode::Min, 2, 0.0);
        assert!(!Stopper::resume(Some(stopper), &patient).is_spent(&patient));
        let other = rule(Mode::Max, 1, 0.0);
        assert_eq!(Stopper::resume(Some(stopper), &other).best(), None);
    }

    #[test]
    fn impossible_rules_name_their_key() {
        let error = |rule: EarlyStopping| rule.validate().unwrap_err().about;
        assert_eq!(error(rule(Mode::Min, 0, 0.0)), "patience");
        assert_eq!(error(rule(Mode::Min, 1, -0.1)), "min_delta");
        assert_eq!(error(rule(Mode::Min, 1, f64::NAN)), "min_delta");
    }
}

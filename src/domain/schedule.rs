//! What changes over the steps of a run: learning rate, sparsity coefficient, k.
//!
//! All are pure functions of the step, so a resumed run needs no scheduler state. Steps
//! count from 0 here.

use super::{Code, Error, Result};
use serde::{Deserialize, Serialize};

/// Course of the learning rate between warm-up and final decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrShape {
    /// Stays at 1.
    #[default]
    Constant,
    /// Falls linearly to `lr_end`.
    Linear,
    /// Falls to `lr_end` along half a cosine.
    Cosine,
}

/// The `[schedule]` table of `run.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Course of the learning rate.
    pub lr: LrShape,
    /// Steps over which the learning rate rises linearly from 0.
    pub lr_warm_up: u64,
    /// Last steps, over which the learning rate falls linearly to 0.
    pub lr_decay: u64,
    /// Where `linear` and `cosine` end, as a share of the learning rate.
    pub lr_end: f64,
    /// Steps over which the sparsity coefficient (L1 or L0) rises linearly from 0.
    pub sparsity_warm_up: u64,
    /// k of the first step; it goes linearly to the SAE's `k`. TopK variants only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k_start: Option<f64>,
    /// Steps over which k changes.
    pub k_anneal: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            lr: LrShape::Constant,
            lr_warm_up: 0,
            lr_decay: 0,
            lr_end: 0.1,
            sparsity_warm_up: 0,
            k_start: None,
            k_anneal: 0,
        }
    }
}

/// What is in force at one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSettings {
    /// Learning rate.
    pub lr: f64,
    /// Factor of the sparsity coefficient, 0 … 1.
    pub sparsity: f64,
    /// k of TopK variants, where it differs from the SAE's own.
    pub k: Option<f64>,
}

impl Schedule {
    /// Whether the schedule fits a run of `steps` steps.
    ///
    /// # Errors
    /// `config-invalid` about the key.
    pub fn validate(&self, steps: u64) -> Result<()> {
        let bad = |key: &str, message: String| Err(Error::new(Code::ConfigInvalid, key, message));
        if !(0.0..=1.0).contains(&self.lr_end) {
            return bad("lr_end", format!("{} is not within 0 and 1", self.lr_end));
        }
        if self.lr_warm_up.saturating_add(self.lr_decay) > steps {
            return bad(
                "lr_warm_up",
                format!(
                    "lr_warm_up {} and lr_decay {} together exceed the run's {steps} steps",
                    self.lr_warm_up, self.lr_decay
                ),
            );
        }
        match self.k_start {
            Some(k) if !(k.is_finite() && k >= 1.0) => {
                bad("k_start", format!("{k} is not a number of at least 1"))
            }
            Some(_) if self.k_anneal == 0 => {
                bad("k_anneal", "0 steps, but k_start is set".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// The settings of `step` in a run of `steps`, with the learning rate `lr` and the
    /// final `k` of the SAE.
    pub fn at(&self, step: u64, steps: u64, lr: f64, k: Option<f64>) -> StepSettings {
        StepSettings {
            lr: lr * self.lr_factor(step, steps),
            sparsity: ramp(step, self.sparsity_warm_up),
            k: self.k_start.zip(k).map(|(start, end)| {
                if step >= self.k_anneal {
                    end
                } else {
                    start + (end - start) * step as f64 / self.k_anneal as f64
                }
            }),
        }
    }

    fn lr_factor(&self, step: u64, steps: u64) -> f64 {
        let decay_from = steps.saturating_sub(self.lr_decay);
        let course = |step: u64| {
            let length = decay_from.saturating_sub(self.lr_warm_up).max(1);
            let at = step.saturating_sub(self.lr_warm_up) as f64 / length as f64;
            match self.lr {
                LrShape::Constant => 1.0,
                LrShape::Linear => 1.0 - (1.0 - self.lr_end) * at,
                LrShape::Cosine => {
                    let fall = (1.0 + (std::f64::consts::PI * at).cos()) / 2.0;
                    self.lr_end + (1.0 - self.lr_end) * fall
                }
            }
        };
        if step < self.lr_warm_up {
            ramp(step, self.lr_warm_up)
        } else if step < decay_from {
            course(step)
        } else {
            let left = steps.saturating_sub(step) as f64 / self.lr_decay.max(1) as f64;
            course(decay_from) * left
        }
    }
}

/// 1/`steps`, 2/`steps`, … 1.
fn ramp(step: u64, steps: u64) -> f64 {
    if step >= steps {
        1.0
    } else {
        (step + 1) as f64 / steps as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(schedule: &Schedule, steps: u64) -> Vec<f64> {
        let at = |s| schedule.at(s, steps, 1.0, None).lr;
        (0..steps).map(at).collect()
    }

    /// behaviour: engine-12
    #[test]
    fn the_learning_rate_rises_holds_and_falls() {
        let constant = Schedule {
            lr_warm_up: 4,
            lr_decay: 2,
            ..Schedule::default()
        };
        let expected = [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5];
        assert_eq!(factors(&constant, 10), expected);

        let linear = Schedule {
            lr: LrShape::Linear,
            lr_end: 0.0,
            ..Schedule::default()
        };
        assert_eq!(factors(&linear, 4), [1.0, 0.75, 0.5, 0.25]);

        let cosine = Schedule {
            lr: LrShape::Cosine,
            lr_end: 0.2,
            lr_decay: 2,
            ..Schedule::default()
        };
        let got = factors(&cosine, 6);
        let expected = [1.0, 0.88284, 0.6, 0.31716, 0.2, 0.1];
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-5, "{got} {expected}");
        }
    }

    #[test]
    fn sparsity_warms_up_and_k_anneals_to_the_final_value() {
        let schedule = Schedule {
            sparsity_warm_up: 4,
            k_start: Some(100.0),
            k_anneal: 3,
            ..Schedule::default()
        };
        let at = |step| schedule.at(step, 10, 1e-3, Some(40.0));
        let sparsity: Vec<_> = (0..6).map(|s| at(s).sparsity).collect();
        assert_eq!(sparsity, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
        let k: Vec<_> = (0..5).map(|s| at(s).k.unwrap()).collect();
        assert_eq!(k, [100.0, 80.0, 60.0, 40.0, 40.0]);
        assert_eq!(at(9).lr, 1e-3);
    }

    #[test]
    fn impossible_schedules_name_their_key() {
        let too_long = Schedule {
            lr_warm_up: 8,
            lr_decay: 3,
            ..Schedule::default()
        };
        let error = too_long.validate(10).unwrap_err();
        assert_eq!(error.about, "lr_warm_up");
        assert!(error.message.contains("10 steps"), "{error}");
        let no_anneal = Schedule {
            k_start: Some(64.0),
            ..Schedule::default()
        };
        assert_eq!(no_anneal.validate(10).unwrap_err().about, "k_anneal");
    }
}

//! Limits, and their overrides for single GPUs.

use super::super::{Code, Error, Result};
use serde::{Deserialize, Serialize};

macro_rules! thresholds {
    ($($(#[$doc:meta])* $key:ident: $kind:ty = $default:expr;)*) => {
        /// The limits of one GPU: `[gpus.limits]` of `daemon.toml`. Temperatures in °C,
        /// memory and power in percent.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Thresholds { $($(#[$doc])* pub $key: $kind,)* }

        impl Default for Thresholds {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }

        /// What differs for one GPU: `[gpus.override.<index or uuid>]`.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct LimitOverrides {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $key: Option<$kind>,)*
        }

        impl Thresholds {
            /// These limits with `overrides` in the place of what they name.
            #[must_use]
            pub fn with(&self, overrides: &LimitOverrides) -> Self {
                Self { $($key: overrides.$key.unwrap_or(self.$key),)* }
            }
        }
    };
}

thresholds! {
    /// A warning from here.
    temperature_warning: f64 = 80.0;
    /// Runs pause from here.
    temperature_critical: f64 = 90.0;
    /// Runs end, with a checkpoint, from here.
    temperature_emergency: f64 = 95.0;
    /// … and from this many °C below the card's own shutdown temperature.
    shutdown_margin: f64 = 3.0;
    /// How far below a limit the temperature must fall for the condition to end.
    temperature_hysteresis: f64 = 5.0;
    /// A warning from this share of the memory.
    memory_warning: f64 = 90.0;
    /// Critical from this share of the memory.
    memory_critical: f64 = 95.0;
    /// How far below a limit the memory must fall for the condition to end.
    memory_hysteresis: f64 = 2.0;
    /// Whether critical memory pauses runs, too. A paused run keeps its memory, so only
    /// another process can end such a pause.
    memory_pauses: bool = false;
    /// A warning from this share of the power limit.
    power_warning: f64 = 95.0;
    /// At the power limit: a warning of its own wording.
    power_limit: f64 = 100.0;
    /// How far below a limit the power must fall for the condition to end.
    power_hysteresis: f64 = 5.0;
}

impl Thresholds {
    /// Whether the limits make sense together.
    ///
    /// # Errors
    /// `config-invalid` about the key.
    pub fn validate(&self) -> Result<()> {
        let bad = |key: &str, message: String| Err(Error::new(Code::ConfigInvalid, key, message));
        let within = [
            ("temperature_warning", self.temperature_warning, 1.0, 150.0),
            (
                "temperature_critical",
                self.temperature_critical,
                1.0,
                150.0,
            ),
            (
                "temperature_emergency",
                self.temperature_emergency,
                1.0,
                150.0,
            ),
            ("shutdown_margin", self.shutdown_margin, 0.0, 50.0),
            (
                "temperature_hysteresis",
                self.temperature_hysteresis,
                0.0,
                50.0,
            ),
            ("memory_warning", self.memory_warning, 1.0, 1000.0),
            ("memory_critical", self.memory_critical, 1.0, 1000.0),
            ("memory_hysteresis", self.memory_hysteresis, 0.0, 50.0),
            ("power_warning", self.power_warning, 1.0, 1000.0),
            ("power_limit", self.power_limit, 1.0, 1000.0),
            ("power_hysteresis", self.power_hysteresis, 0.0, 50.0),
        ];
        for (key, value, low, high) in within {
            // NaN is within nothing.
            if !(low..=high).contains(&value) {
                return bad(key, format!("{value} is not within {low} and {high}"));
            }
        }
        let ordered = [
            (
                "temperature_warning",
                self.temperature_warning,
                "temperature_critical",
                self.temperature_critical,
            ),
            (
                "temperature_critical",
                self.temperature_critical,
                "temperature_emergency",
                self.temperature_emergency,
            ),
            (
                "memory_warning",
                self.memory_warning,
                "memory_critical",
                self.memory_critical,
            ),
            (
                "power_warning",
                self.power_warning,
                "power_limit",
                self.power_limit,
            ),
        ];
        for (key, low, above, high) in ordered {
            if low >= high {
                return bad(key, format!("{low} is not below {above} {high}"));
            }
        }
        Ok(())
    }

    /// These limits with runs pausing at `max_c` at the latest. It only ever lowers them:
    /// a run may be more careful than the host, not less.
    #[must_use]
    pub fn capped(mut self, max_c: f64) -> Self {
        if max_c < self.temperature_critical {
            self.temperature_critical = max_c;
            self.temperature_warning = self
                .temperature_warning
                .min(max_c - self.temperature_hysteresis);
        }
        self
    }
}

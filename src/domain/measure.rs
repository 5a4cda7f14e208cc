//! The measures by which one autoencoder, or one run, is better than another.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Smaller values are better.
    Min,
    /// Larger values are better.
    Max,
}

impl Mode {
    /// By how much `value` is better than `than`; negative where it is worse.
    pub fn gain(self, value: f64, than: f64) -> f64 {
        match self {
            Mode::Min => than - value,
            Mode::Max => value - than,
        }
    }
}

macro_rules! measures {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $mode:ident;)*) => {
        /// A measure of a run: a mean over its hook points.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Measure { $($(#[$doc])* $name,)* }

        impl Measure {
            /// Every measure.
            pub const ALL: &'static [Measure] = &[$(Measure::$name,)*];

            /// The measure as files and readers name it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Measure::$name => $text,)* }
            }

            /// Which way is better, where nobody says otherwise.
            pub const fn mode(self) -> Mode {
                match self { $(Measure::$name => Mode::$mode,)* }
            }
        }
    };
}

measures! {
    /// Share of the cross-entropy that the reconstruction recovers over zeros.
    CeRecovered = "ce_recovered", Max;
    /// … over the mean activation.
    CeRecoveredMean = "ce_recovered_mean", Max;
    /// Cross-entropy of the model with the reconstruction in place.
    CeSae = "ce_sae", Min;
    /// 1 − FVU on held-out text.
    ExplainedVariance = "explained_variance", Max;
    /// Mean cosine of activation and reconstruction.
    Cosine = "cosine", Max;
    /// Active latents a token on held-out text.
    L0 = "l0", Min;
    /// Loss of the last training step.
    Loss = "loss", Min;
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_are_read() {
        for measure in Measure::ALL {
            let read: Measure = serde_json::from_value(measure.as_str().into()).unwrap();
            assert_eq!(read, *measure);
        }
    }
}

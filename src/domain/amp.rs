//! Automatic mixed precision: what a training step computes in fewer bits.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What the factors of the encoder's product, where nearly all the work is, and of other dense
/// products with codes are rounded to.
/// Sums, weights, gradients and Adam's moments stay in 32 bits whatever it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Amp {
    /// Nothing is rounded.
    #[default]
    Off,
    /// bfloat16, for a GPU's tensor cores.
    Bf16,
}

impl Amp {
    /// As settings have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Amp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Amp {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "off" => Ok(Self::Off),
            "bf16" => Ok(Self::Bf16),
            _ => Err(format!("there is no {name:?}; choose off or bf16")),
        }
    }
}

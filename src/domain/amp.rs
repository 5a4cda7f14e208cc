//! Automatic mixed precision: what a training step computes in fewer bits.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What is rounded to 16 bits: the factors of the encoder's product, where nearly all the work is, and
/// of other dense products with codes (in bf16, whichever it is), and the rows that gradients of the
/// weights are gathered from. Sums, weights, gradients of weights and Adam's moments stay in 32 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Amp {
    /// Nothing is rounded.
    #[default]
    Off,
    /// bfloat16, for a GPU's tensor cores.
    Bf16,
    /// IEEE half precision, for the same; the loss is scaled ([`super::loss_scale`]).
    Fp16,
}

impl Amp {
    /// As settings have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
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
            "fp16" => Ok(Self::Fp16),
            _ => Err(format!("there is no {name:?}; choose off, bf16 or fp16")),
        }
    }
}

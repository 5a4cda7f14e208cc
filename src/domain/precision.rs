//! How the weights of a language model are held.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How each weight matrix of a language model is held in memory. Sums are formed in 32 bits
/// whatever it is; norms, biases and learned positions stay in 32 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE binary32: exact for every format that models are stored in.
    #[default]
    F32,
    /// bfloat16: 8 bits of significand.
    Bf16,
    /// IEEE binary16: 11 bits of significand, up to 65504.
    F16,
    /// One byte a weight: symmetric, each [`Precision::group`] of weights with its scale.
    Int8,
    /// Half a byte a weight: symmetric, each [`Precision::group`] of weights with its scale.
    Int4,
}

impl Precision {
    /// All of them, the largest first.
    pub const ALL: [Self; 5] = [Self::F32, Self::Bf16, Self::F16, Self::Int8, Self::Int4];

    /// As settings have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// What is done to a matrix, for records.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::F32 => "binary32",
            Self::Bf16 => "bfloat16, rounded to nearest",
            Self::F16 => "binary16, rounded to nearest",
            Self::Int8 => "symmetric, absolute maximum of 64 inputs as 127, f32 scales",
            Self::Int4 => "symmetric, absolute maximum of 32 inputs as 7, f32 scales",
        }
    }

    /// Consecutive inputs of an output that share a scale; none where there are no scales.
    pub fn group(self) -> Option<usize> {
        match self {
            Self::F32 | Self::Bf16 | Self::F16 => None,
            Self::Int8 => Some(64),
            Self::Int4 => Some(32),
        }
    }

    /// Whether a GPU multiplies out of bf16, on tensor cores: decoded weights, and what they are
    /// multiplied with, are rounded to 8 bits of significand. Otherwise products are in f32.
    pub fn rounds_factors(self) -> bool {
        !matches!(self, Self::F32 | Self::F16)
    }

    /// Bytes that `weights` weights take, scales included, where rows are whole groups.
    pub fn bytes(self, weights: u128) -> u128 {
        let codes = match self {
            Self::F32 => weights * 4,
            Self::Bf16 | Self::F16 => weights * 2,
            Self::Int8 => weights,
            Self::Int4 => weights.div_ceil(2),
        };
        let scales = self
            .group()
            .map_or(0, |group| weights.div_ceil(group as u128));
        codes + scales * size_of::<f32>() as u128
    }

    /// The next one that takes less memory.
    pub fn smaller(self) -> Option<Self> {
        match self {
            Self::F32 => Some(Self::Bf16),
            Self::Bf16 | Self::F16 => Some(Self::Int8),
            Self::Int8 => Some(Self::Int4),
            Self::Int4 => None,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|p| p.name() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("is none of {names}")
        })
    }
}

//! The `[activations]` table of `run.toml`.

use super::Site;
use crate::domain::{Code, Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How activations are captured, shuffled and kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ActivationSettings {
    /// Batches that are shuffled together: a window holds as many rows of every hook point in
    /// memory.
    pub window_batches: usize,
    /// Contexts that go through the language model at once. It changes memory and speed and
    /// nothing else.
    pub lm_batch: usize,
    /// A folder where activations are kept, for runs to come on the same model and text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// How the cache stores them. Only `f32` trains the same SAE as live capture.
    pub cache_dtype: CacheDtype,
}

impl Default for ActivationSettings {
    fn default() -> Self {
        Self {
            window_batches: 16,
            lm_batch: 16,
            cache: None,
            cache_dtype: CacheDtype::F32,
        }
    }
}

/// How a cache stores activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheDtype {
    /// 4 bytes, exact.
    #[default]
    F32,
    /// 2 bytes, 11 bits of precision, at most 65,504.
    F16,
    /// 2 bytes, 8 bits of precision, the range of f32.
    Bf16,
}

impl CacheDtype {
    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

impl ActivationSettings {
    /// Checks the values on their own.
    ///
    /// # Errors
    /// `config-invalid`, about the key (`activations.…`).
    pub fn validate(&self) -> Result<()> {
        for (key, value) in [
            ("window_batches", self.window_batches),
            ("lm_batch", self.lm_batch),
        ] {
            if !(1..=1 << 20).contains(&value) {
                return Err(Error::new(
                    Code::ConfigInvalid,
                    format_args!("activations.{key}"),
                    format_args!("{value} is outside of 1 to {}", 1 << 20),
                ));
            }
        }
        Ok(())
    }

    /// Bytes of a window of every site, and of the order in which its rows leave.
    pub fn window_bytes(&self, sites: &[Site], batch: usize) -> u64 {
        let rows = (self.window_batches as u64).saturating_mul(batch as u64);
        let widths: u64 = sites.iter().map(|s| s.d_in as u64).sum();
        rows.saturating_mul(widths.saturating_add(1))
            .saturating_mul(4)
    }

    /// Bytes of the host through which the values of a site come from a device to a window that
    /// is not there.
    pub fn landing_bytes(&self, sites: &[Site], context_size: usize) -> u64 {
        let widest = sites.iter().map(|s| s.d_in as u64).max().unwrap_or(0);
        (self.lm_batch as u64)
            .saturating_mul(context_size as u64)
            .saturating_mul(widest)
            .saturating_mul(4)
    }

    /// Bytes on disk of a cache of `rows` rows.
    pub fn cache_bytes(&self, sites: &[Site], rows: u64) -> u64 {
        let widths: u64 = sites.iter().map(|s| s.d_in as u64).sum();
        rows.saturating_mul(widths)
            .saturating_mul(self.cache_dtype.bytes() as u64)
    }
}

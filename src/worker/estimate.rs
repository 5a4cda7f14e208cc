//! Bytes that a run will need, before anything large is taken.

use crate::config::RunConfig;
use crate::domain::{Code, Error, Result};
use crate::lm::LmSpec;
use crate::protocol::Fact;
use crate::sae::{SaeSpec, spec::Variant};
use crate::system::memory;
use std::collections::BTreeMap;

const REAL: u64 = size_of::<f32>() as u64;

/// The parts of the estimate.
pub struct Estimate {
    /// Bytes by name.
    pub parts: BTreeMap<String, u64>,
}

impl Estimate {
    /// The estimate for `config` on a model of `lm`, whose forward pass works on
    /// `capture_bytes`, with windows of `window_bytes`. What the process holds already is
    /// measured.
    pub fn new(config: &RunConfig, lm: &LmSpec, capture_bytes: u64, window_bytes: u64) -> Self {
        let d = lm.d_model as u64;
        let batch = config.training.batch_size as u64;
        let micro = match config.training.micro_batch_size as u64 {
            0 => batch,
            micro => micro.min(batch),
        };
        let sites = config.model.hooks.len() as u64;
        let parts = [
            ("program", memory::resident().unwrap_or(0)),
            ("language model", lm.weight_bytes() as u64),
            ("forward pass", capture_bytes),
            ("activations", window_bytes + sites * batch * d * REAL),
            (
                "autoencoder weights and moments",
                sites * weights(&config.sae, d),
            ),
            (
                "copies to save and to measure",
                sites * copies(&config.sae, d),
            ),
            (
                "autoencoder step",
                sites * step(&config.sae, d, batch, micro),
            ),
        ];
        Self {
            parts: parts.map(|(name, bytes)| (name.to_owned(), bytes)).into(),
        }
    }

    /// The sum.
    pub fn bytes(&self) -> u64 {
        self.parts.values().sum()
    }

    /// What a listener is told.
    pub fn fact(&self) -> Fact {
        Fact::Estimate {
            bytes: self.bytes(),
            parts: self.parts.clone(),
            available: memory::available(),
        }
    }

    /// Refuses a run that cannot fit: above `limit` MiB where given, else above what is
    /// free now and what the process holds already.
    ///
    /// # Errors
    /// `memory-estimate`, with the numbers.
    pub fn check(&self, limit: Option<u64>) -> Result<()> {
        let held = self.parts.get("program").copied().unwrap_or(0);
        let (allowed, whose) = match limit {
            Some(mib) => (mib << 20, "training.max_memory_mib allows"),
            None => match memory::available() {
                Some(bytes) => (bytes + held, "this machine has"),
                None => return Ok(()),
            },
        };
        if self.bytes() <= allowed {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let mut parts: Vec<_> = self.parts.iter().collect();
        parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
        let parts: Vec<String> = parts
            .iter()
            .map(|(name, bytes)| format!("{name} {}", mib(**bytes)))
            .collect();
        let message = format!(
            "the run needs about {} MiB ({}) and {whose} {} MiB",
            mib(self.bytes()),
            parts.join(", "),
            mib(allowed)
        );
        Err(Error::new(Code::MemoryEstimate, "memory", message).hint(
            "lower training.micro_batch_size, activations.window_batches, activations.lm_batch \
             or sae.d_sae",
        ))
    }
}

/// Weights, gradients and two moments in f32.
fn weights(sae: &SaeSpec, d: u64) -> u64 {
    let f = sae.d_sae as u64;
    let skip = if sae.skip { d * d } else { 0 };
    4 * (2 * f * d + 4 * f + d + skip) * REAL
}

/// A checkpoint holds weights and moments on the host; folding for measures and exports
/// takes about as much, at another time.
fn copies(sae: &SaeSpec, d: u64) -> u64 {
    3 * weights(sae, d) / 4
}

/// Outputs and their gradients (one for each Matryoshka prefix) of a micro-batch, and the
/// edges of the batch: latent, p, a, da, dp and the order by latent.
fn step(sae: &SaeSpec, d: u64, batch: u64, micro: u64) -> u64 {
    let prefixes = match &sae.variant {
        Variant::TopK(topk) => topk.widths.len().max(1) as u64,
        _ => 1,
    };
    // Variants without k begin dense: half of the latents are above zero.
    let edges = sae
        .k()
        .map_or(micro * sae.d_sae as u64 / 2, |k| (batch as f64 * k) as u64);
    micro * d * (2 + prefixes) * REAL + edges * 7 * REAL
}

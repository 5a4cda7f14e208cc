//! Bytes that a run will need, before anything large is taken.

use super::gpu_estimate;
use crate::activations::Keep;
use crate::config::RunConfig;
use crate::device::cpu::isa::Isa;
use crate::device::cpu::sieve_bytes;
use crate::domain::{Code, Error, Result};
use crate::lm::LmSpec;
use crate::protocol::{Fact, GpuEstimate};
use crate::sae::SaeSpec;
use crate::sae::spec::{Pool, Variant};
use crate::system::memory;
use std::collections::BTreeMap;

const REAL: u64 = size_of::<f32>() as u64;
/// An edge of codes on the CPU: latent, p, a, da, dp, its number and its token by latent.
const EDGE: u64 = 7 * REAL;
/// A candidate of a selection: latent and p.
const CANDIDATE: u64 = 2 * REAL;
/// Candidates beyond 2k for which a selection has room in a token.
const SLACK: u64 = 64;
/// Code that comes into memory when training begins. Measured on Linux.
const CODE: u64 = 5 << 20;
/// What a thread of the CPU device keeps: blocks of rows, and of their logits.
const THREAD: u64 = 2 << 20;
/// Measured: one byte in this many is lost between blocks of memory.
const LOST: u64 = 8;

/// MiB that hold `bytes`.
pub(super) fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// Parts of an estimate in MiB, the largest first.
pub(super) fn in_words(parts: &BTreeMap<String, u64>) -> String {
    let mut parts: Vec<_> = parts.iter().collect();
    parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
    let words = parts
        .iter()
        .map(|(name, bytes)| format!("{name} {}", mib(**bytes)));
    words.collect::<Vec<_>>().join(", ")
}

/// The parts of the estimate.
pub struct Estimate {
    /// Bytes by name.
    pub parts: BTreeMap<String, u64>,
    /// Those of the GPU's memory, where the run computes on one.
    pub gpu: Option<GpuEstimate>,
    /// Whose memory has room for a window of activations.
    pub keep: Keep,
}

/// What an estimate is for.
pub struct Need<'a> {
    /// The run.
    pub config: &'a RunConfig,
    /// Its model.
    pub lm: &'a LmSpec,
    /// Bytes that the model's forward pass works on.
    pub capture: u64,
    /// Bytes of a window of activations.
    pub window: u64,
    /// Bytes through which it comes to the host from a device with memory of its own.
    pub landing: u64,
    /// Hook points that are captured.
    pub captured: u64,
    /// Threads of the CPU device; 0 means one a core.
    pub threads: usize,
    /// What is free of the device's own memory; `None` where it computes in the host's.
    pub free: Option<u64>,
}

impl Estimate {
    /// The estimate for `need`. What the process holds already is measured.
    pub fn new(need: &Need<'_>) -> Self {
        let (config, lm) = (need.config, need.lm);
        let d = lm.d_model as u64;
        let batch = config.training.batch_size as u64;
        let micro = match config.training.micro_batch_size as u64 {
            0 => batch,
            micro => micro.min(batch),
        };
        let sites = config.model.hooks.len() as u64;
        let threads = match need.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let gpu = need.free.map(|free| gpu_estimate::gpu_estimate(need, free));
        let mut parts = vec![(
            "copies to save and to measure",
            sites * copies(&config.sae, d),
        )];
        // What a device takes over from the host comes through it, a matrix at a time.
        if gpu.is_some() {
            parts.push(("rows to measure", rows_to_measure(need) * d * 4 * REAL));
        }
        match &gpu {
            Some((_, Keep::Device)) => {}
            Some((_, Keep::Host)) => parts.extend([
                ("activations", need.window + need.landing),
                (
                    "batches",
                    gpu_estimate::BATCHES * need.captured * batch * d * REAL,
                ),
            ]),
            None => parts.extend([
                ("activations", need.window),
                ("batches", need.captured * batch * d * REAL),
                ("threads", threads as u64 * THREAD),
                (
                    "language model",
                    lm.weight_bytes(config.model.precision) as u64,
                ),
                ("forward pass", need.capture),
                ("measures", measures(need, d)),
                (
                    "autoencoder weights and moments",
                    sites * weights(&config.sae, d),
                ),
                (
                    "autoencoder step",
                    sites * step(&config.sae, d, batch, micro),
                ),
            ]),
        }
        let taken: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
        parts.push(("lost between blocks", taken / LOST));
        let parts = parts.into_iter();
        let mut estimate = Self {
            parts: parts
                .map(|(name, bytes)| (name.to_owned(), bytes))
                .collect(),
            keep: gpu.as_ref().map_or(Keep::Device, |(_, keep)| *keep),
            gpu: gpu.map(|(estimate, _)| estimate),
        };
        estimate.measure();
        estimate
    }

    /// Measures again what the process holds: text that was tokenised leaves memory behind.
    pub fn measure(&mut self) {
        let resident = memory::resident().map_or(0, |bytes| bytes + CODE);
        self.parts.insert("program".into(), resident);
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
            gpu: self.gpu.clone(),
        }
    }

    /// Refuses a run that cannot fit: in what the GPU has free, and in the host's memory, above
    /// `limit` MiB where given, else above what is free now and what the process holds already.
    ///
    /// # Errors
    /// `memory-estimate`, with the numbers.
    pub fn check(&self, limit: Option<u64>) -> Result<()> {
        if let Some(gpu) = &self.gpu {
            gpu_estimate::check(gpu)?;
        }
        let held = memory::resident().unwrap_or(0);
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
        let message = format!(
            "the run needs about {} MiB ({}) and {whose} {} MiB",
            mib(self.bytes()),
            in_words(&self.parts),
            mib(allowed)
        );
        Err(Error::new(Code::MemoryEstimate, "memory", message).hint(
            "lower training.micro_batch_size, activations.window_batches, activations.lm_batch \
             or sae.d_sae, or hold the model in fewer bits with model.precision",
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
    let aux = match &sae.variant {
        Variant::TopK(topk) if topk.aux_coefficient > 0.0 => {
            Some(topk.k_aux.map_or(d / 2, |k| k as u64))
        }
        _ => None,
    };
    micro * d * (2 + prefixes) * REAL + codes(sae, d, batch, micro, aux)
}

/// The edges of a batch, those of `aux` latents a token included, and what they are chosen from.
fn codes(sae: &SaeSpec, d: u64, batch: u64, micro: u64, aux: Option<u64>) -> u64 {
    // Variants without k begin dense: half of the latents are above zero.
    let Some(k) = sae.k() else {
        return micro * sae.d_sae as u64 / 2 * EDGE;
    };
    let k = k as u64;
    let candidates = |k: u64| batch * (2 * k + SLACK) * CANDIDATE;
    let others = aux.map_or(0, candidates);
    let chosen_from = match sieved(sae, d, batch) {
        // One selection after the other.
        Some(lists) => lists.max(others),
        None => candidates(k) + others,
    };
    batch * (k + aux.unwrap_or(0)) * EDGE + chosen_from
}

/// What TopK among all latents takes where the machine has AMX.
fn sieved(sae: &SaeSpec, d: u64, tokens: u64) -> Option<u64> {
    let Variant::TopK(topk) = &sae.variant else {
        return None;
    };
    if topk.pool != Pool::Token {
        return None;
    }
    let [tokens, d] = [tokens, d].map(|n| n as usize);
    let bytes = sieve_bytes(Isa::best(), tokens, topk.k as usize, d, sae.d_sae)?;
    Some(bytes as u64)
}

/// The rows of a batch of held-out contexts: captured, gathered, reconstructed on the device
/// and on the host, and put back; and their codes.
fn measures(need: &Need<'_>, d: u64) -> u64 {
    let (config, rows) = (need.config, rows_to_measure(need));
    rows * d * (need.captured + 6) * REAL + codes(&config.sae, d, rows, rows, None)
}

/// Rows of a batch of held-out contexts.
pub(super) fn rows_to_measure(need: &Need<'_>) -> u64 {
    let config = need.config;
    if config.data.holdout == 0.0 {
        return 0;
    }
    let contexts = config.activations.lm_batch.min(config.eval.contexts);
    (contexts * config.data.context_size) as u64
}

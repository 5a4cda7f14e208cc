//! Bytes of a GPU's memory that a run will need, where it computes on one.

use super::estimate::{Need, in_words, mib, rows_to_measure};
use crate::activations::Keep;
use crate::domain::{Amp, Code, Error, Precision, Result};
use crate::lm::LmSpec;
use crate::protocol::GpuEstimate;
use crate::sae::SaeSpec;
use crate::sae::spec::{Pool, Variant};

const REAL: u64 = size_of::<f32>() as u64;
/// An edge of codes: latent, p, a, da, dp, and its token, number and latent in the order by
/// latent.
const EDGE: u64 = 8 * REAL;
/// What sorting takes beside, for each edge: latents and numbers of the pass before.
const SORTED: u64 = 2 * REAL;
/// A candidate of a selection: a key of 64 bits and p.
const CANDIDATE: u64 = 3 * REAL;
/// Batches that are there where they come from the host: the one in work, and the next.
pub const BATCHES: u64 = 2;
/// Pre-activations that are there at a time.
const STRETCH: u64 = 32 << 20;
/// Places of a token for what is above bounds of latents, in 16 bits.
const LISTED: u64 = 512;
/// Logits that are there at a time.
const LOGITS: u64 = 64 << 20;
/// Rows of the unembedding in one product.
const HEAD: u64 = 4096;

/// Latents that give each token its first bound, and the k up to which there are bounds at all.
const FIRST: u64 = 1024;
const MOST: u64 = 256;

/// The estimate for `need`, with what is `free`, and whether a window of activations fits, too.
pub fn gpu_estimate(need: &Need<'_>, free: u64) -> (GpuEstimate, Keep) {
    let (config, lm, sae) = (need.config, need.lm, &need.config.sae);
    let (d, f) = (lm.d_model as u64, sae.d_sae as u64);
    let sites = config.model.hooks.len() as u64;
    let batch = config.training.batch_size as u64;
    let micro = match config.training.micro_batch_size as u64 {
        0 => batch,
        micro => micro.min(batch),
    };
    let skip = if sae.skip { d * d } else { 0 };
    let weights = (2 * f * d + 4 * f + d + skip) * REAL;
    let one_batch = need.captured * batch * d * REAL;
    let shadow = shadow(config.training.amp, f * d);
    let mut parts = vec![
        (
            "language model",
            lm.weight_bytes(config.model.precision) as u64,
        ),
        ("autoencoder weights", sites * (weights + shadow)),
        ("gradients", sites * weights),
        ("moments", sites * 2 * weights),
        // What a pass worked on is kept for the next one.
        ("forward pass", need.capture),
        ("codes and outputs", sites * kept(sae, d, batch, micro)),
    ];
    let held: u64 = parts.iter().map(|(_, bytes)| bytes).sum::<u64>() + BATCHES * one_batch;
    let passes = |filter| passes(need, weights, batch, micro, filter);
    let filter = held + passes(true) <= free;
    parts.push(("passes", passes(filter)));
    let others: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
    let live = config.activations.cache.is_none();
    let keep = match live && others + one_batch + need.window <= free {
        true => Keep::Device,
        false => Keep::Host,
    };
    match keep {
        Keep::Device => parts.extend([("batches", one_batch), ("activations", need.window)]),
        Keep::Host => parts.push(("batches", BATCHES * one_batch)),
    }
    let estimate = GpuEstimate {
        bytes: parts.iter().map(|(_, bytes)| bytes).sum(),
        parts: parts
            .into_iter()
            .map(|(name, bytes)| (name.to_owned(), bytes))
            .collect(),
        available: free,
    };
    (estimate, keep)
}

/// Refuses a run that cannot fit in what is free.
///
/// # Errors
/// `memory-estimate`, with the numbers.
pub fn check(estimate: &GpuEstimate) -> Result<()> {
    if estimate.bytes <= estimate.available {
        return Ok(());
    }
    let message = format!(
        "the run needs about {} MiB of the GPU's memory ({}), of which {} MiB are free",
        mib(estimate.bytes),
        in_words(&estimate.parts),
        estimate.available >> 20
    );
    Err(Error::new(Code::MemoryEstimate, "gpu", message).hint(
        "lower training.micro_batch_size, activations.lm_batch or sae.d_sae, hold the model in \
         fewer bits with model.precision, or end what else computes there",
    ))
}

/// What an autoencoder's step leaves for the next one: the edges of the batch, and x, x̂ and its
/// gradient (one for each Matryoshka prefix) of the micro-batch.
fn kept(sae: &SaeSpec, d: u64, batch: u64, micro: u64) -> u64 {
    let prefixes = match &sae.variant {
        Variant::TopK(topk) => topk.widths.len().max(1) as u64,
        _ => 1,
    };
    let (edges, aux) = edges(sae, d, batch, micro);
    (edges + aux) * EDGE + micro * d * (2 + prefixes) * REAL
}

/// What stays of an encoder of so many numbers beside it, rounded for tensor cores.
fn shadow(amp: Amp, numbers: u64) -> u64 {
    match amp {
        Amp::Off => 0,
        Amp::Bf16 | Amp::Fp16 => numbers * REAL / 2,
    }
}

/// What TopK in f32 takes to ask tensor cores which latents to look at: rounded factors and their
/// margins, the best, and pre-activations of the first latents or lists of candidates.
fn filtered(sae: &SaeSpec, tokens: u64, d: u64) -> u64 {
    let (f, Variant::TopK(topk)) = (sae.d_sae as u64, &sae.variant) else {
        return 0;
    };
    let k = topk.k as u64;
    if topk.pool != Pool::Token || k > MOST || f <= FIRST {
        return 0;
    }
    let row = d * REAL / 2 + 2 * REAL;
    let lists = (16 * k).max(256) * CANDIDATE;
    (tokens + f) * row + tokens * (k * CANDIDATE + lists.max(2 * FIRST * REAL))
}

/// Edges of the codes, and of those of AuxK.
fn edges(sae: &SaeSpec, d: u64, batch: u64, micro: u64) -> (u64, u64) {
    // Variants without k begin dense: half of the latents are above zero.
    let main = match sae.k() {
        Some(k) => batch * k as u64,
        None => micro * sae.d_sae as u64 / 2,
    };
    let aux = match &sae.variant {
        Variant::TopK(topk) if topk.aux_coefficient > 0.0 => {
            batch * topk.k_aux.map_or(d / 2, |k| k as u64)
        }
        _ => 0,
    };
    (main, aux)
}

/// What the largest matrix takes that is decoded for a product: f16 to f32, integers to bf16 in
/// whole tiles.
fn decoded(lm: &LmSpec, precision: Precision) -> u64 {
    let (d, attended) = (lm.d_model as u64, (lm.heads * lm.head_dim) as u64);
    let up = if lm.gated { 2 } else { 1 } * lm.d_mlp as u64;
    let bytes = |n: u64, k: u64| match precision {
        Precision::F32 | Precision::Bf16 => 0,
        Precision::F16 => n * k * REAL,
        Precision::Int8 | Precision::Int4 => {
            n.next_multiple_of(256) * k.next_multiple_of(64) * REAL / 2
        }
    };
    let head = (lm.vocab as u64).min(HEAD);
    let all = [
        bytes(lm.qkv_width() as u64, d),
        bytes(d, attended),
        bytes(up, d),
        bytes(d, lm.d_mlp as u64),
        bytes(head, d),
    ];
    all.into_iter().max().unwrap_or(0)
}

/// What is taken and given back: the largest of a block of the language model, a step, and a
/// measurement. Selections in f32 have a filter where that fits.
fn passes(need: &Need<'_>, weights: u64, batch: u64, micro: u64, filter: bool) -> u64 {
    let (config, lm, sae) = (need.config, need.lm, &need.config.sae);
    let (d, f) = (lm.d_model as u64, sae.d_sae as u64);
    let contexts = config.activations.lm_batch as u64;
    let size = config.data.context_size as u64;
    let up = if lm.gated { 2 } else { 1 };
    let decoded = decoded(lm, config.model.precision);
    let mlp = |rows: u64| rows * (up + 1) * lm.d_mlp as u64 * REAL + decoded;
    let forward = mlp(contexts * size);
    // Pre-activations of a stretch, and the best; for tensor cores the tokens in 16 bits, and what
    // passed a bound.
    let encoder = |tokens: u64, k: Option<f64>, amp: Amp| {
        let places = k.map_or(LISTED, |k| (8 * k as u64).max(256));
        let k = k.map_or(0, |k| k as u64);
        let stretch = (tokens * f * REAL).min(STRETCH) + tokens * k * CANDIDATE;
        match amp {
            Amp::Off if filter => stretch.max(filtered(sae, tokens, d)),
            Amp::Off => stretch,
            _ => stretch + tokens * d * REAL / 2 + tokens * places * CANDIDATE,
        }
    };
    let tokens = if sae.k().is_some() { batch } else { micro };
    let (edges, aux) = edges(sae, d, batch, micro);
    // Codes as a matrix, and a row of d for each latent; variants with bounds gather what passes in
    // pieces that are put together.
    let matrix = |edges: u64| (micro * f * REAL).min(STRETCH.max(8 * edges)) + f * d * REAL;
    let (dense, pieces) = match (sae.k(), aux) {
        (None, _) => (matrix(edges), 4 * edges * REAL),
        (Some(_), 0) => (0, 0),
        (Some(_), aux) => (matrix(aux), 0),
    };
    // Rows in 16 bits, for gradients.
    let gathered = match config.training.amp {
        Amp::Off => 0,
        _ => micro * d * REAL / 2,
    };
    let step = (encoder(tokens, sae.k(), config.training.amp) + pieces)
        .max((edges + aux) * SORTED + gathered)
        .max(dense);
    let rows = rows_to_measure(need);
    if rows == 0 {
        return forward.max(step);
    }
    // Weights as they are exported; what the model computes, to its end; rows on their way.
    let logits = (rows * lm.vocab as u64 * REAL).min(LOGITS);
    let pass = mlp(rows).max(logits + decoded);
    let rows_there = rows * d * (need.captured + 4) * REAL;
    let sites = config.model.hooks.len() as u64;
    let selected = encoder(rows, sae.k(), Amp::Off);
    let measures = sites * weights + rows_there + pass.max(selected);
    forward.max(step).max(measures)
}

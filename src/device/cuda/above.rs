//! What is above bounds of latents, without pre-activations in memory.
//!
//! The product appends it to lists of the tokens. Where latents fire seldom they hold it all; how much
//! that is the host must know before there is room for the edges, so this waits once.

use super::Cuda;
use super::codes::Codes;
use super::encode::Product;
use super::launch::{Shape, count};
use super::memory::Memory;
use super::stream::{Lists, WARPS, first};
use super::tensor::{By, Rounded};
use crate::domain::Result;
use std::sync::atomic::Ordering::Relaxed;

/// Places for what passes of a token. `src/worker/gpu_estimate.rs` knows of it.
const ROOM: usize = 512;
/// Products that are not tried after one of which more passed: early in training half of all latents
/// fire, and batches resemble each other.
const DOUBT: u32 = 64;

/// The edges, or `None` where this way is not open or a token has more of them than there is room for.
pub fn above(
    cuda: &Cuda,
    product: &Product<'_>,
    rounded: &Rounded,
    lower: &Memory<f32>,
) -> Result<Option<Codes>> {
    if product.x.count == 0 || product.d_sae <= first(cuda) {
        return Ok(None);
    }
    // Whoever encodes at the same time at worst tries once more: codes are the same either way.
    let doubt = cuda.doubt.load(Relaxed);
    if doubt > 0 {
        cuda.doubt.store(doubt - 1, Relaxed);
        return Ok(None);
    }
    let made = listed(cuda, product, rounded, lower)?;
    if made.is_none() {
        cuda.doubt.store(DOUBT, Relaxed);
    }
    Ok(made)
}

fn listed(
    cuda: &Cuda,
    product: &Product<'_>,
    rounded: &Rounded,
    lower: &Memory<f32>,
) -> Result<Option<Codes>> {
    let (gpu, tokens, d_sae) = (&cuda.gpu, product.x.count, product.d_sae);
    let mut lists = Lists::new(cuda, tokens, ROOM)?;
    rounded.append(cuda, product, &By::Latent(lower), [0, d_sae], &mut lists)?;
    let counts = lists.counts.to_host()?;
    if counts.iter().any(|count| *count as usize > ROOM) {
        return Ok(None);
    }
    let edges = counts.iter().map(|count| *count as usize).sum();
    let mut codes = Codes::room(cuda, tokens, d_sae, edges)?;
    cuda.scan(&lists.counts, tokens, &mut codes.row_ptr)?;
    let places = tokens * ROOM;
    cuda.kernels.list_emit(
        gpu,
        Shape::warps(tokens).shared(WARPS * ROOM * 4),
        lists.keys.input(0, places),
        lists.pres.input(0, places),
        codes.row_ptr.input(0, tokens + 1),
        codes.latent.output(edges),
        codes.pre.output(edges),
        count(tokens),
        count(ROOM),
    )?;
    Ok(Some(codes))
}

//! EleutherAI's sparsify: `cfg.json`, `sae.safetensors`. Its one activation function that
//! is trained here is TopK of each token; a ReLU is a TopK of all latents.

use super::item::Item;
use super::sae::{Architecture, ExportedSae};
use super::{write_json, write_tensors};
use crate::domain::Result;
use serde_json::{Value, json};
use std::path::Path;

pub(super) fn inexpressible(sae: &ExportedSae) -> Option<&'static str> {
    match sae.architecture {
        Architecture::BatchTopK { .. } | Architecture::JumpRelu { .. } => {
            Some("sparsify has no threshold: it takes the k largest of each token")
        }
        Architecture::Gated { .. } => Some("sparsify has no gate"),
        _ if sae.d_in != sae.d_out => Some("sparsify has one width for input and output"),
        _ => None,
    }
}

pub(super) fn write(sae: &ExportedSae, dir: &Path) -> Result<()> {
    write_json(&dir.join("cfg.json"), &config(sae))?;
    let (d_in, d_sae) = (sae.d_in, sae.d_sae);
    let mut items = vec![
        Item::f32("encoder.weight", &[d_sae, d_in], &sae.w_enc),
        Item::f32("encoder.bias", &[d_sae], &sae.b_enc),
        Item::f32("W_dec", &[d_sae, d_in], &sae.w_dec),
        Item::f32("b_dec", &[d_in], &sae.b_dec),
    ];
    items.extend(sae.w_skip().map(|w| Item::f32("W_skip", &[d_in, d_in], w)));
    write_tensors(&dir.join("sae.safetensors"), &items)
}

fn config(sae: &ExportedSae) -> Value {
    let k = match sae.architecture {
        Architecture::TopK { k, .. } => k,
        _ => sae.d_sae,
    };
    json!({
        "activation": "topk",
        "expansion_factor": (sae.d_sae / sae.d_in).max(1),
        "normalize_decoder": sae.has_unit_rows(),
        "num_latents": sae.d_sae,
        "k": k,
        "multi_topk": false,
        "skip_connection": sae.w_skip().is_some(),
        // Also what keeps it from subtracting b_dec from the input.
        "transcode": !sae.subtracts_b_dec(),
        "d_in": sae.d_in,
    })
}

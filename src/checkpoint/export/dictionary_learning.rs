//! dictionary_learning: `config.json`, `ae.pt`. A dictionary's class decides whether b_dec
//! is subtracted from the input; where that is not how the SAE was trained, the encoder's
//! bias makes up for it.

use super::item::Item;
use super::sae::{Architecture, ExportedSae, Task};
use super::{torch, write_json};
use crate::checkpoint::write;
use crate::domain::Result;
use crate::system::fs::Fs;
use crate::tensorfile::Dtype;
use serde_json::{Value, json};
use std::path::Path;

pub(super) fn inexpressible(sae: &ExportedSae) -> Option<&'static str> {
    match sae.task {
        Task::Transcoder { .. } => Some("dictionary_learning has no transcoders"),
        Task::Autoencoder { .. } => None,
    }
}

pub(super) fn write(sae: &ExportedSae, dir: &Path) -> Result<()> {
    write_json(&dir.join("config.json"), &config(sae))?;
    write::file(&Fs::default(), &dir.join("ae.pt"), |out| {
        torch::save(out, "ae", &state_dict(sae))
    })?;
    Ok(())
}

/// The class of `dictionary_learning` that computes it, and the key `k` that it wants.
fn class(sae: &ExportedSae) -> (&'static str, Option<usize>) {
    match &sae.architecture {
        Architecture::Standard => ("AutoEncoder", None),
        Architecture::TopK { k, .. } => ("AutoEncoderTopK", Some(*k)),
        Architecture::BatchTopK { k, widths, .. } => {
            // Its buffer `k` is a whole number; inference does not look at it.
            let k = Some((k.round() as usize).max(1));
            match widths.is_empty() {
                true => ("BatchTopKSAE", k),
                false => ("MatryoshkaBatchTopKSAE", k),
            }
        }
        Architecture::JumpRelu { .. } => ("JumpReluAutoEncoder", None),
        Architecture::Gated { .. } => ("GatedAutoEncoder", None),
    }
}

fn config(sae: &ExportedSae) -> Value {
    let (class, k) = class(sae);
    let metadata = &sae.metadata;
    let mut config = json!({
        "trainer": {
            "dict_class": class,
            "activation_dim": sae.d_in,
            "dict_size": sae.d_sae,
            "lm_name": metadata.model_name,
            "layer": layer(&metadata.hook_name),
            "submodule_name": metadata.hook_name,
        },
        "buffer": { "d_submodule": sae.d_in, "ctx_len": metadata.context_size },
    });
    if let Some(k) = k {
        config["trainer"]["k"] = json!(k);
    }
    config
}

/// L of `blocks.L.…`.
fn layer(hook_name: &str) -> Option<usize> {
    hook_name.split('.').nth(1)?.parse().ok()
}

fn state_dict(sae: &ExportedSae) -> Vec<Item<'_>> {
    let (d_in, d_sae) = (sae.d_in, sae.d_sae);
    let latents = |name, values: &[f32]| Item::copied(name, Dtype::F32, &[d_sae], values);
    let input = |name, values| Item::f32(name, &[d_in], values);
    let k = class(sae).1.unwrap_or(0) as i32;
    let k = || Item::copied("k", Dtype::I32, &[], &[k]);
    let threshold = |value: f32| Item::copied("threshold", Dtype::F32, &[], &[value]);
    let linear = || {
        [
            Item::f32("encoder.weight", &[d_sae, d_in], &sae.w_enc),
            Item::transposed("decoder.weight", d_in, &sae.w_dec),
        ]
    };
    let matrices = || {
        [
            Item::transposed("W_enc", d_in, &sae.w_enc),
            Item::f32("W_dec", &[d_sae, d_in], &sae.w_dec),
        ]
    };
    let mut items = Vec::new();
    match &sae.architecture {
        Architecture::Standard => {
            items.extend(linear());
            items.push(latents("encoder.bias", &shifted(sae, &sae.b_enc, true)));
            items.push(input("bias", &sae.b_dec));
        }
        Architecture::TopK { .. } => {
            items.extend(linear());
            items.push(latents("encoder.bias", &shifted(sae, &sae.b_enc, true)));
            // No threshold was learned.
            items.extend([input("b_dec", &sae.b_dec), k(), threshold(-1.0)]);
        }
        Architecture::BatchTopK {
            threshold: t,
            widths,
            ..
        } => {
            let bias = shifted(sae, &sae.b_enc, true);
            if widths.is_empty() {
                items.extend(linear());
                items.push(latents("encoder.bias", &bias));
            } else {
                items.extend(matrices());
                items.push(latents("b_enc", &bias));
                items.push(group_sizes(widths));
            }
            items.extend([input("b_dec", &sae.b_dec), k(), threshold(*t)]);
        }
        Architecture::JumpRelu { threshold } => {
            items.extend(matrices());
            items.push(latents("b_enc", &shifted(sae, &sae.b_enc, false)));
            items.push(input("b_dec", &sae.b_dec));
            items.push(latents("threshold", threshold));
        }
        Architecture::Gated {
            b_gate,
            b_mag,
            r_mag,
        } => {
            items.extend(linear());
            items.push(latents("gate_bias", &shifted(sae, b_gate, true)));
            items.push(latents("mag_bias", &shifted_gated(sae, b_mag, r_mag)));
            items.push(latents("r_mag", r_mag));
            items.push(input("decoder_bias", &sae.b_dec));
        }
    }
    items
}

/// Widths of the groups between the prefixes `widths`.
fn group_sizes(widths: &[usize]) -> Item<'static> {
    let starts = std::iter::once(&0).chain(widths);
    let sizes: Vec<i64> = widths
        .iter()
        .zip(starts)
        .map(|(w, s)| (w - s) as i64)
        .collect();
    Item::copied("group_sizes", Dtype::I64, &[sizes.len()], &sizes)
}

/// `bias` \[d_sae\], added to p, for a class that subtracts b_dec from the input or not.
fn shifted(sae: &ExportedSae, bias: &[f32], subtracts: bool) -> Vec<f32> {
    let shift = shift(sae, subtracts);
    let sum = |(b, s): (&f32, f64)| (f64::from(*b) + s) as f32;
    bias.iter().zip(shift).map(sum).collect()
}

/// The same of the magnitude's bias, which is added to p·exp(r_mag).
fn shifted_gated(sae: &ExportedSae, b_mag: &[f32], r_mag: &[f32]) -> Vec<f32> {
    let gains = r_mag.iter().map(|r| f64::from(*r).exp());
    let sum = |((b, s), g): ((&f32, f64), f64)| (f64::from(*b) + s * g) as f32;
    b_mag
        .iter()
        .zip(shift(sae, true))
        .zip(gains)
        .map(sum)
        .collect()
}

/// What the class's view of b_dec takes from each p, to be given back by the bias.
fn shift(sae: &ExportedSae, subtracts: bool) -> Vec<f64> {
    let sign = f64::from(u8::from(subtracts)) - f64::from(u8::from(sae.subtracts_b_dec()));
    let dot = |row: &[f32]| -> f64 {
        let pairs = row.iter().zip(&sae.b_dec);
        pairs.map(|(w, b)| f64::from(*w) * f64::from(*b)).sum()
    };
    sae.w_enc
        .chunks_exact(sae.d_in)
        .map(|row| sign * dot(row))
        .collect()
}

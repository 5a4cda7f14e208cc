//! Writes a random SAE of every variant in every format that can hold it, with a probe of
//! what it computes, to be compared with what the formats' own programs compute:
//!
//! ```text
//! cargo run --example export_probe -- OUT
//! for d in OUT/*/; do python benches/peers/check_exports.py "$d" "$d/probe.safetensors"; done
//! ```

use backpropd::checkpoint::export::{
    Architecture, ExportedSae, Metadata, Outcome, Place, Task, write_all,
};
use backpropd::domain::{Error, Result};
use backpropd::tensorfile::{self, TensorOut};
use std::collections::BTreeMap;
use std::path::Path;

const TOKENS: usize = 64;
const D_IN: usize = 24;
const D_SAE: usize = 100;

/// Numbers in −1..1.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        // splitmix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn array(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| self.next() * scale).collect()
    }

    fn positive(&mut self, len: usize, scale: f32) -> Vec<f32> {
        self.array(len, scale).iter().map(|v| v.abs()).collect()
    }
}

fn architectures(noise: &mut Noise) -> Vec<(&'static str, Architecture)> {
    let batch = |rescale, widths: &[usize]| Architecture::BatchTopK {
        k: 8.0,
        threshold: 0.25,
        rescale,
        widths: widths.to_vec(),
    };
    vec![
        ("standard", Architecture::Standard),
        (
            "topk",
            Architecture::TopK {
                k: 8,
                rescale: true,
            },
        ),
        (
            "topk_plain",
            Architecture::TopK {
                k: 8,
                rescale: false,
            },
        ),
        ("batchtopk", batch(true, &[])),
        ("batchtopk_plain", batch(false, &[])),
        ("matryoshka", batch(true, &[10, 40, D_SAE])),
        (
            "jumprelu",
            Architecture::JumpRelu {
                threshold: noise.positive(D_SAE, 0.5),
            },
        ),
        (
            "gated",
            Architecture::Gated {
                b_gate: noise.array(D_SAE, 0.3),
                b_mag: noise.array(D_SAE, 0.3),
                r_mag: noise.array(D_SAE, 0.5),
            },
        ),
    ]
}

fn tasks(noise: &mut Noise) -> Vec<(&'static str, usize, Task)> {
    let autoencoder = |subtract_b_dec| Task::Autoencoder { subtract_b_dec };
    let transcoder = |w_skip| Task::Transcoder { w_skip };
    vec![
        ("", D_IN, autoencoder(true)),
        ("_uncentred", D_IN, autoencoder(false)),
        ("_transcoder", D_IN, transcoder(None)),
        ("_wide_transcoder", 40, transcoder(None)),
        (
            "_skip_transcoder",
            D_IN,
            transcoder(Some(noise.array(D_IN * D_IN, 0.2))),
        ),
    ]
}

fn main() -> Result<()> {
    let out = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "probe".to_owned());
    let mut noise = Noise(7);
    for (name, architecture) in architectures(&mut noise) {
        for (suffix, d_out, task) in tasks(&mut noise) {
            let gated = matches!(architecture, Architecture::Gated { .. });
            let mut sae = ExportedSae {
                d_in: D_IN,
                d_sae: D_SAE,
                d_out,
                architecture: architecture.clone(),
                task,
                w_enc: noise.array(D_SAE * D_IN, 0.4),
                b_enc: noise.array(if gated { 0 } else { D_SAE }, 0.2),
                w_dec: noise.array(D_SAE * d_out, 0.3),
                b_dec: noise.array(d_out, 0.5),
                frequency: Some(noise.positive(D_SAE, 0.1)),
                metadata: Metadata {
                    model_name: "probe".to_owned(),
                    hook_name: "blocks.3.hook_resid_post".to_owned(),
                    training_architecture: name.to_owned(),
                    context_size: 128,
                    prepend_bos: true,
                    ..Metadata::default()
                },
            };
            // A latent without a direction, as resampling may leave one.
            if suffix.is_empty() {
                sae.w_dec[..d_out].fill(0.0);
            }
            sae.unit_rows()?;
            probe(
                &sae,
                &Path::new(&out).join(format!("{name}{suffix}")),
                &mut noise,
            )?;
        }
    }
    Ok(())
}

fn probe(sae: &ExportedSae, dir: &Path, noise: &mut Noise) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::write(dir, &e))?;
    let place = Place {
        dir,
        name: None,
        index: 0,
    };
    for outcome in write_all(sae, place)? {
        match outcome {
            Outcome::Written(_, path) => println!("{}", path.display()),
            Outcome::Skipped(format, why) => println!("{}: no {format}: {why}", dir.display()),
        }
    }
    let x = noise.array(TOKENS * sae.d_in, 1.0);
    let mut acts = Vec::new();
    let mut y = Vec::new();
    for x in x.chunks_exact(sae.d_in) {
        let a = sae.encode(x);
        y.extend(sae.decode(&a, x));
        acts.extend(a);
    }
    let tensors = [
        TensorOut::f32("x", &[TOKENS, sae.d_in], &x),
        TensorOut::f32("feature_acts", &[TOKENS, sae.d_sae], &acts),
        TensorOut::f32("sae_out", &[TOKENS, sae.d_out], &y),
    ];
    tensorfile::write(&dir.join("probe.safetensors"), &BTreeMap::new(), &tensors)
}

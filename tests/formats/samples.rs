//! Small random SAEs of every variant.

use backpropd::checkpoint::export::{Architecture, ExportedSae, Metadata, Task};

pub const D_IN: usize = 5;
pub const D_SAE: usize = 19;

/// A small generator: splitmix64 (Steele, Lea, Flood 2014).
pub struct Noise(pub u64);

impl Noise {
    /// A number in −1..1.
    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn array(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| self.next() * scale).collect()
    }
}

fn architectures(noise: &mut Noise) -> Vec<Architecture> {
    let topk = |rescale| Architecture::TopK { k: 4, rescale };
    let batch = |rescale, widths: &[usize]| Architecture::BatchTopK {
        k: 3.5,
        threshold: 0.2,
        rescale,
        widths: widths.to_vec(),
    };
    let threshold = noise.array(D_SAE, 0.4).iter().map(|t| t.abs()).collect();
    vec![
        Architecture::Standard,
        topk(true),
        topk(false),
        batch(true, &[]),
        batch(false, &[]),
        batch(true, &[3, 8, D_SAE]),
        Architecture::JumpRelu { threshold },
        Architecture::Gated {
            b_gate: noise.array(D_SAE, 0.3),
            b_mag: noise.array(D_SAE, 0.3),
            r_mag: noise.array(D_SAE, 0.6),
        },
    ]
}

fn tasks(noise: &mut Noise) -> Vec<(usize, Task)> {
    let autoencoder = |subtract_b_dec| Task::Autoencoder { subtract_b_dec };
    let transcoder = |w_skip| Task::Transcoder { w_skip };
    vec![
        (D_IN, autoencoder(true)),
        (D_IN, autoencoder(false)),
        (D_IN, transcoder(None)),
        (7, transcoder(Some(noise.array(7 * D_IN, 0.3)))),
        (D_IN, transcoder(Some(noise.array(D_IN * D_IN, 0.3)))),
    ]
}

/// Every architecture with every task, as training leaves them: not folded, with one latent
/// whose decoder row is zero.
pub fn all() -> Vec<ExportedSae> {
    let mut noise = Noise(3);
    let mut saes = Vec::new();
    for architecture in architectures(&mut noise) {
        for (d_out, task) in tasks(&mut noise) {
            saes.push(sae(architecture.clone(), d_out, task, &mut noise));
        }
    }
    saes
}

fn sae(architecture: Architecture, d_out: usize, task: Task, noise: &mut Noise) -> ExportedSae {
    let gated = matches!(architecture, Architecture::Gated { .. });
    let mut w_dec = noise.array(D_SAE * d_out, 0.5);
    w_dec[2 * d_out..3 * d_out].fill(0.0);
    ExportedSae {
        d_in: D_IN,
        d_sae: D_SAE,
        d_out,
        architecture,
        task,
        w_enc: noise.array(D_SAE * D_IN, 0.6),
        b_enc: noise.array(if gated { 0 } else { D_SAE }, 0.3),
        w_dec,
        b_dec: noise.array(d_out, 0.5),
        frequency: Some(noise.array(D_SAE, 0.1).iter().map(|f| f.abs()).collect()),
        metadata: Metadata {
            model_name: "austen".to_owned(),
            hook_name: "blocks.8.hook_resid_post".to_owned(),
            context_size: 128,
            prepend_bos: true,
            dataset_path: "austen.txt".to_owned(),
            exclude_special_tokens: vec![0, 2],
            training_architecture: "sample".to_owned(),
            l0: Some(3.25),
            num_dead_features: Some(1),
            ..Metadata::default()
        },
    }
}

/// What `sae` computes of `x`: activations and output.
pub fn apply(sae: &ExportedSae, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let a = sae.encode(x);
    let y = sae.decode(&a, x);
    (a, y)
}

/// Fails unless every value of `got` is within `tolerance` of the one of `want`.
#[track_caller]
pub fn close(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance, "{what}[{i}]: {g}, not {w}");
    }
}

//! A trained SAE as plain arrays: what every foreign format is written from.

use crate::domain::{Code, Error, Result};
use serde_json::{Map, Value};

/// A trained SAE on the host, in the units of raw activations.
///
/// With x the input and y the output (d_out = d_in for an autoencoder):
///
/// ```text
/// p = (x − b_dec)·W_encᵀ + b_enc      without − b_dec where `subtract_b_dec` is false
/// a = activation(p)                    see [`Architecture`]
/// y = a·W_dec + b_dec (+ x·W_skipᵀ)
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ExportedSae {
    /// Width of the input.
    pub d_in: usize,
    /// Number of latents.
    pub d_sae: usize,
    /// Width of the output.
    pub d_out: usize,
    /// How activations follow from pre-activations.
    pub architecture: Architecture,
    /// What it reconstructs.
    pub task: Task,
    /// [d_sae, d_in]: a row for each latent, the transpose of SAELens' `W_enc`.
    pub w_enc: Vec<f32>,
    /// \[d_sae\]; empty for [`Architecture::Gated`], which has two biases of its own.
    pub b_enc: Vec<f32>,
    /// [d_sae, d_out]: a row for each latent.
    pub w_dec: Vec<f32>,
    /// \[d_out\].
    pub b_dec: Vec<f32>,
    /// \[d_sae\]: the share of tokens on which each latent fires, where it was measured.
    pub frequency: Option<Vec<f32>>,
    /// Where it comes from.
    pub metadata: Metadata,
}

/// How activations a follow from pre-activations p.
#[derive(Clone, Debug, PartialEq)]
pub enum Architecture {
    /// a = relu(p).
    Standard,
    /// The k largest, then relu.
    TopK {
        /// Latents that may fire on a token.
        k: usize,
        /// Whether training selected by p·‖w_dec‖.
        rescale: bool,
    },
    /// a = p·1\[p > threshold\]: trained by taking the k·B largest of a batch.
    BatchTopK {
        /// Latents that fire on a token, on average; it may be a fraction.
        k: f64,
        /// Running mean of the smallest activation taken.
        threshold: f32,
        /// Whether training selected by p·‖w_dec‖, the unit of `threshold`.
        rescale: bool,
        /// Matryoshka prefix widths, increasing, the last one d_sae; empty without.
        widths: Vec<usize>,
    },
    /// a = p·1\[p > threshold\].
    JumpRelu {
        /// \[d_sae\].
        threshold: Vec<f32>,
    },
    /// a = 1\[q + b_gate > 0\]·relu(q·exp(r_mag) + b_mag), q being p without b_enc.
    Gated {
        /// \[d_sae\].
        b_gate: Vec<f32>,
        /// \[d_sae\].
        b_mag: Vec<f32>,
        /// \[d_sae\].
        r_mag: Vec<f32>,
    },
}

/// What an SAE reconstructs.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// Its input.
    Autoencoder {
        /// Whether b_dec is subtracted from the input.
        subtract_b_dec: bool,
    },
    /// The activations of another hook point. b_dec is not subtracted from the input.
    Transcoder {
        /// [d_out, d_in]: the linear path beside the latents.
        w_skip: Option<Vec<f32>>,
    },
}

/// Where an SAE comes from, in SAELens' terms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// Name or path of the language model.
    pub model_name: String,
    /// TransformerLens name: `blocks.8.hook_resid_post`.
    pub hook_name: String,
    /// The hook point that a transcoder reconstructs.
    pub hook_name_out: Option<String>,
    /// Tokens in a context.
    pub context_size: usize,
    /// Whether each context began with the BOS token.
    pub prepend_bos: bool,
    /// The text's path or name.
    pub dataset_path: String,
    /// Token ids that were left out of training.
    pub exclude_special_tokens: Vec<u32>,
    /// The variant as it was trained: `batchtopk`, `matryoshka_batchtopk`.
    pub training_architecture: String,
    /// Mean number of latents that fire on a token.
    pub l0: Option<f64>,
    /// Latents that were dead at the end.
    pub num_dead_features: Option<usize>,
    /// More keys for SAELens' metadata, which keeps unknown ones.
    pub extra: Map<String, Value>,
}

impl ExportedSae {
    /// Whether b_dec is subtracted from the input.
    pub fn subtracts_b_dec(&self) -> bool {
        matches!(
            self.task,
            Task::Autoencoder {
                subtract_b_dec: true
            }
        )
    }

    /// The linear path beside the latents.
    pub fn w_skip(&self) -> Option<&[f32]> {
        match &self.task {
            Task::Transcoder { w_skip } => w_skip.as_deref(),
            Task::Autoencoder { .. } => None,
        }
    }

    /// The names, lengths and values of all arrays.
    fn arrays(&self) -> Vec<(&'static str, &[f32], usize)> {
        let (d_in, d_sae, d_out) = (self.d_in, self.d_sae, self.d_out);
        let mut arrays = vec![
            ("W_enc", self.w_enc.as_slice(), d_sae * d_in),
            ("W_dec", &self.w_dec, d_sae * d_out),
            ("b_dec", &self.b_dec, d_out),
        ];
        match &self.architecture {
            Architecture::Gated {
                b_gate,
                b_mag,
                r_mag,
            } => arrays.extend([
                ("b_enc", self.b_enc.as_slice(), 0),
                ("b_gate", b_gate, d_sae),
                ("b_mag", b_mag, d_sae),
                ("r_mag", r_mag, d_sae),
            ]),
            other => {
                arrays.push(("b_enc", &self.b_enc, d_sae));
                if let Architecture::JumpRelu { threshold } = other {
                    arrays.push(("threshold", threshold, d_sae));
                }
            }
        }
        arrays.extend(self.w_skip().map(|w| ("W_skip", w, d_out * d_in)));
        arrays.extend(self.frequency.as_deref().map(|f| ("frequency", f, d_sae)));
        arrays
    }

    /// Checks that the parts fit each other and that every number is one.
    ///
    /// # Errors
    /// [`Code::NonFinite`] names the first array that holds a NaN or an infinity;
    /// [`Code::Internal`] names what does not fit.
    pub fn check(&self) -> Result<()> {
        let wrong = |about: &str, message: String| Err(Error::new(Code::Internal, about, message));
        for (name, values, expected) in self.arrays() {
            if values.len() != expected {
                return wrong(name, format!("{} values, not {expected}", values.len()));
            }
            if let Some(at) = values.iter().position(|v| !v.is_finite()) {
                let message = format!("{} at index {at}", values[at]);
                return Err(
                    Error::new(Code::NonFinite, name, message).hint("export an earlier checkpoint")
                );
            }
        }
        match &self.architecture {
            Architecture::TopK { k, .. } if !(1..=self.d_sae).contains(k) => {
                return wrong("k", format!("{k} of {} latents", self.d_sae));
            }
            Architecture::BatchTopK { threshold, .. } if !threshold.is_finite() => {
                return Err(Error::new(Code::NonFinite, "threshold", threshold));
            }
            Architecture::BatchTopK { widths, .. } => {
                let grow = widths.first() != Some(&0) && widths.is_sorted_by(|a, b| a < b);
                if !grow || widths.last().is_some_and(|&w| w != self.d_sae) {
                    return wrong("widths", format!("{widths:?} of {} latents", self.d_sae));
                }
            }
            _ => {}
        }
        if matches!(self.task, Task::Autoencoder { .. }) && self.d_in != self.d_out {
            return wrong("d_out", format!("{} for d_in {}", self.d_out, self.d_in));
        }
        Ok(())
    }
}

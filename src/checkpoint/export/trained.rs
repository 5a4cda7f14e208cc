//! From what a trainer folded to an exported SAE.

use super::sae::{Architecture, ExportedSae, Metadata, Task};
use crate::domain::Result;
use crate::sae::spec::{SaeSpec, Variant};
use crate::sae::{Activation, Folded};

impl ExportedSae {
    /// The SAE that a trainer with settings `spec` folded. No array is copied.
    ///
    /// # Errors
    /// Those of [`ExportedSae::check`].
    pub fn from_folded(folded: Folded, spec: &SaeSpec, metadata: Metadata) -> Result<Self> {
        let mut b_enc = folded.b_enc;
        let topk = match &spec.variant {
            Variant::TopK(topk) => Some(topk),
            _ => None,
        };
        let rescale = topk.is_some_and(|topk| topk.rescale);
        let architecture = match folded.activation {
            Activation::Relu => Architecture::Standard,
            Activation::TopK { k } => Architecture::TopK { k, rescale },
            Activation::BatchTopK { k, threshold } => Architecture::BatchTopK {
                k,
                threshold,
                rescale,
                widths: topk.map_or_else(Vec::new, |topk| topk.widths.clone()),
            },
            Activation::Jump { threshold } => Architecture::JumpRelu { threshold },
            Activation::Gated { r_mag, b_mag } => Architecture::Gated {
                b_gate: std::mem::take(&mut b_enc),
                b_mag,
                r_mag,
            },
        };
        let task = match spec.target {
            None => Task::Autoencoder {
                subtract_b_dec: folded.subtract_b_dec,
            },
            Some(_) => Task::Transcoder {
                w_skip: folded.w_skip,
            },
        };
        let mut sae = Self {
            d_in: folded.dims.d_in,
            d_sae: folded.dims.d_sae,
            d_out: folded.dims.d_out,
            architecture,
            task,
            w_enc: folded.w_enc,
            b_enc,
            w_dec: folded.w_dec,
            b_dec: folded.b_dec,
            frequency: None,
            metadata,
        };
        // All but the rows that were too short to be divided by.
        sae.unit_rows()?;
        Ok(sae)
    }
}

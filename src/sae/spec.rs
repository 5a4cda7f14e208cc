//! What an SAE is: the variant, its settings and how it starts.
//!
//! In `run.toml` all of it is the flat `[sae]` table (`table.rs`).

use super::table::Table;
use crate::domain::{Code, Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Display;

/// The settings of one SAE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Table", into = "Table")]
pub struct SaeSpec {
    /// Number of latents F.
    pub d_sae: usize,
    /// Activation function and loss.
    pub variant: Variant,
    /// Hook point whose activations are reconstructed (a transcoder); the input's own
    /// where `None`.
    pub target: Option<String>,
    /// Adds x·W_skipᵀ to the output. Transcoders only.
    pub skip: bool,
    /// ‖w_dec‖ of every latent at the start. The encoder starts as its transpose.
    pub decoder_norm: f64,
    /// Start of b_dec.
    pub b_dec: BiasInit,
    /// Factor that activations are multiplied by in training; folded away at export.
    pub normalize: Normalize,
    /// Tokens without firing after which a latent is dead.
    pub dead_after: u64,
    /// Steps between two resamplings of dead latents; 0 for never.
    pub resample_every: u64,
}

/// Activation function and loss.
#[derive(Clone, Debug, PartialEq)]
pub enum Variant {
    /// ReLU with an L1 penalty weighted by decoder norms (Conerly et al. 2024).
    Standard {
        /// λ.
        l1_coefficient: f64,
    },
    /// TopK, BatchTopK, Matryoshka BatchTopK.
    TopK(TopK),
    /// JumpReLU.
    JumpRelu(JumpRelu),
    /// Gated (Rajamanoharan et al. 2024a). Unlike the paper, and like SAELens, the
    /// auxiliary term also trains the decoder.
    Gated {
        /// λ.
        l1_coefficient: f64,
    },
}

/// TopK and its relatives.
#[derive(Clone, Debug, PartialEq)]
pub struct TopK {
    /// Active latents a token; may be fractional with [`Pool::Batch`].
    pub k: f64,
    /// Where they are chosen from.
    pub pool: Pool,
    /// Choose by p·‖w_dec‖ instead of p.
    pub rescale: bool,
    /// Matryoshka prefixes (Bussmann et al. 2025), ascending, the last one d_sae; empty
    /// for none.
    pub widths: Vec<usize>,
    /// α of the AuxK loss; 0 for none.
    pub aux_coefficient: f64,
    /// Dead latents that AuxK takes a token; d_in/2 where `None`.
    pub k_aux: Option<usize>,
}

/// Where the k largest are chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// From the latents of each token (Gao et al. 2024).
    Token,
    /// From those of the whole batch (Bussmann et al. 2024).
    Batch,
}

/// JumpReLU (Rajamanoharan et al. 2024b).
#[derive(Clone, Debug, PartialEq)]
pub struct JumpRelu {
    /// The sparsity penalty.
    pub penalty: Sparsity,
    /// λ.
    pub l0_coefficient: f64,
    /// ε of the straight-through estimate.
    pub bandwidth: f64,
    /// θ at the start.
    pub init_threshold: f64,
    /// c₀ of the pre-activation loss; 0 for none.
    pub pre_act_coefficient: f64,
    /// Whether the straight-through estimate also reaches the pre-activations.
    pub ste_to_input: bool,
}

/// Penalty of a JumpReLU SAE.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sparsity {
    /// λ·mean L0.
    Step,
    /// λ·mean (2/T)(L0 − T)².
    Quadratic {
        /// T.
        target_l0: f64,
    },
    /// (λ/B)·Σ tanh(scale·a·‖w_dec‖) (Anthropic 2025).
    Tanh {
        /// Slope at 0.
        scale: f64,
    },
}

/// Start of b_dec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BiasInit {
    /// Zeros.
    Zeros,
    /// Mean of the first activations.
    Mean,
    /// Their geometric median, which outliers do not move.
    GeometricMedian,
}

/// Factor of the activations, estimated on the first ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalize {
    /// 1.
    None,
    /// Makes E‖x‖ = √d.
    MeanNorm,
    /// Makes E‖x‖² = 1.
    MeanSquare,
}

impl SaeSpec {
    /// A spec with the defaults of everything but `d_sae` and `variant`.
    pub fn new(d_sae: usize, variant: Variant) -> Self {
        Self {
            d_sae,
            variant,
            target: None,
            skip: false,
            decoder_norm: 0.1,
            b_dec: BiasInit::GeometricMedian,
            normalize: Normalize::None,
            dead_after: 10_000_000,
            resample_every: 0,
        }
    }

    /// The final k of TopK variants.
    pub fn k(&self) -> Option<f64> {
        match &self.variant {
            Variant::TopK(topk) => Some(topk.k),
            _ => None,
        }
    }

    /// Whether the settings can be used.
    ///
    /// # Errors
    /// `config-invalid` about the key of the `[sae]` table.
    pub fn validate(&self) -> Result<()> {
        check(self.d_sae > 0, "d_sae", "must be at least 1")?;
        check(
            u32::try_from(self.d_sae).is_ok(),
            "d_sae",
            format_args!("{} exceeds 2³² − 1", self.d_sae),
        )?;
        check(
            !self.skip || self.target.is_some(),
            "skip",
            "needs `target`, the hook point that the transcoder writes",
        )?;
        positive("decoder_norm", self.decoder_norm)?;
        check(self.dead_after > 0, "dead_after", "must be at least 1")?;
        match &self.variant {
            Variant::Standard { l1_coefficient } | Variant::Gated { l1_coefficient } => {
                not_negative("l1_coefficient", *l1_coefficient)
            }
            Variant::TopK(topk) => topk.validate(self.d_sae),
            Variant::JumpRelu(jump) => jump.validate(),
        }
    }
}

impl TopK {
    /// A plain TopK of `k` with the defaults: AuxK as SAELens has it.
    pub fn new(k: f64, pool: Pool) -> Self {
        Self {
            k,
            pool,
            rescale: true,
            widths: Vec::new(),
            aux_coefficient: 1.0,
            k_aux: None,
        }
    }

    fn validate(&self, d_sae: usize) -> Result<()> {
        check_k("k", self.k, self.pool, d_sae)?;
        check(
            self.widths.is_empty() || self.pool == Pool::Batch,
            "widths",
            "need matryoshka_batch_topk",
        )?;
        check(
            self.widths.windows(2).all(|w| w[0] < w[1]),
            "widths",
            format_args!("{:?} does not ascend", self.widths),
        )?;
        check(
            self.widths.first().is_none_or(|w| *w > 0)
                && self.widths.last().is_none_or(|w| *w == d_sae),
            "widths",
            format_args!(
                "{:?} must start above 0 and end with d_sae {d_sae}",
                self.widths
            ),
        )?;
        not_negative("aux_coefficient", self.aux_coefficient)?;
        check(self.k_aux != Some(0), "k_aux", "must be at least 1")
    }
}

/// Whether `k` can be chosen from `d_sae` latents.
///
/// # Errors
/// `config-invalid` about `key`.
pub fn check_k(key: &str, k: f64, pool: Pool, d_sae: usize) -> Result<()> {
    positive(key, k)?;
    check(
        k <= d_sae as f64,
        key,
        format_args!("{k} exceeds d_sae {d_sae}"),
    )?;
    check(
        pool == Pool::Batch || (k.fract() == 0.0),
        key,
        format_args!("{k} is not a whole number, which topk needs"),
    )
}

impl JumpRelu {
    /// JumpReLU with the defaults of SAELens.
    pub fn new(penalty: Sparsity, l0_coefficient: f64) -> Self {
        Self {
            penalty,
            l0_coefficient,
            bandwidth: 0.05,
            init_threshold: 0.01,
            pre_act_coefficient: 0.0,
            ste_to_input: false,
        }
    }

    fn validate(&self) -> Result<()> {
        match self.penalty {
            Sparsity::Step => {}
            Sparsity::Quadratic { target_l0 } => positive("target_l0", target_l0)?,
            Sparsity::Tanh { scale } => positive("tanh_scale", scale)?,
        }
        not_negative("l0_coefficient", self.l0_coefficient)?;
        positive("bandwidth", self.bandwidth)?;
        not_negative("init_threshold", self.init_threshold)?;
        not_negative("pre_act_coefficient", self.pre_act_coefficient)
    }
}

fn check(holds: bool, key: &str, message: impl Display) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Error::new(Code::ConfigInvalid, key, message))
    }
}

pub(super) fn positive(key: &str, value: f64) -> Result<()> {
    let holds = value.is_finite() && value > 0.0;
    check(holds, key, format_args!("{value} is not above 0"))
}

pub(super) fn not_negative(key: &str, value: f64) -> Result<()> {
    let holds = value.is_finite() && value >= 0.0;
    check(holds, key, format_args!("{value} is not 0 or above"))
}

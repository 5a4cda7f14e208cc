//! The one description of a decoder-only language model.

use super::hook::{Hook, HookPoint};
use crate::device::lm::{Activation, NormKind};
use crate::domain::Precision;

/// A decoder, as `config.json` describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct LmSpec {
    /// `model_type` of the config.
    pub family: &'static str,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Inner width of the MLP.
    pub d_mlp: usize,
    /// The longest context that the model was made for. With learned positions nothing
    /// longer can be computed.
    pub max_positions: usize,
    /// Whether positions are learned rows, added to the embedding.
    pub learned_positions: bool,
    /// Multiplies the token embedding.
    pub embed_scale: f64,
    /// Every norm of the model.
    pub norm: NormSpec,
    /// Where a block's norms stand.
    pub placement: Placement,
    /// Whether attention and MLP read the same stream (GPT-NeoX) instead of one after the
    /// other.
    pub parallel: bool,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output has a bias.
    pub out_bias: bool,
    /// Whether the MLP has biases.
    pub mlp_bias: bool,
    /// Norms of queries and keys.
    pub qk_norm: QkNormKind,
    /// `c` of `c · tanh(score / c)` in attention.
    pub attn_softcap: Option<f64>,
    /// `c` of `c · tanh(logit / c)` at the end.
    pub final_softcap: Option<f64>,
    /// The MLP's nonlinearity.
    pub activation: Activation,
    /// Whether a gate multiplies the MLP's inner row.
    pub gated: bool,
    /// Kinds of rotary embedding that blocks use.
    pub ropes: Vec<Rope>,
    /// The blocks, first to last.
    pub blocks: Vec<BlockSpec>,
    /// Whether the unembedding is the embedding.
    pub tied: bool,
}

/// The model's norms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    /// Centring and scaling.
    pub kind: NormKind,
    /// What is added to the variance or mean square.
    pub eps: f64,
    /// Whether the weight is stored as its distance from one (Gemma).
    pub plus_one: bool,
}

/// Where a block's norms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Before attention and MLP.
    Before,
    /// Before and after each (Gemma 2 and 3).
    Around,
    /// After each (OLMo 2).
    After,
}

/// Norms of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNormKind {
    /// None.
    Off,
    /// Each head by itself (Qwen 3, Gemma 3).
    PerHead,
    /// All heads together (OLMo 2).
    FullWidth,
}

/// What differs from block to block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockSpec {
    /// Multiplies attention scores.
    pub scale: f64,
    /// Sliding window: a token sees itself and this many less one before it.
    pub window: Option<usize>,
    /// Index into [`LmSpec::ropes`].
    pub rope: Option<usize>,
}

/// A rotary embedding (Su et al. 2021).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Leading elements of a head that turn.
    pub dim: usize,
    /// How frequencies were stretched for longer contexts.
    pub scaling: RopeScaling,
}

/// How a rotary embedding's frequencies are stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All divided by the factor (position interpolation, Chen et al. 2023).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, a ramp between them.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context of the pre-training.
        original: f64,
    },
}

impl Rope {
    /// The `dim / 2` inverse frequencies. They are rounded to f32 after every step, because
    /// the models were trained with frequencies computed that way, and at position 10⁴ a
    /// last bit of a frequency is a thousandth of a radian.
    pub fn inverse_frequencies(&self) -> Vec<f32> {
        (0..self.dim / 2)
            .map(|i| {
                let exponent = (2 * i) as f32 / self.dim as f32;
                let inverse = 1.0 / self.theta.powf(f64::from(exponent)) as f32;
                self.scaled(inverse)
            })
            .collect()
    }

    fn scaled(&self, inverse: f32) -> f32 {
        match self.scaling {
            RopeScaling::None => inverse,
            RopeScaling::Linear { factor } => inverse / factor as f32,
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original,
            } => {
                let wavelength = 2.0 * std::f32::consts::PI / inverse;
                if wavelength > (original / low) as f32 {
                    inverse / factor as f32
                } else if wavelength < (original / high) as f32 {
                    inverse
                } else {
                    let ramp = (original as f32 / wavelength - low as f32) / (high - low) as f32;
                    (1.0 - ramp) * inverse / factor as f32 + ramp * inverse
                }
            }
        }
    }
}

impl LmSpec {
    /// Number of blocks.
    pub fn layers(&self) -> usize {
        self.blocks.len()
    }

    /// Width of a row of queries, keys and values.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Weights and biases; a tied unembedding counts once.
    pub fn parameters(&self) -> usize {
        // What no machine holds is a number too: a config may say anything.
        usize::try_from(self.wide_parameters()).unwrap_or(usize::MAX)
    }

    fn wide_parameters(&self) -> u128 {
        let [d, heads, kv_heads, head_dim, d_mlp] = [
            self.d_model,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.d_mlp,
        ]
        .map(|n| n as u128);
        let qkv_width = (heads + 2 * kv_heads) * head_dim;
        let norm = d * match self.norm.kind {
            NormKind::Layer => 2,
            NormKind::Rms => 1,
        };
        let norms = match self.placement {
            Placement::Before | Placement::After => 2,
            Placement::Around => 4,
        };
        let qk_norm = match self.qk_norm {
            QkNormKind::Off => 0,
            QkNormKind::PerHead => 2 * head_dim,
            QkNormKind::FullWidth => (heads + kv_heads) * head_dim,
        };
        let up = if self.gated { 2 } else { 1 } * d_mlp;
        let linear = |n: u128, k: u128, bias: bool| n * k + if bias { n } else { 0 };
        let block = norms * norm
            + qk_norm
            + linear(qkv_width, d, self.qkv_bias)
            + linear(d, heads * head_dim, self.out_bias)
            + linear(up, d, self.mlp_bias)
            + linear(d, d_mlp, self.mlp_bias);
        let final_norm = match self.norm.kind {
            NormKind::Layer => 2 * d,
            NormKind::Rms => d,
        };
        let positions = self.position_parameters();
        let tables = if self.tied { 1 } else { 2 };
        tables * self.vocab as u128 * d + positions + final_norm + self.layers() as u128 * block
    }

    fn position_parameters(&self) -> u128 {
        match self.learned_positions {
            true => self.max_positions as u128 * self.d_model as u128,
            false => 0,
        }
    }

    /// Bytes that the loaded weights take in `precision`: a tied embedding is held twice, as
    /// rows to look up and packed for the product.
    pub fn weight_bytes(&self, precision: Precision) -> usize {
        let tied = match self.tied {
            true => self.vocab as u128 * self.d_model as u128,
            false => 0,
        };
        let positions = self.position_parameters();
        let coded = self.wide_parameters() + tied - positions;
        let bytes = precision.bytes(coded) + Precision::F32.bytes(positions);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Bytes that a forward pass over `rows` tokens holds beside the weights: the residual
    /// stream, its norm, one block's attention, the branches' outputs, and a product's
    /// packed rows. What a thread keeps for blocks of rows does not grow with them.
    pub fn forward_bytes(&self, rows: usize) -> usize {
        let branches = if self.parallel { 2 } else { 1 };
        let attended = self.heads * self.head_dim;
        let packed = self.d_model.max(attended);
        let row = (2 + branches) * self.d_model + self.qkv_width() + attended + packed;
        rows * row * size_of::<f32>()
    }

    /// Every hook point of the model, in the order of computation.
    pub fn hook_points(&self) -> Vec<HookPoint> {
        (0..self.layers())
            .flat_map(|layer| Hook::ALL.map(|hook| HookPoint { layer, hook }))
            .filter(|point| self.has(*point))
            .collect()
    }

    /// Whether the model has the hook point.
    pub fn has(&self, point: HookPoint) -> bool {
        point.layer < self.layers() && !(self.parallel && point.hook == Hook::ResidMid)
    }
}

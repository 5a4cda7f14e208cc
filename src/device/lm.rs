//! What a backend computes for language models: embeddings, norms, products, attention,
//! the MLP, and the cross-entropy of the next token.
//!
//! Rows are tokens. A batch is `batch × context` rows, context after context; `d_model` is
//! the width of the residual stream. Every operation treats a row, or for attention a
//! context, by itself and in a fixed order: a context gives the same bits alone, in a
//! batch, and on any number of threads.

use super::Device;
use super::coded::Coded;
use super::rows::RowOps;
use crate::domain::Result;

/// A target of [`LmOps::losses`] that asks for no loss.
pub const NO_TARGET: u32 = u32::MAX;

/// How a norm centres and scales a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Mean and variance (Ba et al. 2016).
    Layer,
    /// Root mean square (Zhang and Sennrich 2019).
    Rms,
}

/// The MLP's nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x Φ(x)`.
    Gelu,
    /// `x σ(2 √(2/π) (x + 0.044715 x³))`, which is `gelu_new` and `gelu_pytorch_tanh`.
    GeluTanh,
    /// `x σ(x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
}

/// A norm over rows of `weight`'s length.
pub struct Norm<D: Device> {
    /// Centring and scaling.
    pub kind: NormKind,
    /// What is added to the variance or mean square.
    pub eps: f64,
    /// Multiplies the normalised row.
    pub weight: D::Buf,
    /// Is added at the end.
    pub bias: Option<D::Buf>,
}

/// `x · wᵀ + bias`.
pub struct Linear<D: LmOps> {
    /// The weights [n, k].
    pub weight: D::Weight,
    /// The bias `[n]`.
    pub bias: Option<D::Buf>,
}

/// `down(act(up(x)))`, or `down(act(gate(x)) ⊙ up(x))` where `gated`.
pub struct Mlp<D: LmOps> {
    /// [d_mlp, d_model]; where `gated` [2 · d_mlp, d_model], the gate's rows first.
    pub up: Linear<D>,
    /// [d_model, d_mlp].
    pub down: Linear<D>,
    /// The nonlinearity.
    pub activation: Activation,
    /// Whether a gate multiplies `up`.
    pub gated: bool,
    /// The inner width.
    pub d_mlp: usize,
}

/// The unembedding, cut into tiles of the vocabulary so that no operation needs to hold a
/// whole row of logits for many tokens.
pub struct Head<D: LmOps> {
    /// Weights [≤ tile, d_model] of consecutive tokens.
    pub tiles: Vec<D::Weight>,
    /// Logits of each tile but the last.
    pub tile: usize,
    /// Number of tokens.
    pub vocab: usize,
    /// `c` of `c · tanh(logit / c)`.
    pub softcap: Option<f64>,
}

/// The real tokens of one context; what stands around them is padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Row of the first real token, counted from the batch's first row.
    pub start: usize,
    /// Number of real tokens.
    pub len: usize,
}

/// Token embeddings [vocab, d_model].
pub enum Table<D: LmOps> {
    /// As they are.
    Plain(D::Buf),
    /// In codes.
    Coded(D::CodedTable),
}

/// The rows that open the residual stream: `table[id] · scale + positions[p]`.
pub struct Embed<'a, D: LmOps> {
    /// Token embeddings [vocab, d_model].
    pub table: &'a Table<D>,
    /// Learned positions [max_positions, d_model].
    pub positions: Option<&'a D::Buf>,
    /// Multiplies the token's embedding.
    pub scale: f64,
    /// Token of each row, below the table's length.
    pub ids: &'a [u32],
    /// Position of each row within its span.
    pub at: &'a [u32],
    /// Width of a row.
    pub d_model: usize,
}

/// Angles of rotary embeddings (Su et al. 2021), for the half-split pairing: element `i`
/// turns with element `i + dim / 2`.
pub struct RopeTable<D: Device> {
    /// cos [positions, dim / 2].
    pub cos: D::Buf,
    /// sin [positions, dim / 2].
    pub sin: D::Buf,
    /// Leading elements of a head that are turned; the others pass.
    pub dim: usize,
}

/// Norms of queries and keys, before they are turned.
pub enum QkNorm<D: Device> {
    /// None.
    Off,
    /// Each head by itself: weights `[head_dim]`.
    PerHead(Norm<D>, Norm<D>),
    /// All heads together: weights [heads · head_dim] and [kv_heads · head_dim].
    FullWidth(Norm<D>, Norm<D>),
}

/// Causal attention within each span.
pub struct Attention<'a, D: Device> {
    /// Real tokens of each context.
    pub spans: &'a [Span],
    /// Rows of the batch, padding included.
    pub rows: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Multiplies the scores.
    pub scale: f64,
    /// `c` of `c · tanh(score / c)`.
    pub softcap: Option<f64>,
    /// A token sees itself and this many less one before it.
    pub window: Option<usize>,
    /// Rotary angles, for at least the longest span.
    pub rope: Option<&'a RopeTable<D>>,
    /// Norms of queries and keys.
    pub qk_norm: &'a QkNorm<D>,
    /// Queries, keys and values may be rounded to bf16 before they are multiplied.
    pub rounded: bool,
}

impl<D: Device> Attention<'_, D> {
    /// Width of a row of queries, keys and values.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

/// A backend that can run language models.
///
/// Buffers may be longer than `rows` needs; what lies behind is left alone. Results of
/// padding rows are finite where their inputs are, and otherwise unspecified. Running out
/// of memory is [`crate::domain::Code::OutOfMemory`], a value.
pub trait LmOps: RowOps + Sized {
    /// A weight matrix in the form that products want.
    type Weight: Send + Sync;
    /// A table in codes, of which single rows are read.
    type CodedTable: Send + Sync;

    /// Prepares `w` [n, k], row-major.
    fn pack(&self, w: &[Self::Real], n: usize, k: usize) -> Result<Self::Weight>;

    /// Prepares a matrix that is held in codes.
    fn pack_coded(&self, w: Coded) -> Result<Self::Weight>;

    /// Prepares a table that is held in codes.
    fn hold_coded(&self, table: Coded) -> Result<Self::CodedTable>;

    /// Writes the rows that open the residual stream.
    fn embed(&self, work: &Embed<'_, Self>, out: &mut Self::Buf) -> Result<()>;

    /// `out` = the norm of each row of `x` [rows, width of the norm].
    fn norm(
        &self,
        x: &Self::Buf,
        rows: usize,
        norm: &Norm<Self>,
        out: &mut Self::Buf,
    ) -> Result<()>;

    /// `to[..len] += delta[..len]`.
    fn add(&self, delta: &Self::Buf, len: usize, to: &mut Self::Buf) -> Result<()>;

    /// `out` [rows, n] = `x` [rows, k] through `layer`.
    fn linear(
        &self,
        x: &Self::Buf,
        rows: usize,
        layer: &Linear<Self>,
        out: &mut Self::Buf,
    ) -> Result<()>;

    /// `out` [rows, n] = the norm of `x` [rows, k] through `layer`. `normed` [rows, k] is room for
    /// what comes between: what it holds then is unspecified.
    fn norm_linear(
        &self,
        x: &Self::Buf,
        rows: usize,
        norm: &Norm<Self>,
        normed: &mut Self::Buf,
        layer: &Linear<Self>,
        out: &mut Self::Buf,
    ) -> Result<()> {
        self.norm(x, rows, norm, normed)?;
        self.linear(normed, rows, layer, out)
    }

    /// `out` [rows, heads · head_dim] from `qkv` [rows, queries | keys | values], which it
    /// may overwrite.
    fn attention(
        &self,
        work: &Attention<'_, Self>,
        qkv: &mut Self::Buf,
        out: &mut Self::Buf,
    ) -> Result<()>;

    /// `out` [rows, d_model] = the MLP of `x` [rows, d_model].
    fn mlp(&self, x: &Self::Buf, rows: usize, mlp: &Mlp<Self>, out: &mut Self::Buf) -> Result<()>;

    /// `out` [rows, d_model] = the MLP of the norm of `x` [rows, d_model]; `normed` as in
    /// [`LmOps::norm_linear`].
    fn norm_mlp(
        &self,
        x: &Self::Buf,
        rows: usize,
        norm: &Norm<Self>,
        normed: &mut Self::Buf,
        mlp: &Mlp<Self>,
        out: &mut Self::Buf,
    ) -> Result<()> {
        self.norm(x, rows, norm, normed)?;
        self.mlp(normed, rows, mlp, out)
    }

    /// `out` [rows, vocab] = the logits of `x` [rows, d_model].
    fn logits(
        &self,
        x: &Self::Buf,
        rows: usize,
        head: &Head<Self>,
        out: &mut Self::Buf,
    ) -> Result<()>;

    /// `out[r]` = −ln softmax(logits of row r of `x`)[`targets[r]`], in nats; rows with
    /// [`NO_TARGET`] keep what `out` holds. The logits are never held whole.
    fn losses(
        &self,
        x: &Self::Buf,
        head: &Head<Self>,
        targets: &[u32],
        out: &mut [f64],
    ) -> Result<()>;
}

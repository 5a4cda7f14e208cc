//! What a backend computes for sparse autoencoders.
//!
//! Shapes: B tokens, d = width of the activations, F = number of latents. Both weight
//! matrices are stored with one contiguous row a latent: `w_enc` [F, d_in] (the transpose
//! of SAELens' `W_enc`) and `w_dec` [F, d_out].
//!
//! The codes of a batch are sparse (CSR): an *edge* is one (token, latent) pair that a
//! selection kept, with its pre-activation p. Edges are ordered by token, then by latent.
//! Everything that belongs to edges (values a, gradients da and dp) is a plain buffer
//! aligned with them.
//!
//! Rules for every backend:
//! - buffers may be longer than an operation needs: it uses the first elements, and leaves
//!   the rest of an output as it was;
//! - results do not depend on the number of threads;
//! - scalar sums come back as f64, by [`SaeOps::numbers`]; NaN and infinity pass through every sum, so that a
//!   non-finite number shows in the loss or in the gradient norm;
//! - memory is taken before anything is written to weights or moments; an operation that
//!   fails with [`crate::domain::Code::OutOfMemory`] has changed outputs at most.

pub mod rules;

use super::Device;
use crate::domain::Result;
pub use rules::{EdgeGrads, Penalty, PreAct, Rule};

/// Rows `first .. first + count` of a row-major matrix.
pub struct Rows<'a, B> {
    /// The matrix.
    pub buf: &'a B,
    /// First row.
    pub first: usize,
    /// Number of rows.
    pub count: usize,
}

impl<B> Clone for Rows<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for Rows<'_, B> {}

impl<'a, B> Rows<'a, B> {
    /// The first `count` rows of `buf`.
    pub fn of(buf: &'a B, count: usize) -> Self {
        Self {
            buf,
            first: 0,
            count,
        }
    }

    /// `count` of these rows, from row `first` of them.
    pub fn part(self, first: usize, count: usize) -> Self {
        debug_assert!(first + count <= self.count);
        Self {
            buf: self.buf,
            first: self.first + first,
            count,
        }
    }
}

/// Latents to choose from, by ascending number; the others do not exist for the selection.
pub struct Among<'a, I> {
    /// Numbers of latents, ascending, each once.
    pub latents: &'a I,
    /// How many.
    pub count: usize,
}

/// Which pre-activations of a batch become edges.
///
/// A key is p·scale_j (p where `scale` is `None`). Of equal keys the lower token wins,
/// then the lower latent; NaN is less than any number.
pub enum Select<'a, B, I> {
    /// For every token exactly the `k` largest keys, whatever their sign.
    /// Needs k ≤ number of latents to choose from.
    TopK {
        /// Edges of each token.
        k: usize,
        /// Factor of each latent \[F\], usually the decoder norm.
        scale: Option<&'a B>,
        /// Latents to choose from; all where `None`.
        among: Option<Among<'a, I>>,
    },
    /// The `total` largest *positive* keys of the whole batch (fewer where fewer are
    /// positive).
    BatchTopK {
        /// Edges of the batch, at most.
        total: usize,
        /// As for `TopK`.
        scale: Option<&'a B>,
    },
    /// Every p > `lower`_j (strictly). −∞ selects all of a latent, +∞ none.
    Above {
        /// Bound of each latent \[F\].
        lower: &'a B,
    },
}

/// The encoder product p = (x − center)·w_encᵀ + b_enc over all latents.
pub struct Encode<'a, B> {
    /// Activations [B, d_in].
    pub x: Rows<'a, B>,
    /// Subtracted from every row of `x` \[d_in\]: b_dec.
    pub center: Option<&'a B>,
    /// Encoder [d_sae, d_in].
    pub w_enc: &'a B,
    /// Encoder bias \[d_sae\].
    pub b_enc: &'a B,
    /// Width of the activations.
    pub d_in: usize,
    /// Number of latents F.
    pub d_sae: usize,
    /// Factors may be rounded to what `training.amp` says. Measures don't: their activations come as
    /// the model has them, without a factor that brings them into the range of fp16.
    pub rounded: bool,
}

/// One selection of an encoder product.
pub struct Pick<'a, D: SaeOps + ?Sized> {
    /// What to keep.
    pub select: Select<'a, D::Buf, D::Ints>,
    /// Where it goes; earlier content is dropped, memory is reused.
    pub codes: &'a mut D::Codes,
}

/// What a reconstruction starts from.
pub enum Base<'a, B> {
    /// Nothing.
    Zero,
    /// The same row for each token \[d_out\]: b_dec.
    Row(&'a B),
    /// A row for each token [B, d_out]: b_dec + the skip connection.
    Rows(&'a B),
}

/// The sum over edges x̂_b = base + Σ a_e·w_dec[latent(e)], edges in order.
pub struct Decode<'a, D: SaeOps + ?Sized> {
    /// The codes; B is their number of rows.
    pub codes: &'a D::Codes,
    /// a of each edge.
    pub values: &'a D::Buf,
    /// Decoder [d_sae, d_out].
    pub w_dec: &'a D::Buf,
    /// Width of the output.
    pub d_out: usize,
    /// What is there before the first edge.
    pub base: Base<'a, D::Buf>,
}

/// What a reconstruction is compared with.
pub enum Target<'a, B> {
    /// y [B, d_out].
    Rows(Rows<'a, B>),
    /// y − `out`, the residual of an earlier reconstruction [B, d_out].
    Residual {
        /// y [B, d_out].
        of: Rows<'a, B>,
        /// x̂ [B, d_out].
        out: &'a B,
    },
}

impl<B> Clone for Base<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for Base<'_, B> {}

impl<B> Clone for Target<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for Target<'_, B> {}

/// One reconstruction loss: of the latents below `width`, with gradient
/// g = `scale`·(x̂ − y). For the mean squared error of a batch, scale = 2/B.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prefix {
    /// Number of latents that take part.
    pub width: usize,
    /// Factor of the gradient.
    pub scale: f64,
}

/// Number of the prefix group of `latent`: the first prefix that holds it.
pub fn group_of(prefixes: &[Prefix], latent: usize) -> usize {
    prefixes.partition_point(|p| p.width <= latent)
}

/// Decode, compare and differentiate in one pass over the tokens.
///
/// For each prefix l, x̂_l is the sum over its latents (and the base), and
/// g_l = scale_l·(x̂_l − y). A latent of group m (see [`group_of`]) takes part in every
/// prefix l ≥ m, so the gradient that reaches it is G_m = Σ_{l≥m} g_l.
pub struct Reconstruct<'a, D: SaeOps + ?Sized> {
    /// What to sum.
    pub decode: Decode<'a, D>,
    /// What to compare with.
    pub target: Target<'a, D::Buf>,
    /// Widths strictly ascending, the last one = d_sae. One for all but Matryoshka SAEs.
    pub prefixes: &'a [Prefix],
}

/// Outputs of [`SaeOps::reconstruct`].
pub struct Reconstruction<'a, B> {
    /// x̂ of all latents [B, d_out].
    pub out: Option<&'a mut B>,
    /// G [M, B, d_out], one block a prefix.
    pub grad: &'a mut B,
    /// da of each edge, also of those whose value is 0: G_group(latent)\[token\]·w_dec\[latent\].
    pub dots: &'a mut B,
}

/// dW[latent(e)] += v_e·(rows[token(e)] − center), over all edges.
pub struct OuterGrad<'a, D: SaeOps + ?Sized> {
    /// The codes.
    pub codes: &'a D::Codes,
    /// v of each edge.
    pub values: &'a D::Buf,
    /// Rows of the tokens [B, d], or G [M, B, d] with `first` = 0 and `count` = B: then a
    /// latent of group m takes rows of block m.
    pub rows: Rows<'a, D::Buf>,
    /// The prefixes of G; empty where `rows` is one block.
    pub prefixes: &'a [Prefix],
    /// Subtracted from every row \[d\].
    pub center: Option<&'a D::Buf>,
    /// Width of the rows.
    pub d: usize,
    /// Factor of the rows for a backend that rounds them, which it takes off their sums: a power
    /// of two. Others have no use for it.
    pub scale: f64,
    /// Add to `out`; otherwise `out` is overwritten, latents without edges by zeros.
    pub accumulate: bool,
}

/// One Adam step (Kingma & Ba 2015), as PyTorch computes it:
/// g ← grad_scale·grad; m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²;
/// p ← p·(1 − lr·decay) − lr·(m/c₁)/(√(v/c₂) + eps), with c_i = 1 − β_i^step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// Learning rate.
    pub lr: f64,
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// Added to the root.
    pub eps: f64,
    /// Decoupled weight decay; 0 for none.
    pub decay: f64,
    /// c₁ = 1 − β₁^step, step counted from 1.
    pub correction1: f64,
    /// c₂ = 1 − β₂^step.
    pub correction2: f64,
    /// Factor of the gradient: what clipping leaves of it.
    pub grad_scale: f64,
}

/// Codes on the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostCodes<R> {
    /// Edges of token b are `row_ptr[b] .. row_ptr[b + 1]`; B + 1 entries.
    pub row_ptr: Vec<u32>,
    /// Latent of each edge, ascending within a token.
    pub latent: Vec<u32>,
    /// p of each edge.
    pub pre: Vec<R>,
}

/// The operations. `accumulate` everywhere means `out += …` instead of `out = …`.
pub trait SaeOps: Device {
    /// Sparse codes of a batch.
    type Codes: Send + Sync;
    /// Numbers that the device may still be working on.
    type Later;

    /// The numbers of several operations, each as it promised them: one wait for all.
    fn numbers(&self, later: Vec<Self::Later>) -> Result<Vec<Vec<f64>>>;
    /// … and the first `counts`, with the same wait.
    fn numbers_and_counts(
        &self,
        later: Vec<Self::Later>,
        counts: &Self::Ints,
        to: &mut [u32],
    ) -> Result<Vec<Vec<f64>>> {
        self.read_ints(counts, 0, to)?;
        self.numbers(later)
    }

    /// Whether gradients are rounded to a format in which many are too small, unless the loss is
    /// scaled.
    fn scales_loss(&self) -> bool {
        false
    }
    /// Later the largest |v| of rows − center (width d) as the encoder's product has it, for a
    /// backend that rounds it to a format that does not hold every number.
    fn largest_rounded(
        &self,
        rows: Rows<'_, Self::Buf>,
        center: Option<&Self::Buf>,
        d: usize,
    ) -> Result<Option<Self::Later>> {
        let _ = (rows, center, d);
        Ok(None)
    }

    /// Codes without tokens.
    fn new_codes(&self) -> Self::Codes;
    /// Number of tokens B.
    fn tokens(&self, codes: &Self::Codes) -> usize;
    /// Number of edges.
    fn edges(&self, codes: &Self::Codes) -> usize;
    /// p of each edge.
    fn pre<'a>(&self, codes: &'a Self::Codes) -> &'a Self::Buf;
    /// Copies codes to the host.
    fn download_codes(&self, codes: &Self::Codes) -> Result<HostCodes<Self::Real>>;
    /// Makes `out` the tokens `first .. first + count` of `codes`.
    fn slice_codes(
        &self,
        codes: &Self::Codes,
        first: usize,
        count: usize,
        out: &mut Self::Codes,
    ) -> Result<()>;

    /// One encoder product, one or more selections of it. The [B, F] matrix is never
    /// held: memory grows with the edges and with a tile.
    fn encode(&self, product: &Encode<'_, Self::Buf>, picks: &mut [Pick<'_, Self>]) -> Result<()>;
    /// As [`SaeOps::encode`], but the backend may guess: then it tells later a number that is 0
    /// where it guessed right. Where not, the codes are to be made again, by `encode`.
    fn try_encode(
        &self,
        product: &Encode<'_, Self::Buf>,
        picks: &mut [Pick<'_, Self>],
    ) -> Result<Option<Self::Later>> {
        self.encode(product, picks)?;
        Ok(None)
    }
    /// Later the smallest positive key p·scale_j of the edges; 0 where none is positive.
    fn least_positive(&self, codes: &Self::Codes, scale: Option<&Self::Buf>)
    -> Result<Self::Later>;

    /// a of each edge ([`Rule::value`]) to `values`; later the number of non-zero ones.
    fn activate(
        &self,
        codes: &Self::Codes,
        rule: &Rule<'_, Self::Buf>,
        values: &mut Self::Buf,
    ) -> Result<Self::Later>;
    /// Given da of each edge, the gradients that `grads` asks for ([`Rule::backward`]);
    /// later the sums of the penalty and of the pre-activation loss.
    fn activate_backward(
        &self,
        codes: &Self::Codes,
        rule: &Rule<'_, Self::Buf>,
        penalty: &Penalty<'_, Self::Buf>,
        pre_act: Option<&PreAct<'_, Self::Buf, Self::Ints>>,
        da: &Self::Buf,
        grads: &mut EdgeGrads<'_, Self::Buf>,
    ) -> Result<Self::Later>;

    /// x̂ [B, d_out].
    fn decode(&self, decode: &Decode<'_, Self>, out: &mut Self::Buf) -> Result<()>;
    /// See [`Reconstruct`]; later Σ_b ‖x̂_l − y‖² of each prefix.
    fn reconstruct(
        &self,
        work: &Reconstruct<'_, Self>,
        out: Reconstruction<'_, Self::Buf>,
    ) -> Result<Self::Later>;
    /// See [`OuterGrad`]; `out` is [d_sae, d].
    fn outer_grad(&self, work: &OuterGrad<'_, Self>, out: &mut Self::Buf) -> Result<()>;
    /// out\[j\] = Σ over the edges of latent j of `values` \[d_sae\].
    fn latent_sums(
        &self,
        codes: &Self::Codes,
        values: &Self::Buf,
        out: &mut Self::Buf,
        accumulate: bool,
    ) -> Result<()>;
    /// counts\[j\] += number of edges of latent j with a value > 0 (saturating).
    fn count_fired(
        &self,
        codes: &Self::Codes,
        values: &Self::Buf,
        counts: &mut Self::Ints,
    ) -> Result<()>;

    /// out\[c\] = Σ_b rows[b, c], width d.
    fn column_sums(
        &self,
        rows: Rows<'_, Self::Buf>,
        d: usize,
        out: &mut Self::Buf,
        accumulate: bool,
    ) -> Result<()>;
    /// Σ_b ‖rows\[b\] − mean row‖², the variance that a reconstruction explains part of,
    /// later.
    fn spread(&self, rows: Rows<'_, Self::Buf>, d: usize) -> Result<Self::Later>;
    /// out = factor·rows, width d.
    fn scaled(
        &self,
        rows: Rows<'_, Self::Buf>,
        d: usize,
        factor: f64,
        out: &mut Self::Buf,
    ) -> Result<()>;
    /// out = x·wᵀ + bias, with x [B, d_in], w [d_out, d_in], out [B, d_out].
    fn linear(
        &self,
        x: Rows<'_, Self::Buf>,
        w: &Self::Buf,
        bias: &Self::Buf,
        d_in: usize,
        d_out: usize,
        out: &mut Self::Buf,
    ) -> Result<()>;
    /// dw = gᵀ·x, with g [B, d_out], x [B, d_in], dw [d_out, d_in].
    fn linear_grad(
        &self,
        g: Rows<'_, Self::Buf>,
        x: Rows<'_, Self::Buf>,
        d_in: usize,
        d_out: usize,
        dw: &mut Self::Buf,
        accumulate: bool,
    ) -> Result<()>;

    /// out\[c\] += factor·Σ_j v_j·w[j, c], with v \[rows\], w [rows, d].
    fn add_matvec_t(
        &self,
        w: &Self::Buf,
        rows: usize,
        d: usize,
        v: &Self::Buf,
        factor: f64,
        out: &mut Self::Buf,
    ) -> Result<()>;
    /// out\[j\] = ‖w\[j\]‖, w [rows, d].
    fn row_norms(&self, w: &Self::Buf, rows: usize, d: usize, out: &mut Self::Buf) -> Result<()>;
    /// grad\[j\] += v_j·w\[j\]/max(‖w\[j\]‖, 1e-12): the gradient of Σ v_j·‖w_j‖.
    fn add_norm_grad(
        &self,
        w: &Self::Buf,
        rows: usize,
        d: usize,
        v: &Self::Buf,
        grad: &mut Self::Buf,
    ) -> Result<()>;
    /// w\[j\] ← w\[j\]/‖w\[j\]‖; a row of zeros stays.
    fn normalize_rows(&self, w: &mut Self::Buf, rows: usize, d: usize) -> Result<()>;
    /// grad\[j\] ← its part orthogonal to w\[j\]; unchanged where w\[j\] is zero.
    fn project_rows(
        &self,
        w: &Self::Buf,
        rows: usize,
        d: usize,
        grad: &mut Self::Buf,
    ) -> Result<()>;
    /// Σ v² of the first elements of all buffers together, later.
    fn sum_squares(&self, buffers: &[(&Self::Buf, usize)]) -> Result<Self::Later>;
    /// See [`AdamStep`]; all four buffers have the parameter's length.
    fn adam(
        &self,
        step: &AdamStep,
        param: &mut Self::Buf,
        grad: &Self::Buf,
        m: &mut Self::Buf,
        v: &mut Self::Buf,
    ) -> Result<()>;
    /// buf ← max(buf, least), element by element.
    fn clamp_below(&self, buf: &mut Self::Buf, least: f64) -> Result<()>;
}

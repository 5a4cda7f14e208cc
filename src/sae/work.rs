//! Scratch memory of a step, kept between steps.

use crate::device::sae::SaeOps;
use crate::domain::Result;

/// A buffer that grows and never shrinks.
pub struct Scratch<B> {
    buf: Option<B>,
    len: usize,
}

impl<B> Scratch<B> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self { buf: None, len: 0 }
    }

    /// The buffer, at least `len` long. What it holds is undefined.
    ///
    /// # Errors
    /// `out-of-memory`.
    pub fn at_least<D: SaeOps<Buf = B>>(&mut self, device: &D, len: usize) -> Result<&mut B> {
        if self.buf.is_none() || self.len < len {
            // The old one goes first: both at once may not fit.
            self.buf = None;
            self.buf = Some(device.zeros(len)?);
            self.len = len;
        }
        Ok(self.buf.as_mut().expect("set above"))
    }

    /// The buffer as the last [`Scratch::at_least`] left it.
    pub fn get(&self) -> &B {
        self.buf.as_ref().expect("filled by an earlier operation")
    }
}

/// Codes of a step.
pub struct CodeSets<D: SaeOps> {
    /// Of the batch, or of the micro-batch.
    pub main: D::Codes,
    /// AuxK's of the batch.
    pub aux: D::Codes,
    /// A micro-batch cut from `main`.
    pub main_part: D::Codes,
    /// A micro-batch cut from `aux`.
    pub aux_part: D::Codes,
}

impl<D: SaeOps> CodeSets<D> {
    /// Codes without tokens.
    pub fn new(device: &D) -> Self {
        Self {
            main: device.new_codes(),
            aux: device.new_codes(),
            main_part: device.new_codes(),
            aux_part: device.new_codes(),
        }
    }
}

/// Buffers of a step; what they hold does not outlive a micro-batch.
pub struct Work<D: SaeOps> {
    /// a of each edge.
    pub values: Scratch<D::Buf>,
    /// da of each edge.
    pub da: Scratch<D::Buf>,
    /// da of each edge of a gate's own reconstruction.
    pub gate_da: Scratch<D::Buf>,
    /// dp of each edge.
    pub dp: Scratch<D::Buf>,
    /// Derivative by the decoder norm.
    pub d_norm: Scratch<D::Buf>,
    /// Derivative by the threshold, or by r_mag.
    pub d_first: Scratch<D::Buf>,
    /// Derivative by b_mag.
    pub d_second: Scratch<D::Buf>,
    /// x̂ of the micro-batch.
    pub out: Scratch<D::Buf>,
    /// b_dec + the skip connection of the micro-batch.
    pub base: Scratch<D::Buf>,
    /// G of the micro-batch.
    pub grad: Scratch<D::Buf>,
    /// ‖w_dec‖.
    pub norms: Scratch<D::Buf>,
    /// Bounds of the selection.
    pub lower: Scratch<D::Buf>,
    /// Σ of `d_norm` for each latent.
    pub norm_sums: Scratch<D::Buf>,
    /// Σ of dp for each latent, of gated SAEs.
    pub dp_sums: Scratch<D::Buf>,
}

impl<D: SaeOps> Work<D> {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            values: Scratch::new(),
            da: Scratch::new(),
            gate_da: Scratch::new(),
            dp: Scratch::new(),
            d_norm: Scratch::new(),
            d_first: Scratch::new(),
            d_second: Scratch::new(),
            out: Scratch::new(),
            base: Scratch::new(),
            grad: Scratch::new(),
            norms: Scratch::new(),
            lower: Scratch::new(),
            norm_sums: Scratch::new(),
            dp_sums: Scratch::new(),
        }
    }
}

//! What a batch was coded and reconstructed as.

use super::trainer::{Memory, SaeTrainer};
use crate::device::sae::{HostCodes, SaeOps};
use crate::domain::Result;

/// Codes and output of a batch, in training units.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs<R> {
    /// The edges.
    pub codes: HostCodes<R>,
    /// a of each edge.
    pub values: Vec<R>,
    /// x̂ [tokens, d_out].
    pub out: Vec<R>,
}

impl<D: SaeOps> SaeTrainer<D> {
    /// What the batch of the last [`SaeTrainer::gradients`] was coded and reconstructed as;
    /// it must have been taken at once, not in micro-batches.
    ///
    /// # Errors
    /// Those of reading the device.
    pub fn outputs(&self, device: &D) -> Result<Outputs<D::Real>> {
        let Memory { work, codes, .. } = &self.scratch;
        let codes = device.download_codes(&codes.main)?;
        let mut values = vec![D::Real::default(); codes.pre.len()];
        let mut out = vec![D::Real::default(); (codes.row_ptr.len() - 1) * self.dims.d_out];
        // Before the first batch there are no codes, and nothing to read.
        if !out.is_empty() {
            device.read(work.values.get(), 0, &mut values)?;
            device.read(work.out.get(), 0, &mut out)?;
        }
        Ok(Outputs { codes, values, out })
    }
}

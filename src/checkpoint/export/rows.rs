//! Decoder rows of length 1, which is how every format has them.

use super::sae::{Architecture, ExportedSae};
use crate::domain::Result;

/// A row this close to length 1 stays as it is, bit for bit: rounding to f32 left it so.
const ROUNDING: f64 = 1e-6;

impl ExportedSae {
    /// Moves the lengths n of decoder rows into the encoder: W_enc·n, b_enc·n, W_dec/n,
    /// thresholds·n, and the gated biases·n. The function stays the same, and an activation
    /// says how far it moves the output. (SAELens: `fold_W_dec_norm`.) Arithmetic is f64.
    ///
    /// Where latents are selected by p alone (TopK and BatchTopK without `rescale`), that
    /// would change which ones are: those rows stay.
    ///
    /// A row of zeros has no direction, and loaders that divide by its length would answer
    /// NaN. Such a latent adds nothing to the output, so it is made silent: zero encoder,
    /// some unit row.
    ///
    /// # Errors
    /// Those of [`ExportedSae::check`].
    pub fn unit_rows(&mut self) -> Result<()> {
        self.check()?;
        if !self.has_unit_rows() {
            return Ok(());
        }
        for j in 0..self.d_sae {
            let row = &mut self.w_dec[j * self.d_out..][..self.d_out];
            let square: f64 = row.iter().map(|w| f64::from(*w).powi(2)).sum();
            let n = square.sqrt();
            if (n - 1.0).abs() <= ROUNDING {
                continue;
            }
            if n == 0.0 {
                row[0] = 1.0;
            } else {
                scale(row, 1.0 / n);
            }
            scale(&mut self.w_enc[j * self.d_in..][..self.d_in], n);
            for values in self.per_latent() {
                scale(&mut values[j..=j], n);
            }
        }
        self.check()
    }

    /// Whether selection allows rows of length 1.
    pub(super) fn has_unit_rows(&self) -> bool {
        !matches!(
            self.architecture,
            Architecture::TopK { rescale: false, .. }
                | Architecture::BatchTopK { rescale: false, .. }
        )
    }

    /// The arrays \[d_sae\] that are in units of p, and so grow with the encoder's rows.
    fn per_latent(&mut self) -> Vec<&mut Vec<f32>> {
        match &mut self.architecture {
            Architecture::JumpRelu { threshold } => vec![&mut self.b_enc, threshold],
            Architecture::Gated { b_gate, b_mag, .. } => vec![b_gate, b_mag],
            _ => vec![&mut self.b_enc],
        }
    }
}

fn scale(values: &mut [f32], factor: f64) {
    for value in values {
        *value = (f64::from(*value) * factor) as f32;
    }
}

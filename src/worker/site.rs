//! One autoencoder of a run, at its hook point.

use crate::device::Real;
use crate::device::sae::{Rows, SaeOps};
use crate::domain::Result;
use crate::domain::schedule::StepSettings;
use crate::eval::{self, Autoencoder};
use crate::lm::HookPoint;
use crate::protocol::SiteStep;
use crate::sae::{Batch, Inference, Outcome, SaeTrainer};

/// One autoencoder and where it stands.
pub struct Site<D: SaeOps> {
    /// The hook point's name.
    pub name: String,
    /// The hook point that is encoded.
    pub hook: HookPoint,
    /// The hook point that is reconstructed.
    pub target: HookPoint,
    /// Index of `hook` among the captured ones.
    pub input: usize,
    /// Index of `target` among the captured ones.
    pub output: usize,
    /// The autoencoder.
    pub trainer: SaeTrainer<D>,
}

/// How a site's step ended.
pub enum Stepped {
    /// It moved.
    Done(SiteStep),
    /// This was not finite, and nothing changed.
    NonFinite(&'static str),
    /// Its gradient overflowed, nothing changed but the loss scale, which is this now.
    Overflow(f64),
}

impl<D: SaeOps> Site<D> {
    /// Where it stands, for measures.
    pub fn place(&self) -> eval::Site {
        eval::Site {
            hook: self.hook,
            target: self.target,
        }
    }

    /// One optimiser step on `batch`, the rows of every captured hook point.
    ///
    /// # Errors
    /// `out-of-memory`, with nothing changed.
    pub fn step(
        &mut self,
        device: &D,
        batch: &[&D::Buf],
        tokens: usize,
        micro: usize,
        settings: &StepSettings,
    ) -> Result<Stepped> {
        let batch = Batch {
            x: batch[self.input],
            target: (self.output != self.input).then(|| batch[self.output]),
            tokens,
        };
        let report = match self.trainer.step(device, &batch, micro, settings)? {
            Outcome::Done(report) => report,
            Outcome::NonFinite { what } => return Ok(Stepped::NonFinite(what)),
            Outcome::Overflow { loss_scale } => return Ok(Stepped::Overflow(loss_scale)),
        };
        Ok(Stepped::Done(SiteStep {
            hook: self.name.clone(),
            loss: report.loss,
            parts: report.parts,
            l0: report.l0,
            explained_variance: report.explained_variance,
            fvu: report.fvu,
            dead: report.dead as f64 / self.trainer.dims().d_sae as f64,
            grad_norm: report.grad_norm,
            loss_scale: report.loss_scale,
        }))
    }
}

/// The autoencoder as it is exported.
impl<D: SaeOps> Autoencoder<D> for Inference<D> {
    fn d_sae(&self) -> usize {
        self.dims().d_sae
    }

    fn reconstruct(
        &mut self,
        device: &D,
        x: &[D::Real],
        rows: usize,
        fired: &mut [u64],
    ) -> Result<(Vec<D::Real>, u64)> {
        let x = device.upload(x)?;
        let x = Rows::of(&x, rows);
        let active = self.encode(device, x)?;
        let codes = device.download_codes(self.codes())?;
        let mut values = vec![D::Real::default(); codes.latent.len()];
        device.read(self.values(), 0, &mut values)?;
        for (latent, value) in codes.latent.iter().zip(&values) {
            fired[*latent as usize] += u64::from(value.to_f64() > 0.0);
        }
        let width = rows * self.dims().d_out;
        let mut out = device.zeros(width)?;
        self.decode(device, x, &mut out)?;
        let mut host = vec![D::Real::default(); width];
        device.read(&out, 0, &mut host)?;
        Ok((host, active))
    }
}

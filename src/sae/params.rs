//! The parameters of an SAE, and everything that has their shape.

use super::spec::{SaeSpec, Variant};
use crate::domain::Result;

/// Widths of an SAE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Width of what is encoded.
    pub d_in: usize,
    /// Width of what is reconstructed; `d_in` but for transcoders.
    pub d_out: usize,
    /// Number of latents F.
    pub d_sae: usize,
}

/// Names of the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// Encoder [d_sae, d_in].
    WEnc,
    /// Encoder bias \[d_sae\]; the gate's bias of a gated SAE.
    BEnc,
    /// Decoder [d_sae, d_out].
    WDec,
    /// Decoder bias \[d_out\].
    BDec,
    /// JumpReLU thresholds \[d_sae\].
    Threshold,
    /// Logarithm of the magnitude's gain of a gated SAE \[d_sae\].
    RMag,
    /// Bias of the magnitude of a gated SAE \[d_sae\].
    BMag,
    /// Skip connection [d_out, d_in].
    WSkip,
}

impl Name {
    /// The name in checkpoints and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Name::WEnc => "w_enc",
            Name::BEnc => "b_enc",
            Name::WDec => "w_dec",
            Name::BDec => "b_dec",
            Name::Threshold => "threshold",
            Name::RMag => "r_mag",
            Name::BMag => "b_mag",
            Name::WSkip => "w_skip",
        }
    }
}

impl Dims {
    /// Shape of a parameter.
    pub fn shape(&self, name: Name) -> Vec<usize> {
        match name {
            Name::WEnc => vec![self.d_sae, self.d_in],
            Name::WDec => vec![self.d_sae, self.d_out],
            Name::WSkip => vec![self.d_out, self.d_in],
            Name::BDec => vec![self.d_out],
            Name::BEnc | Name::Threshold | Name::RMag | Name::BMag => vec![self.d_sae],
        }
    }

    /// Number of elements of a parameter.
    pub fn len(&self, name: Name) -> usize {
        self.shape(name).iter().product()
    }
}

/// One `B` for each parameter: values, gradients, moments.
#[derive(Clone, Debug, PartialEq)]
pub struct Params<B> {
    /// See [`Name::WEnc`].
    pub w_enc: B,
    /// See [`Name::BEnc`].
    pub b_enc: B,
    /// See [`Name::WDec`].
    pub w_dec: B,
    /// See [`Name::BDec`].
    pub b_dec: B,
    /// See [`Name::Threshold`]; JumpReLU only.
    pub threshold: Option<B>,
    /// The magnitude path; gated only.
    pub magnitude: Option<Magnitude<B>>,
    /// See [`Name::WSkip`]; skip transcoders only.
    pub w_skip: Option<B>,
}

/// The magnitude path of a gated SAE.
#[derive(Clone, Debug, PartialEq)]
pub struct Magnitude<B> {
    /// See [`Name::RMag`].
    pub r_mag: B,
    /// See [`Name::BMag`].
    pub b_mag: B,
}

impl<B> Params<B> {
    /// The parameters that `spec` has, made by `make`.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn build(spec: &SaeSpec, mut make: impl FnMut(Name) -> Result<B>) -> Result<Self> {
        Ok(Self {
            w_enc: make(Name::WEnc)?,
            b_enc: make(Name::BEnc)?,
            w_dec: make(Name::WDec)?,
            b_dec: make(Name::BDec)?,
            threshold: match spec.variant {
                Variant::JumpRelu(_) => Some(make(Name::Threshold)?),
                _ => None,
            },
            magnitude: match spec.variant {
                Variant::Gated { .. } => Some(Magnitude {
                    r_mag: make(Name::RMag)?,
                    b_mag: make(Name::BMag)?,
                }),
                _ => None,
            },
            w_skip: if spec.skip {
                Some(make(Name::WSkip)?)
            } else {
                None
            },
        })
    }

    /// All of them with their names, always in the same order.
    pub fn each(&self) -> impl Iterator<Item = (Name, &B)> {
        let magnitude = self.magnitude.as_ref();
        [
            Some((Name::WEnc, &self.w_enc)),
            Some((Name::BEnc, &self.b_enc)),
            Some((Name::WDec, &self.w_dec)),
            Some((Name::BDec, &self.b_dec)),
            self.threshold.as_ref().map(|b| (Name::Threshold, b)),
            magnitude.map(|m| (Name::RMag, &m.r_mag)),
            magnitude.map(|m| (Name::BMag, &m.b_mag)),
            self.w_skip.as_ref().map(|b| (Name::WSkip, b)),
        ]
        .into_iter()
        .flatten()
    }

    /// As [`Params::each`], to change them.
    pub fn each_mut(&mut self) -> impl Iterator<Item = (Name, &mut B)> {
        let (r_mag, b_mag) = match &mut self.magnitude {
            Some(m) => (Some(&mut m.r_mag), Some(&mut m.b_mag)),
            None => (None, None),
        };
        [
            Some((Name::WEnc, &mut self.w_enc)),
            Some((Name::BEnc, &mut self.b_enc)),
            Some((Name::WDec, &mut self.w_dec)),
            Some((Name::BDec, &mut self.b_dec)),
            self.threshold.as_mut().map(|b| (Name::Threshold, b)),
            r_mag.map(|b| (Name::RMag, b)),
            b_mag.map(|b| (Name::BMag, b)),
            self.w_skip.as_mut().map(|b| (Name::WSkip, b)),
        ]
        .into_iter()
        .flatten()
    }
}

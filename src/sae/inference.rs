//! A folded SAE at work: encode, decode. What evaluation uses is what is exported.

use super::fold::{Activation, Folded};
use super::params::Dims;
use super::work::Scratch;
use crate::device::Real;
use crate::device::sae::{Base, Decode, Encode, Pick, Rows, Rule, SaeOps, Select};
use crate::domain::Result;

/// A folded SAE on a device.
pub struct Inference<D: SaeOps> {
    dims: Dims,
    w_enc: D::Buf,
    b_enc: D::Buf,
    w_dec: D::Buf,
    b_dec: D::Buf,
    w_skip: Option<D::Buf>,
    subtract_b_dec: bool,
    choice: Choice<D::Buf>,
    /// r_mag and b_mag of a gated SAE.
    magnitude: Option<[D::Buf; 2]>,
    codes: D::Codes,
    values: Scratch<D::Buf>,
    base: Scratch<D::Buf>,
    fired: D::Ints,
}

enum Choice<B> {
    TopK(usize),
    Above(B),
}

impl<D: SaeOps> Inference<D> {
    /// Puts `sae` on `device`.
    ///
    /// # Errors
    /// `out-of-memory`.
    pub fn new(device: &D, sae: &Folded) -> Result<Self> {
        let upload = |values: &[f32]| {
            let values: Vec<_> = values.iter().map(|v| real::<D>(*v)).collect();
            device.upload(&values)
        };
        let d_sae = sae.dims.d_sae;
        let choice = match &sae.activation {
            Activation::TopK { k } => Choice::TopK(*k),
            Activation::BatchTopK { threshold, .. } => {
                Choice::Above(upload(&vec![threshold.max(0.0); d_sae])?)
            }
            Activation::Jump { threshold } => Choice::Above(upload(threshold)?),
            Activation::Relu | Activation::Gated { .. } => Choice::Above(device.zeros(d_sae)?),
        };
        let magnitude = match &sae.activation {
            Activation::Gated { r_mag, b_mag } => Some([upload(r_mag)?, upload(b_mag)?]),
            _ => None,
        };
        let mut values = Scratch::new();
        values.at_least(device, 0)?;
        Ok(Self {
            dims: sae.dims,
            w_enc: upload(&sae.w_enc)?,
            b_enc: upload(&sae.b_enc)?,
            w_dec: upload(&sae.w_dec)?,
            b_dec: upload(&sae.b_dec)?,
            w_skip: sae.w_skip.as_deref().map(upload).transpose()?,
            subtract_b_dec: sae.subtract_b_dec,
            choice,
            magnitude,
            codes: device.new_codes(),
            values,
            base: Scratch::new(),
            fired: device.zero_ints(d_sae)?,
        })
    }

    /// Widths.
    pub fn dims(&self) -> Dims {
        self.dims
    }

    /// Codes of `x` [B, d_in]; returns the number of active (token, latent) pairs.
    ///
    /// # Errors
    /// `out-of-memory`.
    pub fn encode(&mut self, device: &D, x: Rows<'_, D::Buf>) -> Result<u64> {
        let product = Encode {
            x,
            center: self.subtract_b_dec.then_some(&self.b_dec),
            w_enc: &self.w_enc,
            b_enc: &self.b_enc,
            d_in: self.dims.d_in,
            d_sae: self.dims.d_sae,
            rounded: false,
        };
        let select = match &self.choice {
            Choice::TopK(k) => Select::TopK {
                k: *k,
                scale: None,
                among: None,
            },
            Choice::Above(lower) => Select::Above { lower },
        };
        let codes = &mut self.codes;
        device.encode(&product, &mut [Pick { select, codes }])?;
        // Thresholds are not negative, and what is not above its own has no edge.
        let rule = match &self.magnitude {
            None => Rule::Relu,
            Some([r_mag, b_mag]) => Rule::Magnitude {
                b_gate: &self.b_enc,
                r_mag,
                b_mag,
            },
        };
        let edges = device.edges(&self.codes);
        let values = self.values.at_least(device, edges)?;
        let active = device.activate(&self.codes, &rule, values)?;
        Ok(device.numbers(vec![active])?[0][0] as u64)
    }

    /// The codes of the last [`Inference::encode`].
    pub fn codes(&self) -> &D::Codes {
        &self.codes
    }

    /// The activations of its edges.
    pub fn values(&self) -> &D::Buf {
        self.values.get()
    }

    /// x̂ of the last codes to `out` [B, d_out]. `x` is what was encoded; a skip connection
    /// needs it.
    ///
    /// # Errors
    /// `out-of-memory`.
    pub fn decode(&mut self, device: &D, x: Rows<'_, D::Buf>, out: &mut D::Buf) -> Result<()> {
        let Dims { d_in, d_out, .. } = self.dims;
        if let Some(w_skip) = &self.w_skip {
            let base = self.base.at_least(device, x.count * d_out)?;
            device.linear(x, w_skip, &self.b_dec, d_in, d_out, base)?;
        }
        let work = Decode {
            codes: &self.codes,
            values: self.values.get(),
            w_dec: &self.w_dec,
            d_out,
            base: match self.w_skip {
                Some(_) => Base::Rows(self.base.get()),
                None => Base::Row(&self.b_dec),
            },
        };
        device.decode(&work, out)
    }

    /// x̂ [rows, d_out] of `x` [rows, d_in] on the host; adds to `fired` how often each
    /// latent fired, and returns the number of active (token, latent) pairs.
    ///
    /// # Errors
    /// `out-of-memory`.
    pub fn reconstruct(
        &mut self,
        device: &D,
        x: &[D::Real],
        rows: usize,
        fired: &mut [u64],
    ) -> Result<(Vec<D::Real>, u64)> {
        let x = device.upload(x)?;
        let mut out = device.zeros(rows * self.dims.d_out)?;
        let active = self.encode(device, Rows::of(&x, rows))?;
        self.decode(device, Rows::of(&x, rows), &mut out)?;
        device.clear_ints(&mut self.fired)?;
        device.count_fired(&self.codes, self.values.get(), &mut self.fired)?;
        let mut counts = vec![0; self.dims.d_sae];
        device.read_ints(&self.fired, 0, &mut counts)?;
        for (total, count) in fired.iter_mut().zip(counts) {
            *total += u64::from(count);
        }
        Ok((device.download(&out)?, active))
    }
}

fn real<D: SaeOps>(value: f32) -> D::Real {
    D::Real::from_f64(f64::from(value))
}

//! Numbers rounded to 16 bits.

use super::Cuda;
use super::later::Later;
use super::launch::{Shape, count};
use super::memory::{In, Memory};
use super::tensor::DEPTH;
use crate::domain::{Amp, Result};

/// A format of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// bfloat16.
    Bf16,
    /// IEEE half precision: what is beyond 65504 becomes infinite.
    F16,
}

impl Half {
    /// What `amp` rounds to.
    pub fn of(amp: Amp) -> Option<Self> {
        match amp {
            Amp::Off => None,
            Amp::Bf16 => Some(Self::Bf16),
            Amp::Fp16 => Some(Self::F16),
        }
    }

    /// `factor` times the rows less `center`, `n` of them of width `d`, with 0 behind each up to
    /// `padded`.
    pub fn rows(
        self,
        cuda: &Cuda,
        rows: In<'_, f32>,
        center: Option<In<'_, f32>>,
        factor: f32,
        [n, d, padded]: [usize; 3],
    ) -> Result<Memory<u16>> {
        let len = n * padded;
        let mut out = Memory::new(&cuda.gpu, len)?;
        let (gpu, shape, to) = (&cuda.gpu, Shape::warps(n), out.output(len));
        let ([n, d, padded], f16) = ([n, d, padded].map(count), self.flag());
        cuda.kernels
            .round_to_rows(gpu, shape, rows, center, to, n, d, padded, factor, f16)?;
        Ok(out)
    }

    /// The rows less `center`, or those of `pick`, as panels: `n` rows of `d`, and rows of 0 up to a
    /// multiple of `whole`.
    pub fn panels(
        self,
        cuda: &Cuda,
        rows: In<'_, f32>,
        center: Option<In<'_, f32>>,
        pick: Option<In<'_, u32>>,
        [n, d, whole]: [usize; 3],
    ) -> Result<Memory<u16>> {
        let padded = n.next_multiple_of(whole);
        let len = padded * d.next_multiple_of(DEPTH);
        let mut out = Memory::new(&cuda.gpu, len)?;
        let (gpu, shape, to) = (&cuda.gpu, Shape::warps(padded), out.output(len));
        let ([n, d, padded], f16) = ([n, d, padded].map(count), self.flag());
        cuda.kernels
            .round_to_panels(gpu, shape, rows, center, pick, to, n, d, padded, f16)?;
        Ok(out)
    }

    /// Later the largest |v| of the `n` rows less `center`, in this format; none where it is as
    /// wide as f32.
    pub fn largest(
        self,
        cuda: &Cuda,
        rows: In<'_, f32>,
        center: Option<In<'_, f32>>,
        [n, d]: [usize; 2],
    ) -> Result<Option<Later>> {
        if self == Self::Bf16 {
            return Ok(None);
        }
        let largest = cuda.later_bits(0, |bits| f16_of(bits as u16))?;
        cuda.kernels.largest_f16(
            &cuda.gpu,
            Shape::warps(n),
            rows,
            center,
            largest.memory().half(largest.at),
            count(n),
            count(d),
        )?;
        Ok(Some(largest))
    }

    /// As kernels take it.
    pub fn flag(self) -> u32 {
        u32::from(self == Self::F16)
    }
}

fn f16_of(bits: u16) -> f64 {
    half::f16::from_bits(bits).to_f64()
}

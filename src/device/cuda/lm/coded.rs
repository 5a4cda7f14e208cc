//! Weights in codes in the GPU's memory, decoded where they are used: rows of an embedding one by
//! one, matrices just before each product with them.

use super::product::Layout;
use crate::device::coded::{Bits, Coded};
use crate::device::cuda::Cuda;
use crate::device::cuda::launch::{Shape, count};
use crate::device::cuda::memory::{In, Memory};
use crate::domain::Result;

/// Kinds of codes, as `coded.cuh` numbers them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bf16,
    F16,
    Int8,
    Int4,
}

/// A matrix or table [n, k] in codes.
pub struct Held {
    kind: Kind,
    codes: Memory<u8>,
    /// Empty where the codes are no integers.
    scales: Memory<f32>,
    group: usize,
    n: usize,
    k: usize,
}

/// What kernels take of a table.
pub struct Arguments<'a> {
    pub codes: In<'a, u8>,
    pub scales: In<'a, f32>,
    pub kind: u32,
    pub group: u32,
}

impl Held {
    pub fn new(cuda: &Cuda, coded: &Coded) -> Result<Self> {
        let none: &[f32] = &[];
        let (kind, codes, scales) = match coded.bits() {
            Bits::Bf16(codes) => (Kind::Bf16, bytemuck::cast_slice(codes), none),
            Bits::F16(codes) => (Kind::F16, bytemuck::cast_slice(codes), none),
            Bits::Int8(codes, scales) => (Kind::Int8, codes, scales),
            Bits::Int4(codes, scales) => (Kind::Int4, codes, scales),
        };
        Ok(Self {
            kind,
            codes: Memory::of(&cuda.gpu, codes)?,
            scales: Memory::of(&cuda.gpu, scales)?,
            group: coded.group(),
            n: coded.n(),
            k: coded.k(),
        })
    }

    pub fn arguments(&self) -> Arguments<'_> {
        Arguments {
            codes: self.codes.input(0, self.codes.len()),
            scales: self.scales.input(0, self.scales.len()),
            kind: self.kind as u32,
            group: count(self.group),
        }
    }

    /// Codes in f16 as numbers [n, k], exactly.
    pub fn widened(&self, cuda: &Cuda) -> Result<Memory<f32>> {
        assert!(self.kind == Kind::F16, "numbers of 16 bits");
        let len = self.n * self.k;
        let mut out = Memory::new(&cuda.gpu, len)?;
        let (shape, codes) = (Shape::threads(len.div_ceil(4)), self.codes.halves());
        let to = out.output(len);
        cuda.kernels
            .widen_f16(&cuda.gpu, shape, codes, to, len as u64)?;
        Ok(out)
    }

    /// Integers times their scales, rounded to bf16, as a factor of a product.
    pub fn rounded(&self, cuda: &Cuda, layout: Layout) -> Result<Memory<u16>> {
        assert!(
            matches!(self.kind, Kind::Int8 | Kind::Int4),
            "integers with scales"
        );
        let whole = layout.whole(self.n);
        let len = whole * layout.padded;
        let mut out = Memory::new(&cuda.gpu, len)?;
        let (coded, [padded, panels]) = (self.arguments(), layout.arguments());
        let [rows, k, all] = [self.n, self.k, whole].map(count);
        cuda.kernels.decode_to_bf16(
            &cuda.gpu,
            Shape::warps(whole),
            coded.codes,
            coded.scales,
            out.output(len),
            rows,
            k,
            all,
            padded,
            panels,
            coded.kind,
            coded.group,
        )?;
        Ok(out)
    }
}

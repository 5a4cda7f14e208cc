//! A view of one tensor, and its values as numbers.

use super::{Dtype, TensorFile, shown};
use crate::domain::{Error, Result};
use half::{bf16, f16};
use std::borrow::Cow;
use std::ops::Range;

/// A tensor inside a mapped file.
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    pub(super) file: &'a TensorFile,
    pub(super) name: &'a str,
    pub(super) dtype: Dtype,
    pub(super) shape: &'a [usize],
    pub(super) bytes: &'a [u8],
}

impl<'a> Tensor<'a> {
    /// Its name in the file.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// How its elements are stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Its dimensions, outermost first.
    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its bytes as stored: little-endian, row-major.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// `file: tensor`, as messages name it.
    pub fn about(&self) -> String {
        format!("{}: {}", self.file.path.display(), shown(self.name))
    }

    /// The tensor itself, where its shape is `shape`.
    ///
    /// # Errors
    /// `codes.mismatch`, with both shapes.
    pub fn expect_shape(self, shape: &[usize]) -> Result<Self> {
        if self.shape == shape {
            return Ok(self);
        }
        Err(self.mismatch(format_args!(
            "its shape is {:?}, expected {shape:?}",
            self.shape
        )))
    }

    /// Its values as f32, from F32 (borrowed where the file aligns them), F16 or BF16.
    ///
    /// # Errors
    /// `codes.mismatch` for any other dtype.
    pub fn f32(&self) -> Result<Cow<'a, [f32]>> {
        if self.dtype == Dtype::F32
            && let Ok(values) = bytemuck::try_cast_slice(self.bytes)
        {
            return Ok(Cow::Borrowed(values));
        }
        let mut values = vec![0.0; self.elements()];
        self.read_f32(0..values.len(), &mut values)?;
        Ok(Cow::Owned(values))
    }

    /// Elements `range` as f32 into `out`, from F32, F16 or BF16.
    ///
    /// # Errors
    /// `codes.mismatch` for any other dtype.
    ///
    /// # Panics
    /// Where `range` leaves the tensor or `out` has another length.
    pub fn read_f32(&self, range: Range<usize>, out: &mut [f32]) -> Result<()> {
        match self.dtype {
            Dtype::F32 => self.decode(range, out, f32::from_le_bytes),
            Dtype::F16 => self.decode(range, out, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => self.decode(range, out, |b| bf16::from_le_bytes(b).to_f32()),
            _ => return Err(self.dtype_error("F32, F16 or BF16")),
        }
        Ok(())
    }

    /// Its values as f64, from any floating-point dtype of 16 bits or more.
    ///
    /// # Errors
    /// `codes.mismatch` for any other dtype.
    pub fn f64(&self) -> Result<Vec<f64>> {
        if self.dtype == Dtype::F64 {
            Ok(self.decoded(f64::from_le_bytes))
        } else {
            Ok(self.f32()?.iter().map(|&v| f64::from(v)).collect())
        }
    }

    /// Its values as i64, from I64, I32, U32 or U8.
    ///
    /// # Errors
    /// `codes.mismatch` for any other dtype.
    pub fn i64(&self) -> Result<Vec<i64>> {
        match self.dtype {
            Dtype::I64 => Ok(self.decoded(i64::from_le_bytes)),
            Dtype::I32 => Ok(self.decoded(|b| i32::from_le_bytes(b).into())),
            Dtype::U32 => Ok(self.decoded(|b| u32::from_le_bytes(b).into())),
            Dtype::U8 => Ok(self.decoded(|b| u8::from_le_bytes(b).into())),
            _ => Err(self.dtype_error("I64, I32, U32 or U8")),
        }
    }

    /// Its values as u32, from an integer dtype.
    ///
    /// # Errors
    /// `codes.mismatch` for any other dtype or a value outside of u32.
    pub fn u32(&self) -> Result<Vec<u32>> {
        if self.dtype == Dtype::U32 {
            return Ok(self.decoded(u32::from_le_bytes));
        }
        let narrow = |v: i64| {
            u32::try_from(v).map_err(|_| self.mismatch(format_args!("the value {v} is not a u32")))
        };
        self.i64()?.into_iter().map(narrow).collect()
    }

    /// Its values as u64.
    ///
    /// # Errors
    /// `codes.mismatch` for any dtype but U64.
    pub fn u64(&self) -> Result<Vec<u64>> {
        match self.dtype {
            Dtype::U64 => Ok(self.decoded(u64::from_le_bytes)),
            _ => Err(self.dtype_error("U64")),
        }
    }

    /// Its values as u8, from U8 or BOOL.
    ///
    /// # Errors
    /// `codes.mismatch` for any other dtype.
    pub fn u8(&self) -> Result<&'a [u8]> {
        match self.dtype {
            Dtype::U8 | Dtype::BOOL => Ok(self.bytes),
            _ => Err(self.dtype_error("U8")),
        }
    }

    /// Gives the memory behind its bytes back to the system; they are read from the file
    /// again when they are wanted again. A reader that goes through a large file once calls
    /// it so that the file does not stay in the process.
    pub fn release(&self) {
        self.file.release(self.bytes);
    }

    /// An error of the caller's finding about this tensor, with `codes.mismatch`.
    pub fn mismatch(&self, message: impl std::fmt::Display) -> Error {
        Error::new(self.file.codes.mismatch, self.about(), message)
    }

    fn dtype_error(&self, expected: &str) -> Error {
        self.mismatch(format_args!(
            "its dtype is {}, expected {expected}",
            self.dtype
        ))
    }

    fn decoded<const N: usize, T>(&self, from: impl Fn([u8; N]) -> T) -> Vec<T> {
        self.bytes.as_chunks().0.iter().map(|&b| from(b)).collect()
    }

    fn decode<const N: usize>(
        &self,
        range: Range<usize>,
        out: &mut [f32],
        from: impl Fn([u8; N]) -> f32,
    ) {
        let chunks = &self.bytes.as_chunks::<N>().0[range];
        assert_eq!(chunks.len(), out.len());
        for (value, &bytes) in out.iter_mut().zip(chunks) {
            *value = from(bytes);
        }
    }
}

//! Tensors on their way to a foreign file. Those that the format wants transposed are
//! transposed while they are written: no second copy is made.

use crate::tensorfile::{Dtype, TensorOut, encode_header};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// A tensor that a file is to hold.
pub struct Item<'a> {
    /// Name in the file.
    pub name: &'static str,
    /// Number type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Row-major values, little-endian.
    content: Content<'a>,
}

enum Content<'a> {
    Bytes(Cow<'a, [u8]>),
    /// Of a matrix with rows of `columns` values, the transpose.
    Transposed {
        values: &'a [f32],
        columns: usize,
    },
}

impl<'a> Item<'a> {
    /// Values as they are.
    pub fn f32(name: &'static str, shape: &[usize], values: &'a [f32]) -> Self {
        let bytes = Cow::Borrowed(bytemuck::cast_slice(values));
        Self::new(name, Dtype::F32, shape, Content::Bytes(bytes))
    }

    /// Values of any type, small enough to be copied.
    pub fn copied<T: bytemuck::NoUninit>(
        name: &'static str,
        dtype: Dtype,
        shape: &[usize],
        values: &[T],
    ) -> Self {
        let bytes = Cow::Owned(bytemuck::cast_slice(values).to_vec());
        Self::new(name, dtype, shape, Content::Bytes(bytes))
    }

    /// The transpose, [columns, rows], of a matrix `values` [rows, columns].
    pub fn transposed(name: &'static str, columns: usize, values: &'a [f32]) -> Self {
        let shape = [columns, values.len() / columns.max(1)];
        let content = Content::Transposed { values, columns };
        Self::new(name, Dtype::F32, &shape, content)
    }

    fn new(name: &'static str, dtype: Dtype, shape: &[usize], content: Content<'a>) -> Self {
        Self {
            name,
            dtype,
            shape: shape.to_vec(),
            content,
        }
    }

    /// Bytes that [`Item::write_to`] writes; of a transpose, in another order.
    fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Bytes(bytes) => bytes,
            Content::Transposed { values, .. } => bytemuck::cast_slice(values),
        }
    }

    /// How many bytes [`Item::write_to`] writes.
    pub fn length(&self) -> u64 {
        self.bytes().len() as u64
    }

    /// Streams the values.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.content {
            Content::Bytes(bytes) => out.write_all(bytes),
            Content::Transposed { values, columns } => write_transposed(out, values, *columns),
        }
    }
}

/// Columns that are gathered at once: one cache line of every row.
const STRIP: usize = 16;

fn write_transposed(out: &mut dyn Write, values: &[f32], columns: usize) -> io::Result<()> {
    let rows = values.len() / columns.max(1);
    let mut strip = vec![0f32; STRIP.min(columns) * rows];
    for first in (0..columns).step_by(STRIP) {
        let width = STRIP.min(columns - first);
        for (r, row) in values.chunks_exact(columns).enumerate() {
            for (c, value) in row[first..first + width].iter().enumerate() {
                strip[c * rows + r] = *value;
            }
        }
        out.write_all(bytemuck::cast_slice(&strip[..width * rows]))?;
    }
    Ok(())
}

/// Writes `items` as a safetensors file.
pub fn safetensors(out: &mut dyn Write, items: &[Item<'_>]) -> io::Result<()> {
    let tensors: Vec<TensorOut<'_>> = items
        .iter()
        .map(|i| TensorOut::new(i.name, i.dtype, &i.shape, i.bytes()))
        .collect();
    out.write_all(&encode_header(&BTreeMap::new(), &tensors))?;
    items.iter().try_for_each(|item| item.write_to(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transpose_is_the_transpose_at_awkward_sizes() {
        for (rows, columns) in [(1, 1), (3, 2), (5, 16), (2, 17), (7, 50)] {
            let values: Vec<f32> = (0..rows * columns).map(|v| v as f32).collect();
            let item = Item::transposed("w", columns, &values);
            assert_eq!(item.shape, [columns, rows]);
            let mut out = Vec::new();
            item.write_to(&mut out).unwrap();
            assert_eq!(out.len() as u64, item.length());
            let expected: Vec<u8> = (0..columns * rows)
                .map(|i| values[(i % rows) * columns + i / rows])
                .flat_map(f32::to_le_bytes)
                .collect();
            assert_eq!(out, expected, "{rows} × {columns}");
        }
    }
}

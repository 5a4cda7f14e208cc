//! Writing safetensors files, atomically and byte for byte reproducible.

use super::Dtype;
use crate::domain::{Error, Result};
use crate::system::files::sync_dir;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

/// A tensor to be written.
pub struct TensorOut<'a> {
    /// Its name.
    pub name: String,
    /// How `bytes` are to be read.
    pub dtype: Dtype,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Its elements, little-endian, row-major.
    pub bytes: &'a [u8],
}

impl<'a> TensorOut<'a> {
    /// A tensor of f32.
    pub fn f32(name: impl Into<String>, shape: &[usize], values: &'a [f32]) -> Self {
        Self::new(name, Dtype::F32, shape, bytemuck::cast_slice(values))
    }

    /// A tensor of any dtype.
    ///
    /// # Panics
    /// Where `bytes` is not what `shape` and `dtype` need.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: &[usize], bytes: &'a [u8]) -> Self {
        let elements: usize = shape.iter().product();
        assert_eq!(elements * dtype.bitsize(), bytes.len() * 8);
        Self {
            name: name.into(),
            dtype,
            shape: shape.to_vec(),
            bytes,
        }
    }
}

/// The bytes that stand before the data: length and header, padded so that the data is
/// aligned to eight bytes. Tensors keep their order.
pub fn encode_header(metadata: &BTreeMap<String, String>, tensors: &[TensorOut<'_>]) -> Vec<u8> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.bytes.len();
        header.insert(
            tensor.name.clone(),
            json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end]}),
        );
        at = end;
    }
    let mut json = Value::Object(header).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    bytes
}

/// Replaces `path` by a file of these tensors; readers see the old file or the whole new
/// one. The same tensors give the same bytes.
///
/// # Errors
/// `io-write` or `disk-full`.
pub fn write(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    tensors: &[TensorOut<'_>],
) -> Result<()> {
    let fail = |e: std::io::Error| Error::write(path, &e);
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut temp = tempfile::Builder::new()
        .prefix(".tmp-")
        .tempfile_in(dir)
        .map_err(fail)?;
    let mut out = BufWriter::new(temp.as_file_mut());
    out.write_all(&encode_header(metadata, tensors))
        .map_err(fail)?;
    for tensor in tensors {
        out.write_all(tensor.bytes).map_err(fail)?;
    }
    out.flush().map_err(fail)?;
    drop(out);
    temp.as_file().sync_all().map_err(fail)?;
    temp.persist(path).map_err(|e| fail(e.error))?;
    sync_dir(dir)
}

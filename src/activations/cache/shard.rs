//! One file of rows: written, verified, read.

use super::manifest::Shard;
use crate::activations::{CacheDtype, Site};
use crate::domain::{Code, Error, Result};
use crate::tensorfile::{self, Codes, Dtype, TensorFile, TensorOut};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// Bytes of data that have a checksum of their own in the header, to tell where a damaged
/// file is damaged.
const BLOCK: usize = 1 << 20;
const BLOCKS: &str = "blake3_of_each_mib";
const CODES: Codes = Codes {
    missing: Code::CacheCorrupt,
    corrupt: Code::CacheCorrupt,
    mismatch: Code::CacheCorrupt,
};

impl CacheDtype {
    fn stored(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
        }
    }

    fn largest(self) -> f32 {
        match self {
            Self::F32 => f32::MAX,
            Self::F16 => f16::MAX.to_f32(),
            Self::Bf16 => bf16::MAX.to_f32(),
        }
    }

    fn encode(self, values: &[f32]) -> Cow<'_, [u8]> {
        match self {
            Self::F32 => Cow::Borrowed(bytemuck::cast_slice(values)),
            Self::F16 => {
                let mut half = vec![f16::ZERO; values.len()];
                half.convert_from_f32_slice(values);
                Cow::Owned(bytemuck::cast_slice(&half).to_vec())
            }
            Self::Bf16 => {
                let mut half = vec![bf16::ZERO; values.len()];
                half.convert_from_f32_slice(values);
                Cow::Owned(bytemuck::cast_slice(&half).to_vec())
            }
        }
    }
}

/// Writes `rows` rows of every site to `path`; `values[site]` is `[rows, d_in]`.
///
/// # Errors
/// `non-finite` where a value leaves the range of `dtype`; `io-write`, `disk-full`.
pub(super) fn write(
    path: &Path,
    sites: &[Site],
    dtype: CacheDtype,
    first_row: u64,
    rows: usize,
    values: &[Vec<f32>],
) -> Result<Shard> {
    let largest = dtype.largest();
    for (site, values) in sites.iter().zip(values) {
        if let Some(value) = values.iter().find(|v| v.abs() > largest) {
            let message = format_args!("an activation of {value:e} does not fit into {dtype:?}");
            return Err(Error::new(Code::NonFinite, &site.hook, message)
                .hint("set activations.cache_dtype = \"bf16\" or \"f32\""));
        }
    }
    let bytes: Vec<Cow<'_, [u8]>> = values.iter().map(|v| dtype.encode(v)).collect();
    let tensors: Vec<TensorOut<'_>> = sites
        .iter()
        .zip(&bytes)
        .map(|(site, bytes)| TensorOut::new(&site.hook, dtype.stored(), &[rows, site.d_in], bytes))
        .collect();
    let mut blocks = Blocks::default();
    bytes.iter().for_each(|bytes| blocks.update(bytes));
    let metadata = BTreeMap::from([
        ("format".to_owned(), "backpropd-activations".to_owned()),
        ("first_row".to_owned(), first_row.to_string()),
        (BLOCKS.to_owned(), blocks.finish().join(" ")),
    ]);
    let header = tensorfile::encode_header(&metadata, &tensors);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&header);
    for bytes in &bytes {
        hasher.update(bytes);
    }
    tensorfile::write(path, &metadata, &tensors)?;
    Ok(Shard {
        rows: rows as u64,
        bytes: header.len() as u64 + bytes.iter().map(|b| b.len() as u64).sum::<u64>(),
        blake3: hasher.finalize().to_hex().to_string(),
    })
}

/// A shard whose every byte was verified.
pub(super) struct Verified {
    file: TensorFile,
    sites: Vec<Site>,
    /// Where each site's values begin in the file, and bytes of a value.
    starts: Vec<u64>,
    value: usize,
}

impl Verified {
    /// Opens `path` and verifies length, checksum, names, shapes and dtype.
    ///
    /// # Errors
    /// `cache-corrupt`, naming the file and the byte from which it is not what was written.
    pub fn open(path: &Path, sites: &[Site], dtype: CacheDtype, expected: &Shard) -> Result<Self> {
        let (length, hash) = hash_file(path)?;
        if length < expected.bytes {
            let message = format!(
                "it is truncated: it ends at byte {length} of {}",
                expected.bytes
            );
            return Err(corrupt(path, message));
        }
        if hash != expected.blake3 {
            let from = first_damage(path);
            let message = format!("it fails its checksum: it is damaged from byte {from} on");
            return Err(corrupt(path, message));
        }
        let file = TensorFile::open(path, CODES)?;
        // Values follow the header without gaps, in the order of the sites.
        let of_data = |name| file.get(name).map_or(0, |t| t.bytes().len() as u64);
        let mut at = length - file.names().map(of_data).sum::<u64>();
        let mut starts = Vec::new();
        for site in sites {
            let tensor = file
                .tensor(&site.hook)?
                .expect_shape(&[expected.rows as usize, site.d_in])?;
            if tensor.dtype() != dtype.stored() {
                let message = format_args!(
                    "its dtype is {}, the manifest says {}",
                    tensor.dtype(),
                    dtype.stored()
                );
                return Err(tensor.mismatch(message));
            }
            starts.push(at);
            at += tensor.bytes().len() as u64;
        }
        Ok(Self {
            file,
            sites: sites.to_vec(),
            starts,
            value: dtype.bytes(),
        })
    }

    /// Reads `rows` rows of every site from row `first`, to the rows of `out` from `to`.
    ///
    /// # Errors
    /// `cache-corrupt` for a value that is not finite, naming its byte.
    pub fn read(&self, first: usize, rows: usize, to: usize, out: &mut [&mut [f32]]) -> Result<()> {
        for ((site, start), out) in self.sites.iter().zip(&self.starts).zip(out) {
            let at = first * site.d_in;
            let into = &mut out[to * site.d_in..(to + rows) * site.d_in];
            let tensor = self.file.tensor(&site.hook)?;
            tensor.read_f32(at..at + into.len(), into)?;
            if let Some(bad) = into.iter().position(|v| !v.is_finite()) {
                let byte = start + ((at + bad) * self.value) as u64;
                let message = format!("the value of {} at byte {byte} is not finite", site.hook);
                return Err(corrupt(self.file.path(), message));
            }
        }
        Ok(())
    }
}

fn corrupt(path: &Path, message: String) -> Error {
    Error::new(Code::CacheCorrupt, path.display(), message)
        .hint("delete the cache folder to have it written again")
}

fn hash_file(path: &Path) -> Result<(u64, String)> {
    let fail = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => corrupt(path, "the shard is missing".into()),
        _ => Error::read(path, &e),
    };
    let mut hasher = blake3::Hasher::new();
    File::open(path)
        .and_then(|file| hasher.update_reader(file).map(drop))
        .map_err(fail)?;
    Ok((hasher.count(), hasher.finalize().to_hex().to_string()))
}

/// The first byte of the first block that is not what was written; 0 where the header itself
/// is not.
fn first_damage(path: &Path) -> u64 {
    let Ok(file) = TensorFile::open(path, CODES) else {
        return 0;
    };
    let written = file.metadata().get(BLOCKS).map_or("", String::as_str);
    let (mut blocks, mut data) = (Blocks::default(), 0);
    // Tensors lie in the order of their places, which their addresses tell.
    let mut tensors: Vec<&[u8]> = file
        .names()
        .filter_map(|name| file.get(name))
        .map(|tensor| tensor.bytes())
        .collect();
    tensors.sort_by_key(|bytes| bytes.as_ptr());
    for bytes in tensors {
        blocks.update(bytes);
        data += bytes.len() as u64;
    }
    let header = std::fs::metadata(path).map_or(0, |m| m.len().saturating_sub(data));
    let found = blocks.finish();
    let mut pairs = written.split(' ').zip(&found);
    match pairs.position(|(written, found)| written != found) {
        Some(block) => header + (block * BLOCK) as u64,
        None => 0,
    }
}

/// Checksums of a stream of bytes, one for each [`BLOCK`].
#[derive(Default)]
struct Blocks {
    hasher: blake3::Hasher,
    filled: usize,
    done: Vec<String>,
}

impl Blocks {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(BLOCK - self.filled));
            self.hasher.update(now);
            self.filled += now.len();
            if self.filled == BLOCK {
                self.close();
            }
            bytes = rest;
        }
    }

    fn close(&mut self) {
        self.done.push(self.hasher.finalize().to_hex().to_string());
        self.hasher.reset();
        self.filled = 0;
    }

    fn finish(mut self) -> Vec<String> {
        if self.filled > 0 {
            self.close();
        }
        self.done
    }
}

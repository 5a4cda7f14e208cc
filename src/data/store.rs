//! Contexts on disk.
//!
//! ```text
//! "BPDTOKS1"
//! contexts × { length u32 | context_size ids, u16 or u32 | mask, a bit a position }
//! footer, JSON | its length u32 | BLAKE3 of all bytes before | "BPDTOKS1"
//! ```
//! Little-endian. Written in one pass, since only the end holds what is known at the end;
//! a file without a valid end was not finished.

use crate::domain::{Code, Error, Result};
use crate::system::map::Map;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"BPDTOKS1";
/// Footer length, checksum, magic.
const END: usize = 4 + 32 + 8;

/// What a token set holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accounting {
    /// Documents with at least one token.
    pub documents: u64,
    /// Documents without any; they are passed over.
    pub empty_documents: u64,
    /// Tokens of the text itself, without BOS and separators.
    pub tokens: u64,
    /// Contexts, the held-out ones included.
    pub contexts: u64,
    /// Positions that hold no token.
    pub pads: u64,
    /// Tokens past the end of a context that takes one document.
    pub dropped_tokens: u64,
    /// Places where a long document without any break was cut inside a word.
    pub forced_cuts: u64,
}

impl Accounting {
    /// Mean length of a document in tokens.
    pub fn mean_document(&self) -> f64 {
        self.tokens as f64 / self.documents.max(1) as f64
    }
}

/// Tokens that a model sees together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Its place in the token set.
    pub index: u64,
    /// `context_size` token ids; those past `len` are pads.
    pub ids: Vec<u32>,
    /// Positions that hold a token: the attention mask.
    pub len: usize,
    mask: Vec<u8>,
}

impl Context {
    /// A context of the given tokens without pads, of which those with `valid` count.
    pub fn new(index: u64, ids: Vec<u32>, valid: &[bool]) -> Self {
        Self {
            index,
            len: ids.len(),
            mask: pack_mask(valid, ids.len()),
            ids,
        }
    }

    /// Whether the activation at `position` is trained on: no pad, no BOS, no excluded token.
    pub fn valid(&self, position: usize) -> bool {
        self.mask[position / 8] >> (position % 8) & 1 == 1
    }

    /// Positions that are trained on, ascending.
    pub fn valid_positions(&self) -> impl Iterator<Item = usize> {
        (0..self.ids.len()).filter(|&p| self.valid(p))
    }

    /// Number of positions that are trained on.
    pub fn valid_count(&self) -> usize {
        count(&self.mask)
    }
}

fn count(mask: &[u8]) -> usize {
    mask.iter().map(|byte| byte.count_ones() as usize).sum()
}

fn pack_mask(valid: &[bool], positions: usize) -> Vec<u8> {
    let mut mask = vec![0; positions.div_ceil(8)];
    for (position, _) in valid.iter().enumerate().filter(|(_, v)| **v) {
        mask[position / 8] |= 1 << (position % 8);
    }
    mask
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Footer {
    key: String,
    context_size: usize,
    id_bytes: usize,
    accounting: Accounting,
}

impl Footer {
    fn record(&self) -> usize {
        4 + self.context_size * self.id_bytes + self.context_size.div_ceil(8)
    }
}

/// Writes contexts one after another to a new file that takes its name only when complete.
pub(super) struct Writer {
    path: PathBuf,
    out: BufWriter<File>,
    hasher: blake3::Hasher,
    id_bytes: usize,
    record: Vec<u8>,
}

impl Writer {
    /// Begins the file at `path`, for ids below `vocab_size`.
    pub fn create(path: &Path, vocab_size: usize) -> Result<Self> {
        let file = File::create(path).map_err(|e| Error::write(path, &e))?;
        let mut writer = Self {
            path: path.to_owned(),
            out: BufWriter::with_capacity(1 << 20, file),
            hasher: blake3::Hasher::new(),
            id_bytes: if vocab_size <= 1 << 16 { 2 } else { 4 },
            record: MAGIC.to_vec(),
        };
        writer.put()?;
        Ok(writer)
    }

    /// Appends a context: `ids` padded, its length, and the mask of its first positions.
    pub fn push(&mut self, ids: &[u32], len: usize, mask: &[bool]) -> Result<()> {
        self.record.clear();
        self.record.extend((len as u32).to_le_bytes());
        for id in ids {
            self.record.extend(&id.to_le_bytes()[..self.id_bytes]);
        }
        self.record.extend(pack_mask(mask, ids.len()));
        self.put()
    }

    /// Ends the file, makes it durable and gives it the name `to`.
    pub fn finish(
        mut self,
        to: &Path,
        key: &str,
        context_size: usize,
        accounting: Accounting,
    ) -> Result<()> {
        let footer = Footer {
            key: key.to_owned(),
            context_size,
            id_bytes: self.id_bytes,
            accounting,
        };
        self.record = serde_json::to_vec(&footer)
            .map_err(|e| Error::new(Code::Internal, self.path.display(), e))?;
        let length = self.record.len() as u32;
        self.record.extend(length.to_le_bytes());
        self.put()?;
        let end = [self.hasher.finalize().as_bytes(), &MAGIC[..]].concat();
        let fail = |e: std::io::Error| Error::write(&self.path, &e);
        self.out.write_all(&end).map_err(fail)?;
        let file = self.out.into_inner().map_err(|e| fail(e.into_error()))?;
        file.sync_all().map_err(fail)?;
        std::fs::rename(&self.path, to).map_err(|e| Error::write(to, &e))?;
        crate::system::files::sync_dir(to.parent().unwrap_or(Path::new(".")))
    }

    fn put(&mut self) -> Result<()> {
        self.hasher.update(&self.record);
        self.out
            .write_all(&self.record)
            .map_err(|e| Error::write(&self.path, &e))
    }
}

/// A complete, verified file of contexts.
#[derive(Debug)]
pub(super) struct Store {
    map: Map,
    context_size: usize,
    id_bytes: usize,
    record: usize,
    pub accounting: Accounting,
}

impl Store {
    /// Opens `path` and verifies its checksum and that it was written under `key`.
    ///
    /// # Errors
    /// `cache-corrupt`, naming what is wrong; `io-read`.
    pub fn open(path: &Path, key: &str) -> Result<Self> {
        let map = Map::open(path)?;
        let corrupt =
            |what: &dyn std::fmt::Display| Error::new(Code::CacheCorrupt, path.display(), what);
        let ended = map.len() >= MAGIC.len() + END && map.ends_with(MAGIC);
        if !ended || !map.starts_with(MAGIC) {
            return Err(corrupt(&"the token set was not written to its end"));
        }
        let (body, end) = map.split_at(map.len() - 40);
        if blake3::hash(body).as_bytes()[..] != end[..32] {
            return Err(corrupt(&"the token set fails its checksum"));
        }
        let (body, length) = body.split_at(body.len() - 4);
        let length = length.try_into().map_or(0, u32::from_le_bytes) as usize;
        let at = body.len().checked_sub(length).unwrap_or(body.len());
        let footer: Footer = serde_json::from_slice(&body[at..])
            .map_err(|e| corrupt(&format_args!("its footer is not valid: {e}")))?;
        let record = footer.record();
        let expected = u128::from(footer.accounting.contexts) * record as u128;
        let sound = matches!(footer.id_bytes, 2 | 4)
            && (at - MAGIC.len()) as u128 == expected
            && footer.key == key;
        if !sound {
            return Err(corrupt(&"the token set is not what its name says"));
        }
        Ok(Self {
            context_size: footer.context_size,
            id_bytes: footer.id_bytes,
            record,
            accounting: footer.accounting,
            map,
        })
    }

    pub fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    fn record(&self, index: u64) -> &[u8] {
        let at = MAGIC.len() + index as usize * self.record;
        &self.map[at..at + self.record]
    }

    /// Context `index`.
    ///
    /// # Panics
    /// Where there is no such context.
    pub fn context(&self, index: u64) -> Context {
        let (len, rest) = self.record(index).split_at(4);
        let (ids, mask) = rest.split_at(self.context_size * self.id_bytes);
        let id = |bytes: &[u8]| {
            let mut id = [0; 4];
            id[..bytes.len()].copy_from_slice(bytes);
            u32::from_le_bytes(id)
        };
        Context {
            index,
            ids: ids.chunks_exact(self.id_bytes).map(id).collect(),
            len: id(len) as usize,
            mask: mask.to_vec(),
        }
    }

    /// Number of positions of context `index` that are trained on.
    pub fn valid_count(&self, index: u64) -> usize {
        count(&self.record(index)[self.record - self.context_size.div_ceil(8)..])
    }
}

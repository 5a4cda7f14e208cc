//! What a cache folder says about itself.

use crate::activations::{CacheDtype, Cursor, Site};
use crate::domain::{Code, Error, Precision, Result};
use crate::system::files::write_atomic;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

pub(super) const FILE: &str = "manifest.json";
const FORMAT: u32 = 1;
/// Largest manifest that is read, in bytes: some 400,000 shards.
const MAX_BYTES: u64 = 64 << 20;

/// What decides every value of a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// BLAKE3 of the language model; see [`crate::activations::model_hash`].
    pub model: String,
    /// How its weights were held.
    pub precision: Precision,
    /// [`crate::data::TokenSet::key`] of the contexts.
    pub data: String,
    /// Seed of the order.
    pub seed: u64,
    /// Rows that were shuffled together.
    pub window_rows: u64,
    /// How values are stored.
    pub dtype: CacheDtype,
    /// Hook points and widths.
    pub sites: Vec<Site>,
}

/// A file of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Rows in it.
    pub rows: u64,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of the file, in hexadecimal.
    pub blake3: String,
}

/// The manifest of a cache folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    /// What the rows are.
    pub identity: Identity,
    /// Rows that one epoch over the text has.
    pub rows_per_epoch: u64,
    /// Rows that the cache is to hold.
    pub target_rows: u64,
    /// Where writing goes on.
    pub next: Cursor,
    /// The files so far.
    pub shards: Vec<Shard>,
}

/// The manifest with a checksum over its compact JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    manifest: Manifest,
    blake3: String,
}

impl Manifest {
    pub(super) fn new(identity: Identity, rows_per_epoch: u64, next: Cursor) -> Self {
        Self {
            format: FORMAT,
            identity,
            rows_per_epoch,
            target_rows: 0,
            next,
            shards: Vec::new(),
        }
    }

    /// Rows that are there.
    pub fn rows(&self) -> u64 {
        self.shards.iter().map(|s| s.rows).sum()
    }

    /// The manifest of the cache at `dir`; none where there is no cache yet.
    ///
    /// # Errors
    /// `cache-corrupt`, `io-read`.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let fail = |e: std::io::Error| Error::read(&path, &e);
        let corrupt = |message: String| {
            Error::new(Code::CacheCorrupt, path.display(), message)
                .hint("delete the folder to have it written again")
        };
        let length = match std::fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            meta => meta.map_err(fail)?.len(),
        };
        if length > MAX_BYTES {
            return Err(corrupt(format!(
                "{length} bytes are too many for a manifest"
            )));
        }
        let bytes = std::fs::read(&path).map_err(fail)?;
        let sealed: Sealed =
            serde_json::from_slice(&bytes).map_err(|e| corrupt(format!("not valid: {e}")))?;
        if sealed.manifest.seal()? != sealed.blake3 {
            return Err(corrupt("it fails its checksum".into()));
        }
        if sealed.manifest.format != FORMAT {
            let found = sealed.manifest.format;
            return Err(corrupt(format!("its format is {found}, expected {FORMAT}")));
        }
        let manifest = sealed.manifest;
        let counts = (manifest.shards.iter().map(|s| s.rows))
            .chain(manifest.identity.sites.iter().map(|s| s.d_in as u64))
            .chain([manifest.rows_per_epoch]);
        if let Some(count) = counts.into_iter().find(|n| !(1..=1 << 40).contains(n)) {
            return Err(corrupt(format!("a count in it is {count}")));
        }
        Ok(Some(manifest))
    }

    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let sealed = Sealed {
            manifest: self.clone(),
            blake3: self.seal()?,
        };
        let json = serde_json::to_vec_pretty(&sealed).map_err(internal)?;
        write_atomic(&dir.join(FILE), &json)
    }

    fn seal(&self) -> Result<String> {
        let json = serde_json::to_vec(self).map_err(internal)?;
        Ok(blake3::hash(&json).to_hex().to_string())
    }

    /// Checks that the cache at `dir` holds what is asked for.
    pub(super) fn expect(&self, dir: &Path, wanted: &Identity) -> Result<()> {
        let found = &self.identity;
        let hooks = |identity: &Identity| {
            let hooks = identity.sites.iter();
            let hooks: Vec<String> = hooks.map(|s| format!("{} [{}]", s.hook, s.d_in)).collect();
            hooks.join(", ")
        };
        let short = |hash: &str| hash.chars().take(12).collect::<String>();
        let pairs = [
            ("model", short(&found.model), short(&wanted.model)),
            (
                "precision",
                found.precision.to_string(),
                wanted.precision.to_string(),
            ),
            ("data", short(&found.data), short(&wanted.data)),
            ("seed", found.seed.to_string(), wanted.seed.to_string()),
            (
                "window rows",
                found.window_rows.to_string(),
                wanted.window_rows.to_string(),
            ),
            (
                "dtype",
                format!("{:?}", found.dtype),
                format!("{:?}", wanted.dtype),
            ),
            ("hook points", hooks(found), hooks(wanted)),
        ];
        if found == wanted {
            return Ok(());
        }
        let differing: Vec<String> = pairs
            .into_iter()
            .filter(|(_, found, wanted)| found != wanted)
            .map(|(what, found, wanted)| format!("{what} {found}, not {wanted}"))
            .collect();
        Err(Error::new(
            Code::ConfigInvalid,
            "activations.cache",
            format_args!(
                "{} holds activations of {}",
                dir.display(),
                differing.join("; ")
            ),
        )
        .hint("choose another folder, or delete this one to have it written again"))
    }
}

/// The file of shard `index`.
pub(super) fn shard_path(dir: &Path, index: usize) -> PathBuf {
    dir.join(format!("shard-{index:06}.safetensors"))
}

fn internal(e: serde_json::Error) -> Error {
    Error::new(Code::Internal, FILE, e)
}

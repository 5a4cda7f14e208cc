//! `manifest.json`: what a checkpoint consists of, and the proof that it is whole.
//!
//! It is written last, so a folder without it is no checkpoint. It holds the length and
//! BLAKE3 of every other file, and a BLAKE3 of itself; a file that differs in any byte
//! from what these say is not read.

use super::write::Digest;
use serde::{Deserialize, Serialize};

/// The file's name in a checkpoint.
pub const FILE_NAME: &str = "manifest.json";

/// The layout that this program writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// What a checkpoint says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    /// Order of saving within a run. A run that goes on from an earlier checkpoint saves
    /// lower steps later, so steps alone do not tell which checkpoint is the newest.
    pub sequence: u64,
    /// Training steps done.
    pub step: u64,
    /// Whether it was the best by `metric` when it was saved.
    pub best: bool,
    /// Whether rotation must keep it.
    pub protected: bool,
    /// The measure that decides which checkpoint is the best, where there is one.
    pub metric: Option<Metric>,
    /// Every other file of the checkpoint.
    pub files: Vec<FileEntry>,
}

/// A named measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// Such as `explained_variance`.
    pub name: String,
    /// Finite.
    pub value: f64,
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Name in the folder.
    pub name: String,
    /// Bytes.
    pub length: u64,
    /// BLAKE3, in hexadecimal.
    pub blake3: String,
}

impl FileEntry {
    pub(super) fn new(name: &str, digest: &Digest) -> Self {
        Self {
            name: name.to_owned(),
            length: digest.length,
            blake3: digest.blake3.to_hex().to_string(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    manifest: Manifest,
    blake3: String,
}

impl Manifest {
    pub(super) fn new(sequence: u64, step: u64, files: Vec<FileEntry>) -> Self {
        Self {
            format: FORMAT,
            sequence,
            step,
            best: false,
            protected: false,
            metric: None,
            files,
        }
    }

    /// The bytes of `manifest.json`.
    pub(super) fn render(&self) -> serde_json::Result<Vec<u8>> {
        let seal = blake3::hash(&serde_json::to_vec(self)?);
        let mut bytes = serde_json::to_vec_pretty(&Sealed {
            manifest: self.clone(),
            blake3: seal.to_hex().to_string(),
        })?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads `manifest.json`, or says in words why it cannot be trusted.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let read: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|e| format!("is not JSON: {e}"))?;
        match read["manifest"]["format"].as_u64() {
            Some(format) if format > u64::from(FORMAT) => {
                return Err(format!(
                    "has format {format}, from a newer version; this one reads up to {FORMAT}"
                ));
            }
            _ => {}
        }
        let sealed: Sealed =
            serde_json::from_slice(bytes).map_err(|e| format!("is malformed: {e}"))?;
        // Comparing the rendered bytes covers the seal and every byte outside it.
        match sealed.manifest.render() {
            Ok(expected) if expected == bytes => Ok(sealed.manifest),
            _ => Err("fails its own checksum".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let digest = Digest {
            length: 3,
            blake3: blake3::hash(b"abc"),
        };
        let mut manifest = Manifest::new(7, 42, vec![FileEntry::new("state.json", &digest)]);
        manifest.metric = Some(Metric {
            name: "explained_variance".to_owned(),
            value: 0.1 + 0.2,
        });
        manifest
    }

    #[test]
    fn it_reads_back_what_was_written() {
        let bytes = manifest().render().unwrap();
        assert_eq!(Manifest::parse(&bytes), Ok(manifest()));
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_seen() {
        let bytes = manifest().render().unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::parse(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(Manifest::parse(&bytes[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_newer_format_is_called_newer_not_corrupt() {
        let mut newer = manifest();
        newer.format = 2;
        let reason = Manifest::parse(&newer.render().unwrap()).unwrap_err();
        assert!(
            reason.contains("format 2, from a newer version"),
            "{reason}"
        );
    }
}

//! Training from a cache.

use super::manifest::{FILE, Manifest, shard_path};
use super::shard::Verified;
use crate::activations::Site;
use crate::activations::source::{ActivationSource, BatchInfo, Cursor};
use crate::device::{Device, Slot};
use crate::domain::{Code, Error, Result};
use std::path::{Path, PathBuf};

/// The rows of a cache folder in the order in which they were written; after the last one
/// they begin again.
pub struct CachedSource {
    dir: PathBuf,
    manifest: Manifest,
    /// Rows before each shard, and of all.
    before: Vec<u64>,
    batch: usize,
    row: u64,
    open: Option<(usize, Verified)>,
}

impl CachedSource {
    /// Opens the cache at `dir` for batches of `batch` rows. A shard is verified when its
    /// first row is asked for, before any of its values is used.
    ///
    /// # Errors
    /// `cache-corrupt` where it is incomplete, or its manifest or a file's length is not what
    /// was written.
    pub fn open(dir: &Path, batch: usize) -> Result<Self> {
        let about = dir.join(FILE);
        let corrupt = |message: String| Error::new(Code::CacheCorrupt, about.display(), message);
        let manifest = Manifest::read(dir)?.ok_or_else(|| {
            corrupt("there is no manifest, so the folder holds no activation cache".into())
        })?;
        let rows = manifest.rows();
        if rows < manifest.target_rows || rows == 0 {
            return Err(corrupt(format!(
                "the cache is incomplete: {rows} of {} rows were written",
                manifest.target_rows
            ))
            .hint("run what writes it again: it goes on where it stopped"));
        }
        for (index, shard) in manifest.shards.iter().enumerate() {
            let path = shard_path(dir, index);
            let length = match std::fs::metadata(&path) {
                Ok(meta) => meta.len(),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
                Err(e) => return Err(Error::read(&path, &e)),
            };
            if length != shard.bytes {
                return Err(Error::new(
                    Code::CacheCorrupt,
                    path.display(),
                    format_args!(
                        "the shard ends at byte {length}, it was written with {}",
                        shard.bytes
                    ),
                )
                .hint("delete the cache folder to have it written again"));
            }
        }
        let mut before = vec![0];
        for shard in &manifest.shards {
            before.push(before[before.len() - 1] + shard.rows);
        }
        Ok(Self {
            dir: dir.to_owned(),
            manifest,
            before,
            batch,
            row: 0,
            open: None,
        })
    }

    /// What the cache says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Rows in the cache.
    pub fn rows(&self) -> u64 {
        self.manifest.rows()
    }

    fn shard(&mut self, index: usize) -> Result<&Verified> {
        let verified = match self.open.take() {
            Some((open, verified)) if open == index => verified,
            _ => {
                let identity = &self.manifest.identity;
                let expected = &self.manifest.shards[index];
                let path = shard_path(&self.dir, index);
                Verified::open(&path, &identity.sites, identity.dtype, expected)?
            }
        };
        Ok(&self.open.insert((index, verified)).1)
    }

    /// The next batch.
    fn read(&mut self, out: &mut [&mut [f32]]) -> Result<()> {
        assert_eq!(out.len(), self.manifest.identity.sites.len());
        let (mut filled, total) = (0, self.rows());
        while filled < self.batch {
            let row = (self.row + filled as u64) % total;
            let index = self.before.partition_point(|&before| before <= row) - 1;
            let left = (self.before[index + 1] - row) as usize;
            let rows = left.min(self.batch - filled);
            let first = (row - self.before[index]) as usize;
            self.shard(index)?.read(first, rows, filled, out)?;
            filled += rows;
        }
        Ok(())
    }

    /// Goes behind the next batch.
    fn advance(&mut self) -> BatchInfo {
        let info = BatchInfo::new(self.row, self.batch, self.manifest.rows_per_epoch);
        self.row += self.batch as u64;
        info
    }
}

impl<D: Device<Real = f32>> ActivationSource<D> for CachedSource {
    fn sites(&self) -> &[Site] {
        &self.manifest.identity.sites
    }

    fn batch_rows(&self) -> usize {
        self.batch
    }

    fn rows_per_epoch(&self) -> u64 {
        self.manifest.rows_per_epoch
    }

    fn is_on_host(&self) -> bool {
        true
    }

    fn is_at_hand(&self) -> bool {
        true
    }

    fn fill_batch(&mut self, out: &mut [D::Slot]) -> Result<BatchInfo> {
        let hosts = out.iter_mut().map(D::Slot::host);
        let mut hosts: Vec<&mut [f32]> = hosts.collect::<Result<_>>()?;
        self.read(&mut hosts)?;
        for slot in out {
            slot.send()?;
        }
        Ok(self.advance())
    }

    fn next_batch(&mut self, out: &mut [Vec<f32>]) -> Result<BatchInfo> {
        for (out, site) in out.iter_mut().zip(&self.manifest.identity.sites) {
            out.resize(self.batch * site.d_in, 0.0);
        }
        let mut hosts: Vec<&mut [f32]> = out.iter_mut().map(Vec::as_mut_slice).collect();
        self.read(&mut hosts)?;
        Ok(self.advance())
    }

    fn cursor(&self) -> Cursor {
        Cursor::Cache { row: self.row }
    }

    fn seek(&mut self, cursor: &Cursor) -> Result<()> {
        match cursor {
            Cursor::Cache { row } => {
                self.row = *row;
                Ok(())
            }
            Cursor::Live { .. } => Err(Error::new(
                Code::CheckpointMismatch,
                "activations",
                "the checkpoint was trained by live capture, not from a cache",
            )
            .hint("resume with the settings of the run that saved it")),
        }
    }
}

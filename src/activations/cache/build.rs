//! Filling a cache from another source.

use super::manifest::{Identity, Manifest, shard_path};
use super::read::CachedSource;
use super::shard;
use crate::activations::source::ActivationSource;
use crate::device::Device;
use crate::domain::{Code, Error, Result};
use crate::system::files::create_dir;
use crate::system::lock::FileLock;
use std::path::Path;

/// Bytes of f32 that are gathered before they are written as a shard.
const SHARD_BYTES: usize = 64 << 20;

/// Opens the cache of `identity` at `dir` for batches of `batch` rows, after writing what it
/// lacks of `rows` rows. Only then is `source` called: a cache that is whole needs neither
/// text nor model. One that was interrupted is continued. `progress` is told rows done and
/// wanted; an error that it returns ends the work, to be continued.
///
/// # Errors
/// `config-invalid` where the folder holds other activations, `cache-corrupt`, `run-busy`,
/// `disk-full` (before anything is written where the space cannot suffice), `io-write`, and
/// those of `source`.
pub fn open_or_build<D: Device<Real = f32>, A: ActivationSource<D>>(
    dir: &Path,
    identity: &Identity,
    rows: u64,
    batch: usize,
    source: impl FnOnce() -> Result<A>,
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<CachedSource> {
    create_dir(dir)?;
    let lock = FileLock::of_run(dir)?;
    let found = Manifest::read(dir)?;
    if let Some(manifest) = &found {
        manifest.expect(dir, identity)?;
    }
    let (have, target) = found.as_ref().map_or((0, 0), |m| (m.rows(), m.target_rows));
    let target = target.max(rows.max(1).next_multiple_of(batch as u64));
    if have < target {
        let mut source = source()?;
        let manifest = match found {
            Some(manifest) => {
                source.seek(&manifest.next)?;
                manifest
            }
            None => Manifest::new(identity.clone(), source.rows_per_epoch(), source.cursor()),
        };
        write(dir, manifest, target, &mut source, SHARD_BYTES, progress)?;
    }
    drop(lock);
    CachedSource::open(dir, batch)
}

/// Writes rows of `source` until there are `target`, or up to a batch more.
pub(super) fn write<D: Device<Real = f32>>(
    dir: &Path,
    mut manifest: Manifest,
    target: u64,
    source: &mut dyn ActivationSource<D>,
    shard_bytes: usize,
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    let sites = source.sites().to_vec();
    if sites != manifest.identity.sites {
        let message = "the source captures other hook points than the cache is for";
        return Err(Error::new(Code::Internal, dir.display(), message));
    }
    manifest.target_rows = target;
    expect_space(dir, &manifest)?;
    manifest.write(dir)?;
    let width: usize = sites.iter().map(|s| s.d_in).sum();
    let per_shard = (shard_bytes / (4 * width)).max(1);
    let mut batch = vec![Vec::new(); sites.len()];
    let mut values = vec![Vec::new(); sites.len()];
    let mut done = manifest.rows();
    while done < target {
        let first = done;
        values.iter_mut().for_each(Vec::clear);
        while done < target && ((done - first) as usize) < per_shard {
            done += source.next_batch(&mut batch)?.rows as u64;
            for (values, batch) in values.iter_mut().zip(&batch) {
                values.extend_from_slice(batch);
            }
            progress(done.min(target), target)?;
        }
        let path = shard_path(dir, manifest.shards.len());
        let (dtype, rows) = (manifest.identity.dtype, (done - first) as usize);
        let written = shard::write(&path, &sites, dtype, first, rows, &values)?;
        manifest.shards.push(written);
        manifest.next = source.cursor();
        manifest.write(dir)?;
    }
    Ok(())
}

/// Refuses a cache for which the disk has no room.
fn expect_space(dir: &Path, manifest: &Manifest) -> Result<()> {
    let identity = &manifest.identity;
    let width: u64 = identity.sites.iter().map(|s| s.d_in as u64).sum();
    let needed = (manifest.target_rows - manifest.rows())
        .saturating_mul(width)
        .saturating_mul(identity.dtype.bytes() as u64);
    let disk = rustix::fs::statvfs(dir).map_err(|e| Error::read(dir, &e.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if needed <= free {
        return Ok(());
    }
    Err(Error::new(
        Code::DiskFull,
        dir.display(),
        format_args!("the activation cache needs {needed} bytes, {free} are free"),
    )
    .hint("free some space, train on fewer tokens, or leave activations.cache out"))
}

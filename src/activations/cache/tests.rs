//! A cache against live capture, interruption and damage.

use super::build::write;
use super::manifest::shard_path;
use super::*;
use crate::activations::tests::{contexts, device, site};
use crate::activations::{
    ActivationSource, BatchInfo, CacheDtype, Cursor, Keep, Live, Order, Scripted, Site,
};
use crate::data::Context;
use crate::device::cpu::Cpu;
use crate::domain::Precision;
use crate::domain::{Code, Error, Result};
use std::path::Path;

const ORDER: Order = Order {
    seed: 11,
    batch: 6,
    window_batches: 5,
    lm_batch: 4,
    keep: Keep::Host,
};
/// Rows of the test caches, and the bytes of f32 of a shard: eight rows fill one.
const ROWS: u64 = 66;
const SHARD: usize = 8 * 5 * 4;

fn sites() -> Vec<Site> {
    vec![
        site("blocks.0.hook_mlp_out", 3),
        site("blocks.0.hook_resid_post", 2),
    ]
}

type Source = Live<'static, Cpu, Vec<Context>, Scripted>;

fn live(batch: usize) -> Source {
    let order = Order {
        batch,
        window_batches: 30 / batch,
        ..ORDER
    };
    Live::new(device(), contexts(20), Scripted::new(1, sites()), order).unwrap()
}

fn identity(dtype: CacheDtype) -> Identity {
    Identity {
        model: "model".into(),
        precision: Precision::F32,
        data: "data".into(),
        seed: 11,
        window_rows: 30,
        dtype,
        sites: sites(),
    }
}

/// Writes small shards to `dir`, as far as `progress` lets it.
fn fill(
    dir: &Path,
    dtype: CacheDtype,
    rows: u64,
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    let mut source = live(6);
    let manifest = match Manifest::read(dir)? {
        Some(manifest) => {
            source.seek(&manifest.next)?;
            manifest
        }
        None => Manifest::new(identity(dtype), source.rows_per_epoch(), source.cursor()),
    };
    write(dir, manifest, rows, &mut source, SHARD, progress)
}

fn cache(dtype: CacheDtype) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), dtype, ROWS, &mut |_, _| Ok(())).unwrap();
    dir
}

/// The source as one of batches for the CPU.
fn of_cpu(source: &mut CachedSource) -> &mut dyn ActivationSource<Cpu> {
    source
}

type Batches = Vec<(BatchInfo, Vec<Vec<f32>>)>;

fn batches(source: &mut dyn ActivationSource<Cpu>, count: usize) -> Result<Batches> {
    let mut out = vec![Vec::new(); source.sites().len()];
    (0..count)
        .map(|_| Ok((source.next_batch(&mut out)?, out.clone())))
        .collect()
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| {
            (
                e.file_name().into_string().unwrap(),
                std::fs::read(e.path()).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_cache_gives_the_batches_of_live_capture_bit_for_bit() {
    let dir = cache(CacheDtype::F32);
    let cached = CachedSource::open(dir.path(), 6).unwrap();
    assert_eq!(cached.manifest().shards.len(), 6);
    for batch in [6, 3, 2] {
        let count = ROWS as usize / batch;
        let mut cached = CachedSource::open(dir.path(), batch).unwrap();
        let cached = of_cpu(&mut cached);
        assert_eq!(cached.sites(), sites());
        assert_eq!(cached.rows_per_epoch(), live(6).rows_per_epoch());
        let found = batches(cached, count).unwrap();
        assert_eq!(found, batches(&mut live(batch), count).unwrap());
    }
}

#[test]
fn a_shard_is_a_safetensors_file_with_a_tensor_for_each_site() {
    let dir = cache(CacheDtype::F32);
    let bytes = std::fs::read(shard_path(dir.path(), 1)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor("blocks.0.hook_resid_post").unwrap();
    assert_eq!(tensor.shape(), [12, 2]);
    let expected = batches(&mut live(6), 4).unwrap();
    let expected = [expected[2].1[1].clone(), expected[3].1[1].clone()].concat();
    assert_eq!(tensor.data(), bytemuck::cast_slice::<f32, u8>(&expected));
}

#[test]
fn half_precision_is_close_and_its_range_is_guarded() {
    let exact = batches(&mut live(6), 11).unwrap();
    for (dtype, epsilon) in [
        (CacheDtype::F16, 1.0 / 2048.0),
        (CacheDtype::Bf16, 1.0 / 256.0),
    ] {
        let dir = cache(dtype);
        let mut source = CachedSource::open(dir.path(), 6).unwrap();
        let found = batches(&mut source, 11).unwrap();
        let pairs = exact
            .iter()
            .zip(&found)
            .flat_map(|((_, a), (_, b))| a.iter().flatten().zip(b.iter().flatten()));
        let mut differ = false;
        for (exact, found) in pairs {
            assert!(
                (exact - found).abs() <= exact.abs() * epsilon + 1e-7,
                "{exact} {found}"
            );
            differ |= exact != found;
        }
        assert!(differ);
    }
    let dir = tempfile::tempdir().unwrap();
    let large = |dtype, value| {
        let path = dir.path().join("a");
        shard::write(&path, &[site("a", 1)], dtype, 0, 1, &[vec![value]])
    };
    large(CacheDtype::F16, 65_504.0).unwrap();
    let error = large(CacheDtype::F16, -65_600.0).unwrap_err();
    assert_eq!((error.code, error.about.as_str()), (Code::NonFinite, "a"));
    large(CacheDtype::Bf16, -65_600.0).unwrap();
    assert_eq!(
        large(CacheDtype::Bf16, f32::MAX).unwrap_err().code,
        Code::NonFinite
    );
}

#[test]
fn a_cache_that_was_interrupted_says_so_and_goes_on_to_the_same_files() {
    let whole = files(cache(CacheDtype::F32).path());
    for stop_at in (6..=ROWS).step_by(6) {
        let dir = tempfile::tempdir().unwrap();
        let stop = fill(dir.path(), CacheDtype::F32, ROWS, &mut |done, all| {
            assert_eq!(all, ROWS);
            match done == stop_at {
                true => Err(Error::new(Code::Usage, "", "stop")),
                false => Ok(()),
            }
        });
        assert_eq!(stop.unwrap_err().code, Code::Usage);
        let error = CachedSource::open(dir.path(), 6).err().unwrap();
        assert_eq!(error.code, Code::CacheCorrupt);
        assert!(error.message.contains("incomplete") && error.message.contains("66"));
        fill(dir.path(), CacheDtype::F32, ROWS, &mut |_, _| Ok(())).unwrap();
        assert_eq!(files(dir.path()), whole);
    }
}

#[test]
fn open_or_build_writes_what_is_missing_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let identity = identity(CacheDtype::F32);
    let open = |rows: u64, source: fn() -> Result<Source>| {
        let mut told = Vec::new();
        let progress = &mut |done, all| {
            told.push((done, all));
            Ok(())
        };
        let opened = open_or_build(dir.path(), &identity, rows, 6, source, progress);
        opened.map(|mut source| (batches(&mut source, 9).unwrap(), source.rows(), told))
    };
    let build = || Ok(live(6));
    let never = || Err(Error::new(Code::Internal, "", "the source is not needed"));
    assert_eq!(open(31, never).err().unwrap().code, Code::Internal);
    let (_, rows, told) = open(31, build).unwrap();
    assert_eq!((rows, told.last()), (36, Some(&(36, 36))));
    let (_, rows, told) = open(36, never).unwrap();
    assert_eq!((rows, told.len()), (36, 0));
    // More rows than it holds: it grows.
    let (found, rows, _) = open(54, build).unwrap();
    assert_eq!(rows, 54);
    assert_eq!(found, batches(&mut live(6), 9).unwrap());
}

/// Also one of another width.
///
/// behaviour: train-07
#[test]
fn a_cache_of_something_else_is_refused_by_what_differs() {
    let dir = cache(CacheDtype::F32);
    let base = identity(CacheDtype::F32);
    let cases = [
        (
            "model model, not other",
            Identity {
                model: "other".into(),
                ..base.clone()
            },
        ),
        (
            "precision f32, not int8",
            Identity {
                precision: Precision::Int8,
                ..base.clone()
            },
        ),
        (
            "data data, not other",
            Identity {
                data: "other".into(),
                ..base.clone()
            },
        ),
        (
            "seed 11, not 12",
            Identity {
                seed: 12,
                ..base.clone()
            },
        ),
        (
            "window rows 30, not 60",
            Identity {
                window_rows: 60,
                ..base.clone()
            },
        ),
        (
            "dtype F32, not F16",
            Identity {
                dtype: CacheDtype::F16,
                ..base.clone()
            },
        ),
        (
            "not a [3]",
            Identity {
                sites: vec![site("a", 3)],
                ..base.clone()
            },
        ),
    ];
    for (message, wanted) in cases {
        let source = || Ok(live(6));
        let error = open_or_build(dir.path(), &wanted, ROWS, 6, source, &mut |_, _| Ok(()));
        let error = error.err().unwrap();
        assert_eq!(error.code, Code::ConfigInvalid);
        assert_eq!(error.about, "activations.cache");
        assert!(error.message.contains(message), "{error}");
    }
}

#[test]
fn a_cached_run_goes_on_from_any_row_and_begins_again_at_the_end() {
    let dir = cache(CacheDtype::F32);
    let open = || CachedSource::open(dir.path(), 5).unwrap();
    let all = batches(&mut open(), 40).unwrap();
    let rows = |all: &Batches| {
        all.iter()
            .flat_map(|(_, out)| out[1].clone())
            .collect::<Vec<_>>()
    };
    let flat = rows(&all);
    assert_eq!(flat[..100], flat[ROWS as usize * 2..][..100]);
    let mut walker = open();
    for at in 0..30 {
        let mut resumed = open();
        let resumed = of_cpu(&mut resumed);
        resumed.seek(&of_cpu(&mut walker).cursor()).unwrap();
        assert_eq!(batches(resumed, 3).unwrap(), all[at..at + 3]);
        batches(&mut walker, 1).unwrap();
    }
    let error = of_cpu(&mut open()).seek(&live(6).cursor()).unwrap_err();
    assert_eq!(error.code, Code::CheckpointMismatch);
    assert_eq!(of_cpu(&mut walker).cursor(), Cursor::Cache { row: 150 });
}

/// The error of reading the whole cache.
fn refusal(dir: &Path) -> Error {
    CachedSource::open(dir, 6)
        .and_then(|mut source| batches(&mut source, 11))
        .unwrap_err()
}

/// behaviour: train-11
#[test]
fn damage_is_found_before_the_shard_is_used_and_named_by_file_and_offset() {
    let dir = cache(CacheDtype::F32);
    let path = shard_path(dir.path(), 4);
    let good = std::fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(13) {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        std::fs::write(&path, &bytes).unwrap();
        let mut source = CachedSource::open(dir.path(), 6).unwrap();
        // Four shards of two batches come before it.
        batches(&mut source, 8).unwrap();
        let error = batches(&mut source, 1).unwrap_err();
        assert_eq!(error.code, Code::CacheCorrupt);
        assert_eq!(error.about, path.display().to_string());
        let header = good.len() - 12 * 5 * 4;
        if at >= header {
            assert!(
                error.message.contains(&format!("from byte {header} on")),
                "{error}"
            );
        }
        assert_eq!(of_cpu(&mut source).cursor(), Cursor::Cache { row: 48 });
        std::fs::write(&path, &good).unwrap();
        batches(&mut source, 1).unwrap();
    }
    for length in [0, 7, good.len() - 1] {
        std::fs::write(&path, &good[..length]).unwrap();
        let error = refusal(dir.path());
        assert_eq!(error.about, path.display().to_string());
        assert!(
            error.message.contains(&format!("ends at byte {length},")),
            "{error}"
        );
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(refusal(dir.path()).about, path.display().to_string());
    std::fs::write(&path, &good).unwrap();

    let path = dir.path().join("manifest.json");
    let good = std::fs::read(&path).unwrap();
    for at in (0..good.len())
        .step_by(3)
        .filter(|&at| !good[at].is_ascii_whitespace())
    {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let error = refusal(dir.path());
        assert_eq!(error.code, Code::CacheCorrupt, "{at}: {error}");
        assert_eq!(error.about, path.display().to_string());
    }
    std::fs::remove_file(&path).unwrap();
    assert!(refusal(dir.path()).message.contains("no manifest"));
}

/// behaviour: train-11
#[test]
fn damage_deep_in_a_large_shard_is_named_by_its_block() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.safetensors");
    let sites = [site("a", 512), site("b", 256)];
    let values = [vec![0.5; 512 * 2000], vec![0.25; 256 * 2000]];
    let written = shard::write(&path, &sites, CacheDtype::F32, 0, 2000, &values).unwrap();
    let good = std::fs::read(&path).unwrap();
    assert_eq!(good.len() as u64, written.bytes);
    let header = good.len() - 768 * 2000 * 4;
    for block in [0, 2, 5] {
        let mut bytes = good.clone();
        bytes[header + (block << 20) + 77] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let error = shard::Verified::open(&path, &sites, CacheDtype::F32, &written);
        let from = header + (block << 20);
        let error = error.err().unwrap();
        assert!(
            error.message.contains(&format!("from byte {from} on")),
            "{error}"
        );
    }
}

/// behaviour: train-11
#[test]
fn a_shard_of_wrong_content_under_a_right_checksum_is_refused() {
    let dir = cache(CacheDtype::F32);
    let manifest = Manifest::read(dir.path()).unwrap().unwrap();
    let path = shard_path(dir.path(), 0);
    let swap = |sites: &[Site], dtype, rows: usize, value: f32| {
        let values: Vec<Vec<f32>> = sites.iter().map(|s| vec![value; rows * s.d_in]).collect();
        let mut written = shard::write(&path, sites, dtype, 0, rows, &values).unwrap();
        written.rows = 12;
        let mut manifest = manifest.clone();
        manifest.shards[0] = written;
        manifest.write(dir.path()).unwrap();
        let error = refusal(dir.path());
        assert_eq!(error.code, Code::CacheCorrupt);
        assert!(
            error.about.starts_with(&path.display().to_string()),
            "{error}"
        );
        error.message
    };
    let shape = swap(&sites(), CacheDtype::F32, 11, 0.5);
    assert!(shape.contains("[11, 3], expected [12, 3]"), "{shape}");
    let dtype = swap(&sites(), CacheDtype::F16, 12, 0.5);
    assert!(dtype.contains("F16") && dtype.contains("F32"), "{dtype}");
    let name = swap(&[site("a", 3), site("b", 2)], CacheDtype::F32, 12, 0.5);
    assert!(name.contains("missing"), "{name}");
    let nan = swap(&sites(), CacheDtype::F32, 12, f32::NAN);
    let header = std::fs::metadata(&path).unwrap().len() - 12 * 5 * 4;
    assert!(
        nan.contains(&format!("at byte {header} is not finite")),
        "{nan}"
    );
}

#[test]
fn a_cache_that_the_disk_cannot_hold_is_refused_before_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let error = fill(dir.path(), CacheDtype::F32, 1 << 50, &mut |_, _| Ok(())).unwrap_err();
    assert_eq!(error.code, Code::DiskFull);
    assert!(
        error.message.contains(&(20_u64 << 50).to_string()),
        "{error}"
    );
    assert!(files(dir.path()).is_empty());
}

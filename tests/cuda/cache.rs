//! Compiled kernels on disk.

use super::cuda_double::emulated;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

fn files(folder: &Path) -> Vec<(PathBuf, SystemTime)> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.path(), entry.metadata().unwrap().modified().unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn kernels_are_compiled_once_and_again_where_a_file_is_damaged() {
    let Some(gpu) = emulated() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("kernels");
    gpu.try_open(Some(&cache)).unwrap();
    let first = files(&cache);
    let sources = backpropd::device::cuda::kernels::SOURCES.len();
    assert_eq!(first.len(), sources);
    gpu.try_open(Some(&cache)).unwrap();
    assert_eq!(files(&cache), first, "compiled again");
    // Cut, flipped, empty.
    let good = std::fs::read(&first[0].0).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for bad in [&good[..good.len() - 9], &flipped, &[]] {
        // However many, it is said once.
        for (file, _) in &first[..2] {
            std::fs::write(file, bad).unwrap();
        }
        let device = gpu.try_open(Some(&cache)).unwrap();
        assert_eq!(std::fs::read(&first[0].0).unwrap(), good);
        let [warning] = device.warnings() else {
            panic!("{:?}", device.warnings());
        };
        assert!(warning.contains("are made again"), "{warning}");
        assert!(warning.contains(cache.to_str().unwrap()), "{warning}");
    }
    assert!(gpu.try_open(Some(&cache)).unwrap().warnings().is_empty());
}

#[test]
fn a_cache_that_cannot_be_written_is_told_once_and_no_error() {
    let Some(gpu) = emulated() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let device = gpu.try_open(Some(&file.join("kernels"))).unwrap();
    let [warning] = device.warnings() else {
        panic!("{:?}", device.warnings());
    };
    assert!(
        warning.starts_with("compiled kernels cannot be kept"),
        "{warning}"
    );
}

#[test]
fn another_architecture_has_files_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    for minor in [0, 6, 9] {
        let Some(gpu) = emulated() else {
            return;
        };
        gpu.set("major", 8);
        gpu.set("minor", minor);
        gpu.try_open(Some(folder.path())).unwrap();
    }
    let sources = backpropd::device::cuda::kernels::SOURCES.len();
    assert_eq!(files(folder.path()).len(), 3 * sources);
}

//! Every call of a save fails in turn, with every error that a disk gives; and a disk that
//! is full at every size.

use super::*;
use backpropd::domain::Code;
use backpropd::system::fs::Call;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const EINTR: i32 = 4;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Content of every file below `dir`.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), std::fs::read(path).unwrap());
        }
    }
    found
}

/// Saves step 10 beside a sound step 5, with the call number `victim` failing. Returns
/// whether there was such a call.
fn fail_at(victim: usize, errno: i32) -> bool {
    let dir = scratch();
    let old = Toy::at(INTERVAL);
    old.save(&mut open(Fs::default(), dir.path())).unwrap();
    let before = contents(dir.path());

    let armed = Arc::new(AtomicUsize::new(usize::MAX));
    let failed_syncs = Arc::new(Mutex::new(Vec::<PathBuf>::new()));
    let (gate_armed, gate_syncs) = (armed.clone(), failed_syncs.clone());
    let mut store = open(
        Fs::gated(Arc::new(move |call| {
            let mut failed = gate_syncs.lock().unwrap();
            if let Call::Sync(path) = call {
                assert!(!failed.iter().any(|p| p == path), "fsync was tried again");
            }
            if gate_armed.fetch_sub(1, SeqCst) != 0 {
                return Ok(());
            }
            if let Call::Sync(path) = call {
                failed.push(path.to_owned());
            }
            Err(io::Error::from_raw_os_error(errno))
        })),
        dir.path(),
    );
    armed.store(victim, SeqCst);
    let outcome = Toy::at(2 * INTERVAL).save(&mut store);
    let reached = armed.load(SeqCst) > victim;

    for (path, bytes) in &before {
        assert_eq!(&std::fs::read(path).unwrap(), bytes, "call {victim}");
    }
    let found = restored(dir.path()).step;
    match outcome {
        // Rotation and reading of older manifests may fail without harm.
        Ok(_) => assert_eq!(found, 2 * INTERVAL),
        Err(error) => {
            assert!(reached);
            assert!(!error.to_string().contains('\n'), "{error}");
            match (error.code, errno) {
                (Code::DiskFull, ENOSPC) | (Code::IoWrite, EIO | EINTR) => {}
                // Reading back.
                (Code::CheckpointCorrupt, _) => assert_eq!(found, 2 * INTERVAL),
                other => panic!("call {victim}: {other:?} {error}"),
            }
        }
    }
    // The same process goes on once the disk is well again.
    armed.store(usize::MAX, SeqCst);
    failed_syncs.lock().unwrap().clear();
    Toy::at(3 * INTERVAL).save(&mut store).unwrap();
    assert_eq!(restored(dir.path()).step, 3 * INTERVAL);
    reached
}

/// The gate stands for a disk: it sees every call and can fail the n-th.
///
/// behaviour: double-11
#[test]
fn an_error_at_any_call_of_a_save_loses_nothing() {
    for errno in [EIO, ENOSPC, EINTR] {
        let calls = (0..).take_while(|&victim| fail_at(victim, errno)).count();
        // Three files created, written and synced, two folders synced, a rename, three
        // files read back.
        assert!(calls >= 20, "only {calls} calls");
    }
}

#[test]
fn a_disk_that_fills_at_any_byte_of_a_save_keeps_the_old_and_takes_the_new_later() {
    let dir = scratch();
    let room = Arc::new(AtomicUsize::new(usize::MAX));
    let left = room.clone();
    let mut store = open(
        Fs::gated(Arc::new(move |call| match call {
            Call::Write(_, bytes) => left
                .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(bytes.len()))
                .map(|_| ())
                .map_err(|_| io::Error::from_raw_os_error(ENOSPC)),
            _ => Ok(()),
        })),
        dir.path(),
    );
    let mut toy = Toy::at(INTERVAL);
    toy.save(&mut store).unwrap();
    let needed: usize = contents(dir.path()).values().map(Vec::len).sum();

    let fills = size(12, 100);
    for i in 0..fills {
        let before = contents(dir.path());
        toy.advance();
        room.store(needed * i / fills, SeqCst);
        let error = toy.save(&mut store).unwrap_err();
        assert_eq!(error.code, Code::DiskFull, "{error}");
        assert!(error.hint.contains("free some space"), "{error}");
        // Nothing half-written holds space that the next save needs.
        assert_eq!(contents(dir.path()), before);

        room.store(usize::MAX, SeqCst);
        toy.save(&mut store).unwrap();
        assert_eq!(restored(dir.path()).step, toy.step);
    }
}

#[test]
fn nothing_is_rotated_away_for_a_checkpoint_that_the_disk_garbled() {
    let dir = scratch();
    let mut store = open(Fs::default(), dir.path());
    for step in [INTERVAL, 2 * INTERVAL] {
        Toy::at(step).save(&mut store).unwrap();
    }
    let before = contents(dir.path());
    let garble = |call: Call<'_>| {
        if let Call::Rename(from, _) = call {
            let path = from.join("tensors.safetensors");
            let mut bytes = std::fs::read(&path)?;
            bytes[300] ^= 1;
            std::fs::write(path, bytes)?;
        }
        Ok(())
    };
    let mut lying = open(Fs::gated(Arc::new(garble)), dir.path());
    let error = Toy::at(3 * INTERVAL).save(&mut lying).unwrap_err();
    assert_eq!(error.code, Code::CheckpointCorrupt);
    assert!(
        error
            .message
            .contains("tensors.safetensors fails its checksum")
    );
    let after = contents(dir.path());
    assert!(
        before
            .iter()
            .all(|(path, bytes)| after.get(path) == Some(bytes))
    );

    let found = store.newest_valid().unwrap();
    assert_eq!(found.checkpoint.step(), 2 * INTERVAL);
    assert_eq!(found.skipped.len(), 1);
}

use super::*;
use std::fs;
use std::path::{Path, PathBuf};

/// 2026-11-23 08:34:27 UTC.
const NOW: Millis = 1_795_422_867_000;

/// The version of a database of this release.
const NEWEST: usize = super::super::schema::MIGRATIONS.len();

/// Runs and events, some in the database and some in its log alone; the files as a kill
/// would leave them.
fn filled(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut store, _) = Store::open(dir, 0).unwrap();
    fill(&mut store, 200);
    store
        .conn
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    fill(&mut store, 5);
    let files = files(dir);
    drop(store);
    files
}

fn fill(store: &mut Store, events: u64) {
    let run = submit(store, "a");
    store
        .write(|tx| (0..events).try_for_each(|n| tx.append(Some(run), "x", &n, 1).map(|_| ())))
        .unwrap();
}

/// The database and its log.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let log = format!("{DATABASE}-wal");
    [DATABASE, &log]
        .map(|name| (name.into(), fs::read(dir.join(name)).unwrap()))
        .into()
}

fn lay(dir: &Path, files: &[(PathBuf, Vec<u8>)]) {
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

#[test]
fn a_damaged_database_is_moved_aside_untouched_with_its_log_and_a_fresh_one_begins() {
    let source = scratch();
    let mut files = filled(source.path());
    // The header of the second page, which the log does not hold.
    files[0].1[4096..4160].fill(0xa5);
    let dir = scratch();
    for round in 1..=2 {
        lay(dir.path(), &files);
        let (mut store, opened) = Store::open(dir.path(), NOW).unwrap();
        assert_eq!(opened.version, 0);
        let quarantine = opened.quarantined.unwrap();
        assert!(!quarantine.why.is_empty());
        let suffix = if round == 1 { "" } else { ".2" };
        let name = format!("{DATABASE}.corrupt-20261123T083427Z{suffix}");
        assert_eq!(quarantine.moved_to, dir.path().join(&name));
        assert_eq!(fs::read(dir.path().join(&name)).unwrap(), files[0].1);
        let log = dir.path().join(format!("{name}-wal"));
        assert_eq!(fs::read(log).unwrap(), files[1].1);

        // An old number must not lead to another run or event.
        let run = submit(&mut store, "b");
        assert!(run > RunId(1_795_422_867));
        let after = store.view().events(100, None, 9).unwrap();
        assert!(matches!(after.gap, Some(Gap::Pruned { first: 101, .. })));
        drop(store);
        let (_, opened) = Store::open(dir.path(), NOW).unwrap();
        assert_eq!((opened.version, opened.quarantined), (NEWEST, None));
        fs::remove_file(dir.path().join(DATABASE)).unwrap();
    }
}

#[test]
fn a_log_without_its_database_is_moved_aside_too() {
    let source = scratch();
    let files = filled(source.path());
    let dir = scratch();
    lay(dir.path(), &files[1..]);
    let (_store, opened) = Store::open(dir.path(), NOW).unwrap();
    let quarantine = opened.quarantined.unwrap();
    let mut log = quarantine.moved_to.into_os_string();
    log.push("-wal");
    assert_eq!(fs::read(log).unwrap(), files[1].1);
}

#[test]
fn what_a_killed_process_leaves_in_the_log_is_there() {
    let source = scratch();
    let files = filled(source.path());
    let dir = scratch();
    lay(dir.path(), &files);
    let (store, opened) = Store::open(dir.path(), NOW).unwrap();
    assert_eq!((opened.version, opened.quarantined), (NEWEST, None));
    assert_eq!(store.view().newest_event().unwrap(), 205);
    drop(store);

    // A log that ends in the middle of a transaction holds those before it.
    let dir = scratch();
    let mut torn = files;
    let half = torn[1].1.len() - 100;
    torn[1].1.truncate(half);
    lay(dir.path(), &torn);
    let (store, opened) = Store::open(dir.path(), NOW).unwrap();
    assert_eq!(opened.quarantined, None);
    assert_eq!(store.view().newest_event().unwrap(), 200);
}

/// Reads everything; an error must be one of damage.
fn read_all(store: &Store) -> crate::domain::Result<()> {
    let view = store.view();
    for run in view.runs(&RunQuery::default(), 99)? {
        let known = view.run_config(run.id).map(|_| ());
        let points = view.metrics(run.id, &MetricQuery::default(), 99);
        known.and(points.map(|_| ())).or_else(|e| match e.code {
            Code::NotFound => Ok(()),
            _ => Err(e),
        })?;
    }
    view.events(0, None, 999).map(|_| ())
}

/// Bit flips and truncations of database and log: `BACKPROPD_FULL=1` runs 10,000.
#[test]
fn whatever_is_flipped_or_cut_nothing_panics_and_nothing_is_lost_from_the_quarantine() {
    let source = scratch();
    let files = filled(source.path());
    let full = std::env::var("BACKPROPD_FULL").as_deref() == Ok("1");
    let rounds = if full { 10_000 } else { 150 };
    let (mut set_aside, mut noticed, mut refused) = (0, 0, 0);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % bound as u64) as usize
    };
    let dir = scratch();
    for round in 0..rounds {
        let at = dir.path().join(round.to_string());
        fs::create_dir(&at).unwrap();
        let mut broken = files.clone();
        let bytes = &mut broken[usize::from(next(4) == 0)].1;
        let place = next(bytes.len());
        match next(3) {
            0 => bytes.truncate(place),
            1 => bytes[place] ^= 1 << next(8),
            _ => {
                let end = (place + 64).min(bytes.len());
                bytes[place..end].fill(next(256) as u8);
            }
        }
        lay(&at, &broken);
        match Store::open(&at, NOW) {
            Ok((_, opened)) if opened.quarantined.is_some() => {
                let moved = opened.quarantined.unwrap().moved_to;
                if !broken[0].1.is_empty() {
                    assert_eq!(fs::read(&moved).unwrap(), broken[0].1, "round {round}");
                }
                set_aside += 1;
            }
            Ok((mut store, _)) => {
                if let Err(error) = read_all(&store) {
                    assert_eq!(error.code, Code::StoreCorrupt, "{error}");
                    noticed += 1;
                } else {
                    // It may hold another value than before, but it works.
                    submit(&mut store, "b");
                }
            }
            // A flip in the version, or in what marks the file as ours.
            Err(error) => {
                assert_eq!(error.code, Code::StoreVersion, "round {round}: {error}");
                refused += 1;
            }
        }
        fs::remove_dir_all(&at).unwrap();
    }
    println!(
        "{rounds} damaged: {set_aside} moved aside, {noticed} noticed later, {refused} refused"
    );
    assert!(set_aside > rounds / 5, "{set_aside} of {rounds}");
}

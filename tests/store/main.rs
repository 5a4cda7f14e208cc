//! What the daemon's store must survive: a kill at any instant, and a full disk.
//!
//! The default sizes take seconds. `BACKPROPD_FULL=1` runs the full ones.

mod full_disk;
mod kill;
mod speed;

use backpropd::store::Store;
use std::path::Path;

/// `full` under `BACKPROPD_FULL=1`, else `small`.
fn size(small: usize, full: usize) -> usize {
    match std::env::var("BACKPROPD_FULL").as_deref() {
        Ok("1") => full,
        _ => small,
    }
}

/// A store that is sound.
fn open(dir: &Path) -> Store {
    let (store, opened) = Store::open(dir, 0).unwrap();
    assert_eq!(opened.quarantined, None);
    store
}

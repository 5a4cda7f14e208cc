//! Bit rot: a flipped bit or a cut file is found, named, and the checkpoint before it used.

use super::*;
use std::fs;

#[test]
fn no_flip_and_no_truncation_is_read() {
    let dir = scratch();
    let mut store = open(Fs::default(), dir.path());
    for step in [INTERVAL, 2 * INTERVAL] {
        Toy::at(step).save(&mut store).unwrap();
    }
    let newest = store.newest_valid().unwrap().checkpoint;
    let mut dice = Dice(5);
    for i in 0..size(300, 10_000) {
        let name = ["tensors.safetensors", "state.json", "manifest.json"][i % 3];
        let path = newest.path().join(name);
        let sound = fs::read(&path).unwrap();
        let at = dice.below(sound.len());
        let mut rotten = sound.clone();
        match dice.below(4) {
            0 => rotten.truncate(at),
            _ => rotten[at] ^= 1 << dice.below(8),
        }
        fs::write(&path, rotten).unwrap();

        let found = store.newest_valid().unwrap();
        assert_eq!(found.checkpoint.step(), INTERVAL, "{name} at {at}");
        assert_eq!(found.skipped.len(), 1);
        assert_eq!(found.skipped[0].path, newest.path());
        assert!(found.skipped[0].reason.contains(name));
        fs::write(&path, sound).unwrap();
    }
    assert_eq!(restored(dir.path()).step, 2 * INTERVAL);
}

//! What a checkpoint must survive: a kill at any instant, a power loss, every error that a
//! call can return, a full disk, and bit rot.
//!
//! The default sizes take seconds. `BACKPROPD_FULL=1` runs the full ones.

mod faults;
mod kill;
mod power;
mod rot;

use backpropd::checkpoint::{Found, Retention, Saved, Snapshot, Store};
use backpropd::domain::Result;
use backpropd::system::fs::Fs;
use backpropd::tensorfile::TensorOut;
use std::path::Path;

/// `full` under `BACKPROPD_FULL=1`, else `small`.
fn size(small: usize, full: usize) -> usize {
    match std::env::var("BACKPROPD_FULL").as_deref() {
        Ok("1") => full,
        _ => small,
    }
}

/// A folder that goes with the test; in memory where the system has such a place, because
/// thousands of fsyncs would wait for a disk that is not under test.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Steps between two checkpoints.
const INTERVAL: u64 = 5;

/// A run whose whole state follows from the step alone, and each step from the one before:
/// a state that was not restored exactly never fits again.
#[derive(Clone, Debug, PartialEq)]
struct Toy {
    step: u64,
    weights: Vec<f32>,
    counts: Vec<u32>,
    rng: [u64; 4],
}

impl Toy {
    fn start() -> Self {
        Self {
            step: 0,
            weights: vec![0.5; 700],
            counts: vec![0; 9],
            rng: [1, 2, 3, 4],
        }
    }

    fn at(step: u64) -> Self {
        let mut toy = Self::start();
        while toy.step < step {
            toy.advance();
        }
        toy
    }

    fn advance(&mut self) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(bytemuck::cast_slice(&self.rng));
        hasher.update(bytemuck::cast_slice(&self.weights));
        hasher.update(bytemuck::cast_slice(&self.counts));
        let mut noise = hasher.finalize_xof();
        noise.fill(bytemuck::cast_slice_mut(&mut self.rng));
        noise.fill(bytemuck::cast_slice_mut(&mut self.counts));
        let mut bits = vec![0u32; self.weights.len()];
        noise.fill(bytemuck::cast_slice_mut(&mut bits));
        for (weight, bits) in self.weights.iter_mut().zip(bits) {
            *weight = f32::from_bits(bits);
        }
        self.step += 1;
    }

    fn save(&self, store: &mut Store) -> Result<Saved> {
        let counts = bytemuck::cast_slice(&self.counts);
        let tensors = [
            TensorOut::new("counts", safetensors::Dtype::U32, &[9], counts),
            TensorOut::f32("weights", &[7, 100], &self.weights),
        ];
        let snapshot = Snapshot {
            step: self.step,
            tensors: &tensors,
            metric: None,
            protected: false,
        };
        store.save(&snapshot, &self.rng)
    }

    fn load(found: &Found) -> Self {
        let file = found.checkpoint.tensors().unwrap();
        Self {
            step: found.checkpoint.step(),
            weights: file.tensor("weights").unwrap().f32().unwrap().into_owned(),
            counts: file.tensor("counts").unwrap().u32().unwrap(),
            rng: found.checkpoint.state().unwrap(),
        }
    }

    fn bits(&self) -> (u64, Vec<u32>, &[u32], [u64; 4]) {
        let weights = self.weights.iter().map(|w| w.to_bits()).collect();
        (self.step, weights, &self.counts, self.rng)
    }
}

fn open(fs: Fs, dir: &Path) -> Store {
    let retention = Retention {
        keep_last: 2,
        best: None,
    };
    Store::open_on(fs, dir, retention).unwrap()
}

/// The newest checkpoint of `dir`, which must hold the exact state of its step.
fn restored(dir: &Path) -> Toy {
    let found = open(Fs::default(), dir).newest_valid().unwrap();
    let toy = Toy::load(&found);
    assert!(
        toy.bits() == Toy::at(toy.step).bits(),
        "step {} came back altered",
        toy.step
    );
    toy
}

/// A small generator for choices in tests.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        // splitmix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

//! Random numbers without state: each is a function of a seed, a stream and an index.
//!
//! A run that is resumed, or computed by another number of threads, therefore draws the
//! same numbers.

/// One stream of random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: u64,
}

impl Stream {
    /// The stream `name` of `seed`. Streams of different names or seeds are unrelated.
    pub fn new(seed: u64, name: &str) -> Self {
        let key = name.bytes().fold(mix(seed), |key, byte| {
            mix(key ^ u64::from(byte).wrapping_add(GAMMA))
        });
        Self { key }
    }

    /// A stream of its own for each `index`.
    pub fn child(self, index: u64) -> Self {
        Self {
            key: mix(self.at(index)),
        }
    }

    /// The number at `index`: all 64 bits are random.
    pub fn at(self, index: u64) -> u64 {
        // SplitMix64 (Steele et al. 2014), whose state is a counter.
        mix(self
            .key
            .wrapping_add(index.wrapping_add(1).wrapping_mul(GAMMA)))
    }

    /// The number at `index`, uniform in [0, 1).
    pub fn uniform(self, index: u64) -> f64 {
        (self.at(index) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_uniform_and_streams_unrelated() {
        let (a, b) = (Stream::new(1, "init"), Stream::new(1, "data"));
        let n = 20_000;
        let mean = (0..n).map(|i| a.uniform(i)).sum::<f64>() / n as f64;
        let square = (0..n).map(|i| a.uniform(i).powi(2)).sum::<f64>() / n as f64;
        let product = (0..n).map(|i| a.uniform(i) * b.uniform(i)).sum::<f64>() / n as f64;
        let next = (0..n).map(|i| a.uniform(i) * a.uniform(i + 1)).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        assert!((square - 1.0 / 3.0).abs() < 0.01, "{square}");
        assert!((product - 0.25).abs() < 0.01, "{product}");
        assert!((next - 0.25).abs() < 0.01, "{next}");
        assert_ne!(Stream::new(2, "init").at(0), a.at(0));
        assert_ne!(a.child(0).at(0), a.child(1).at(0));
    }
}

//! A random order of `0..n` in constant memory.

use crate::domain::random::Stream;

/// Rounds of the network. Four make a Feistel network a strong pseudorandom permutation with
/// ideal round functions (Luby & Rackoff 1988); two more are for small n.
const ROUNDS: u64 = 6;

/// A permutation of `0..n`: a Feistel network on the smallest even number of bits that holds
/// n, walked until it comes back below n (Black & Rogaway 2002, "cycle walking").
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    n: u64,
    half: u32,
    stream: Stream,
}

impl Permutation {
    /// The permutation of `0..n` that belongs to `stream`.
    ///
    /// # Panics
    /// Where n is above 2⁶².
    pub fn new(n: u64, stream: Stream) -> Self {
        assert!(n <= 1 << 62);
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        Self {
            n,
            half: bits.div_ceil(2).max(1),
            stream,
        }
    }

    /// Where `index` goes.
    ///
    /// # Panics
    /// Where `index` is not below n.
    pub fn at(&self, index: u64) -> u64 {
        assert!(index < self.n);
        let mut value = self.network(index);
        while value >= self.n {
            value = self.network(value);
        }
        value
    }

    fn network(&self, value: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (mut left, mut right) = (value >> self.half, value & mask);
        for round in 0..ROUNDS {
            let mixed = self.stream.at(round << self.half | right) & mask;
            (left, right) = (right, left ^ mixed);
        }
        left << self.half | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_bijection_for_every_size() {
        let sizes = (1..=300).chain([1000, 1023, 1024, 1025, 4096, 65_537, 100_003]);
        for n in sizes {
            let order = Permutation::new(n, Stream::new(n, "test"));
            let mut seen = vec![false; n as usize];
            for i in 0..n {
                let to = order.at(i) as usize;
                assert!(!std::mem::replace(&mut seen[to], true), "{n}: {to} twice");
            }
        }
        let large = Permutation::new(1 << 62, Stream::new(1, "test"));
        assert!(large.at((1 << 62) - 1) < 1 << 62);
    }

    #[test]
    fn every_place_is_as_likely_as_any_other() {
        for n in [2_u64, 3, 5, 7, 16, 17] {
            let trials = 6000;
            for from in 0..n {
                let mut counts = vec![0_u32; n as usize];
                for seed in 0..trials {
                    let stream = Stream::new(7, "contexts").child(seed);
                    counts[Permutation::new(n, stream).at(from) as usize] += 1;
                }
                let expected = trials as f64 / n as f64;
                let square: f64 = counts
                    .iter()
                    .map(|&c| (f64::from(c) - expected).powi(2) / expected)
                    .sum();
                // Chi-square, n−1 degrees of freedom, about five standard deviations.
                let freedom = (n - 1) as f64;
                assert!(
                    square < freedom + 5.0 * (2.0 * freedom).sqrt() + 8.0,
                    "{n}: {counts:?}"
                );
            }
        }
    }

    #[test]
    fn neighbours_do_not_stay_together() {
        let n = 10_000;
        let order = Permutation::new(n, Stream::new(3, "test"));
        let near = (1..n)
            .filter(|&i| order.at(i).abs_diff(order.at(i - 1)) < 100)
            .count();
        // A random order has 199 of 9,999 on average, with a standard deviation of 14.
        assert!((120..280).contains(&near), "{near}");
        let fixed = (0..n).filter(|&i| order.at(i) == i).count();
        assert!(fixed < 10, "{fixed}");
    }
}

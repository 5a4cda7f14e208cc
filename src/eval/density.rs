//! The histogram of firing frequencies.

/// Bins in a factor of ten.
const PER_DECADE: f64 = 4.0;

/// log10 bins of the share of `tokens` on which each latent fired: lower edges and counts.
/// Latents that never fired are in no bin.
pub fn histogram(fired: &[u64], tokens: u64) -> (Vec<f64>, Vec<u64>) {
    let share = |count: u64| (count as f64 / tokens.max(1) as f64).log10();
    let lowest = (share(1) * PER_DECADE).floor();
    let bins = (-lowest).max(1.0) as usize;
    let edges = (0..bins)
        .map(|bin| (lowest + bin as f64) / PER_DECADE)
        .collect();
    let mut counts = vec![0; bins];
    for count in fired.iter().filter(|count| **count > 0) {
        let bin = ((share(*count) * PER_DECADE).floor() - lowest).max(0.0) as usize;
        counts[bin.min(bins - 1)] += 1;
    }
    (edges, counts)
}

#[cfg(test)]
mod tests {
    use super::histogram;

    #[test]
    fn every_latent_that_fired_is_in_the_bin_of_its_frequency() {
        let (edges, counts) = histogram(&[0, 1, 10, 11, 100, 1000], 1000);
        assert_eq!(counts.iter().sum::<u64>(), 5);
        assert_eq!((edges[0], edges.len()), (-3.0, 12));
        assert_eq!((counts[0], counts[4], counts[8], counts[11]), (1, 2, 1, 1));
    }

    #[test]
    fn one_token_and_none_are_no_trouble() {
        assert_eq!(histogram(&[1, 0], 1).1, [1]);
        assert_eq!(histogram(&[], 0).1, [0]);
    }
}

//! Which contexts are trained on and which are held out, in closed form.
//!
//! Context i is held out where ⌊(i+1)·p⌋ > ⌊i·p⌋: evenly spread over the text, so that both
//! parts have the same mixture of sources.

/// Parts of one million.
const WHOLE: u64 = 1_000_000;

/// A split of contexts `0..contexts`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    contexts: u64,
    /// Millionths that are held out.
    held: u64,
}

impl Split {
    /// Holds out the share `holdout`, 0 to 0.5; above 0 at least one of two contexts or more.
    pub fn new(contexts: u64, holdout: f64) -> Self {
        let mut held = (holdout * WHOLE as f64).round() as u64;
        if holdout > 0.0 && contexts >= 2 {
            held = held.max(WHOLE.div_ceil(contexts));
        }
        Self { contexts, held }
    }

    /// Number of held-out contexts.
    pub fn held_out(&self) -> u64 {
        (u128::from(self.contexts) * u128::from(self.held) / u128::from(WHOLE)) as u64
    }

    /// Number of contexts to train on.
    pub fn training(&self) -> u64 {
        self.contexts - self.held_out()
    }

    /// The `rank`-th context to train on.
    pub fn training_context(&self, rank: u64) -> u64 {
        // The smallest i with (i+1)·(1−p) > rank.
        (u128::from(rank) * u128::from(WHOLE) / u128::from(WHOLE - self.held)) as u64
    }

    /// The `rank`-th held-out context.
    pub fn held_out_context(&self, rank: u64) -> u64 {
        // The smallest i with (i+1)·p ≥ rank+1.
        ((u128::from(rank) + 1) * u128::from(WHOLE)).div_ceil(u128::from(self.held)) as u64 - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_context_is_trained_on_or_held_out() {
        for contexts in [0, 1, 2, 3, 10, 99, 1000, 12_345] {
            for holdout in [0.0, 1e-6, 0.01, 0.02, 0.1, 1.0 / 3.0, 0.37, 0.5] {
                let split = Split::new(contexts, holdout);
                let mut all: Vec<u64> = (0..split.training())
                    .map(|r| split.training_context(r))
                    .collect();
                let held: Vec<u64> = (0..split.held_out())
                    .map(|r| split.held_out_context(r))
                    .collect();
                assert!(all.is_sorted() && held.is_sorted());
                all.extend(&held);
                all.sort_unstable();
                assert!(all.iter().copied().eq(0..contexts), "{contexts} {holdout}");
                let share = holdout * contexts as f64;
                assert!(held.len() as f64 <= share + 1.0 && held.len() as f64 > share - 1.01);
                assert_eq!(held.is_empty(), holdout == 0.0 || contexts < 2);
            }
        }
    }
}

//! A run's curves, thinned so that the page stays small however long the run was.

use crate::protocol::{SiteStep, Step};
use std::collections::BTreeMap;

/// Points that a curve has at most.
const POINTS: u64 = 600;

/// One measure over the steps: (step, value).
pub type Curve = Vec<(f64, f64)>;

/// Sum and count of the values of each span of steps.
type Bins = BTreeMap<u64, (f64, u64)>;

/// Means over equal spans of steps, for each hook point and measure.
pub struct Curves {
    span: u64,
    bins: BTreeMap<(String, &'static str), Bins>,
}

impl Curves {
    /// Curves of a run of `steps` steps.
    pub fn new(steps: u64) -> Self {
        Self {
            span: steps.div_ceil(POINTS).max(1),
            bins: BTreeMap::new(),
        }
    }

    /// Adds one step.
    pub fn add(&mut self, step: &Step) {
        for site in &step.sites {
            for (name, value) in measures(step, site) {
                self.put(&site.hook, name, step.step, value);
            }
        }
    }

    fn put(&mut self, hook: &str, name: &'static str, step: u64, value: f64) {
        if !value.is_finite() {
            return;
        }
        let bin = self
            .bins
            .entry((hook.to_owned(), name))
            .or_default()
            .entry(step.saturating_sub(1) / self.span)
            .or_default();
        bin.0 += value;
        bin.1 += 1;
    }

    /// The hook points that have curves, in order.
    pub fn hooks(&self) -> Vec<String> {
        let mut hooks: Vec<String> = self.bins.keys().map(|(hook, _)| hook.clone()).collect();
        hooks.dedup();
        hooks
    }

    /// The curve of measure `name` at `hook`; empty where nothing was measured.
    pub fn get(&self, hook: &str, name: &'static str) -> Curve {
        let Some(bins) = self.bins.get(&(hook.to_owned(), name)) else {
            return Curve::new();
        };
        bins.iter()
            .map(|(bin, (sum, count))| {
                let middle = (bin * self.span + 1) as f64 + (self.span - 1) as f64 / 2.0;
                (middle, sum / *count as f64)
            })
            .collect()
    }
}

fn measures(step: &Step, site: &SiteStep) -> [(&'static str, f64); 7] {
    [
        ("loss", site.loss),
        ("l0", site.l0),
        ("explained_variance", site.explained_variance),
        ("dead", site.dead),
        ("grad_norm", site.grad_norm),
        ("lr", step.lr),
        ("tokens_per_second", step.tokens_per_second),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_are_thinned_to_means_and_short_ones_are_kept() {
        let mut short = Curves::new(3);
        let mut long = Curves::new(6000);
        for step in 1..=3 {
            short.put("h", "loss", step, step as f64);
        }
        for step in 1..=6000 {
            long.put("h", "loss", step, step as f64);
        }
        assert_eq!(short.get("h", "loss"), [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]);
        let curve = long.get("h", "loss");
        assert_eq!(curve.len(), 600);
        assert_eq!(curve[0], (5.5, 5.5));
        assert_eq!(long.hooks(), ["h"]);
    }

    #[test]
    fn values_that_are_not_finite_leave_no_point() {
        let mut curves = Curves::new(2);
        curves.put("h", "loss", 1, f64::NAN);
        assert!(curves.get("h", "loss").is_empty());
    }
}

//! How close reconstructions are, summed over the held-out tokens.

use crate::device::Real;

/// Sums over tokens.
pub struct Fidelity {
    tokens: u64,
    active: u64,
    squared_error: f64,
    squares: f64,
    cosines: f64,
    sum: Vec<f64>,
    /// How often each latent fired [d_sae].
    pub fired: Vec<u64>,
}

impl Fidelity {
    /// No tokens yet.
    pub fn new(d: usize, d_sae: usize) -> Self {
        Self {
            tokens: 0,
            active: 0,
            squared_error: 0.0,
            squares: 0.0,
            cosines: 0.0,
            sum: vec![0.0; d],
            fired: vec![0; d_sae],
        }
    }

    /// Takes in targets `y` [n, d], their reconstructions, and the number of active pairs.
    pub fn add<R: Real>(&mut self, y: &[R], out: &[R], active: u64) {
        let d = self.sum.len();
        self.active += active;
        for (y, out) in y.chunks(d).zip(out.chunks(d)) {
            let (mut yy, mut oo, mut yo) = (0.0, 0.0, 0.0);
            for (sum, (y, out)) in self.sum.iter_mut().zip(y.iter().zip(out)) {
                let (y, out) = (y.to_f64(), out.to_f64());
                *sum += y;
                yy += y * y;
                oo += out * out;
                yo += y * out;
                self.squared_error += (out - y) * (out - y);
            }
            self.tokens += 1;
            self.squares += yy;
            if yy > 0.0 && oo > 0.0 {
                self.cosines += yo / (yy.sqrt() * oo.sqrt());
            }
        }
    }

    /// Tokens taken in.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    fn per_token(&self, sum: f64) -> f64 {
        sum / self.tokens.max(1) as f64
    }

    /// The share of tokens on which each latent fired \[d_sae\].
    pub fn frequencies(&self) -> Vec<f32> {
        let tokens = self.tokens().max(1) as f64;
        let share = |fired: &u64| (*fired as f64 / tokens) as f32;
        self.fired.iter().map(share).collect()
    }

    /// The mean target [d].
    pub fn mean(&self) -> impl Iterator<Item = f64> {
        self.sum.iter().map(|sum| self.per_token(*sum))
    }

    /// 1 − Σ‖y − ŷ‖² / Σ‖y − mean‖²; NaN where all targets are equal.
    pub fn explained_variance(&self) -> f64 {
        let mean_square: f64 = self.mean().map(|m| m * m).sum();
        let spread = self.squares - mean_square * self.tokens as f64;
        if spread > 1e-12 * self.squares {
            1.0 - self.squared_error / spread
        } else {
            f64::NAN
        }
    }

    /// Mean cosine of target and reconstruction.
    pub fn cosine(&self) -> f64 {
        self.per_token(self.cosines)
    }

    /// Mean number of active latents a token.
    pub fn l0(&self) -> f64 {
        self.per_token(self.active as f64)
    }
}

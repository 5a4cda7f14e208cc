//! What an exported SAE computes, in plain f64 loops: the meaning that every format is
//! tested against.

use super::sae::{Architecture, ExportedSae};

impl ExportedSae {
    /// The activations \[d_sae\] of one input `x` \[d_in\].
    ///
    /// # Panics
    /// Where `x` has another length.
    pub fn encode(&self, x: &[f32]) -> Vec<f32> {
        assert_eq!(x.len(), self.d_in);
        let mut x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
        if self.subtracts_b_dec() {
            for (x, b) in x.iter_mut().zip(&self.b_dec) {
                *x -= f64::from(*b);
            }
        }
        let mut p: Vec<f64> = self
            .w_enc
            .chunks_exact(self.d_in)
            .map(|w| dot(w, &x))
            .collect();
        for (p, b) in p.iter_mut().zip(&self.b_enc) {
            *p += f64::from(*b);
        }
        match &self.architecture {
            Architecture::Standard => {}
            Architecture::TopK { k, .. } => keep_largest(&mut p, *k),
            Architecture::BatchTopK { threshold, .. } => {
                p.iter_mut().for_each(|p| jump(p, f64::from(*threshold)));
            }
            Architecture::JumpRelu { threshold } => {
                for (p, t) in p.iter_mut().zip(threshold) {
                    jump(p, f64::from(*t));
                }
            }
            Architecture::Gated {
                b_gate,
                b_mag,
                r_mag,
            } => {
                for (j, p) in p.iter_mut().enumerate() {
                    let open = *p + f64::from(b_gate[j]) > 0.0;
                    let magnitude = *p * f64::from(r_mag[j]).exp() + f64::from(b_mag[j]);
                    *p = if open { magnitude } else { 0.0 };
                }
            }
        }
        p.into_iter().map(|p| p.max(0.0) as f32).collect()
    }

    /// The output \[d_out\] for activations `a` \[d_sae\] of the input `x` \[d_in\], which only
    /// a skip path looks at.
    ///
    /// # Panics
    /// Where `a` or `x` has another length.
    pub fn decode(&self, a: &[f32], x: &[f32]) -> Vec<f32> {
        assert_eq!((a.len(), x.len()), (self.d_sae, self.d_in));
        let mut y: Vec<f64> = self.b_dec.iter().map(|b| f64::from(*b)).collect();
        for (a, row) in a.iter().zip(self.w_dec.chunks_exact(self.d_out)) {
            for (y, w) in y.iter_mut().zip(row) {
                *y += f64::from(*a) * f64::from(*w);
            }
        }
        if let Some(w_skip) = self.w_skip() {
            let x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
            for (y, row) in y.iter_mut().zip(w_skip.chunks_exact(self.d_in)) {
                *y += dot(row, &x);
            }
        }
        y.into_iter().map(|y| y as f32).collect()
    }
}

fn dot(w: &[f32], x: &[f64]) -> f64 {
    w.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()
}

fn jump(p: &mut f64, threshold: f64) {
    if *p <= threshold {
        *p = 0.0;
    }
}

/// Zeroes all but the `k` largest; of equal ones the first stay.
fn keep_largest(p: &mut [f64], k: usize) {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
    for &j in &order[k..] {
        p[j] = 0.0;
    }
}

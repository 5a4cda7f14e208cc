//! Activation functions and sparsity penalties, edge by edge.
//!
//! The formulas stand here once, in f64, for every backend that runs on the host. They
//! follow SAELens (checked against its gradients in `tests/sae_golden.rs`), with
//! the exceptions named there.

use crate::device::Real;

/// How the pre-activation p of an edge becomes its value a.
pub enum Rule<'a, B> {
    /// a = max(p, 0).
    Relu,
    /// a = p·1\[p > θ_j\] (Rajamanoharan et al. 2024b). Its derivative by θ is estimated by
    /// a rectangle of width `bandwidth`: R = 1\[|p − θ| < bandwidth/2\].
    Jump {
        /// θ \[F\].
        threshold: &'a B,
        /// ε.
        bandwidth: f64,
        /// Whether p gets the negation of what the rectangle gives θ.
        ste_to_input: bool,
    },
    /// The magnitude path of a gated SAE (Rajamanoharan et al. 2024a) on edges whose gate
    /// p = π is open: a = max((p − b_gate)·e^r_mag + b_mag, 0). The gradient by p is that
    /// by the product xc·w_enc, which both paths share.
    Magnitude {
        /// Bias of the gate \[F\].
        b_gate: &'a B,
        /// Logarithm of the magnitude's gain \[F\].
        r_mag: &'a B,
        /// Bias of the magnitude \[F\].
        b_mag: &'a B,
    },
}

/// A sparsity penalty. `weight` is λ/B with the batch's whole B.
pub enum Penalty<'a, B> {
    /// 0.
    None,
    /// weight·Σ a·n_j.
    L1 {
        /// λ/B.
        weight: f64,
        /// n_j = ‖w_dec\[j\]‖ \[F\].
        norms: &'a B,
    },
    /// weight·Σ_b L0_b, with L0_b the edges of token b above θ. Only with `Rule::Jump`.
    Step {
        /// λ/B.
        weight: f64,
    },
    /// weight·Σ_b (2/T)·(L0_b − T)². Only with `Rule::Jump`.
    Quadratic {
        /// λ/B.
        weight: f64,
        /// T.
        target: f64,
    },
    /// weight·Σ tanh(scale·a·n_j).
    Tanh {
        /// λ/B.
        weight: f64,
        /// Slope at 0.
        scale: f64,
        /// n_j \[F\].
        norms: &'a B,
    },
}

/// The pre-activation loss of JumpReLU SAEs, weight·Σ relu(θ_j − p)·n_j over the edges of
/// dead latents. The selection must have kept all p of those.
pub struct PreAct<'a, B, I> {
    /// c₀/B.
    pub weight: f64,
    /// n_j \[F\].
    pub norms: &'a B,
    /// 1 where the latent is dead \[F\].
    pub dead: &'a I,
}

/// Where the gradients of each edge go.
pub struct EdgeGrads<'a, B> {
    /// dp.
    pub pre: &'a mut B,
    /// Add to `pre` what comes, instead of overwriting it.
    pub add_to_pre: bool,
    /// Derivative by n_j of penalty and pre-activation loss.
    pub norm: Option<&'a mut B>,
    /// Derivative by θ_j.
    pub threshold: Option<&'a mut B>,
    /// Derivative by r_mag.
    pub r_mag: Option<&'a mut B>,
    /// Derivative by b_mag.
    pub b_mag: Option<&'a mut B>,
}

impl<'a, B> EdgeGrads<'a, B> {
    /// Overwrites `pre` and asks for nothing else.
    pub fn only(pre: &'a mut B) -> Self {
        Self {
            pre,
            add_to_pre: false,
            norm: None,
            threshold: None,
            r_mag: None,
            b_mag: None,
        }
    }
}

/// Gradients and losses of one edge.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Edge {
    /// dp.
    pub pre: f64,
    /// By n_j.
    pub norm: f64,
    /// By θ_j.
    pub threshold: f64,
    /// By r_mag.
    pub r_mag: f64,
    /// By b_mag.
    pub b_mag: f64,
    /// The edge's share of the penalty; that of `Quadratic` belongs to the token, see
    /// [`Penalty::of_token`].
    pub penalty: f64,
    /// The edge's share of the pre-activation loss.
    pub pre_act: f64,
}

impl<R: Real> Rule<'_, Vec<R>> {
    /// a of an edge of latent `j`.
    pub fn value(&self, j: usize, p: f64) -> f64 {
        match self {
            Rule::Relu => relu(p),
            Rule::Jump { threshold, .. } if p <= threshold[j].to_f64() => 0.0,
            Rule::Jump { .. } => p,
            Rule::Magnitude {
                b_gate,
                r_mag,
                b_mag,
            } => relu(magnitude(j, p, b_gate, r_mag, b_mag)),
        }
    }

    /// Gradients of an edge of latent `j`, given its da and the number `l0` of edges of
    /// its token that are above θ (used by `Penalty::Quadratic` only).
    pub fn backward(
        &self,
        penalty: &Penalty<'_, Vec<R>>,
        pre_act: Option<&PreAct<'_, Vec<R>, Vec<u32>>>,
        j: usize,
        p: f64,
        da: f64,
        l0: usize,
    ) -> Edge {
        let mut edge = Edge::default();
        let a = self.value(j, p);
        let mut da = da;
        match penalty {
            Penalty::L1 { weight, norms } => {
                let n = norms[j].to_f64();
                edge.penalty = weight * a * n;
                edge.norm = weight * a;
                da += weight * n;
            }
            Penalty::Tanh {
                weight,
                scale,
                norms,
            } => {
                let n = norms[j].to_f64();
                let t = (scale * a * n).tanh();
                let slope = weight * scale * (1.0 - t * t);
                edge.penalty = weight * t;
                edge.norm = slope * a;
                da += slope * n;
            }
            Penalty::None | Penalty::Step { .. } | Penalty::Quadratic { .. } => {}
        }
        match self {
            Rule::Relu => edge.pre = if p <= 0.0 { 0.0 } else { da },
            Rule::Jump {
                threshold,
                bandwidth,
                ste_to_input,
            } => {
                let theta = threshold[j].to_f64();
                let step = match penalty {
                    Penalty::Step { weight } => *weight,
                    Penalty::Quadratic { weight, target } => {
                        weight * 4.0 / target * (l0 as f64 - target)
                    }
                    _ => 0.0,
                };
                if let (Penalty::Step { weight }, true) = (penalty, p > theta) {
                    edge.penalty = *weight;
                }
                if p > theta {
                    edge.pre = da;
                }
                if ((p - theta) / bandwidth).abs() < 0.5 {
                    edge.threshold = -(theta * da + step) / bandwidth;
                    if *ste_to_input {
                        edge.pre -= edge.threshold;
                    }
                }
                if let Some(loss) = pre_act.filter(|loss| loss.dead[j] != 0 && p < theta) {
                    let n = loss.norms[j].to_f64();
                    edge.pre_act = loss.weight * (theta - p) * n;
                    edge.norm += loss.weight * (theta - p);
                    edge.pre -= loss.weight * n;
                    edge.threshold += loss.weight * n;
                }
            }
            Rule::Magnitude {
                b_gate,
                r_mag,
                b_mag,
            } => {
                if magnitude(j, p, b_gate, r_mag, b_mag) > 0.0 {
                    let gain = r_mag[j].to_f64().exp();
                    edge.pre = da * gain;
                    edge.r_mag = da * gain * (p - b_gate[j].to_f64());
                    edge.b_mag = da;
                }
            }
        }
        edge
    }
}

impl<R: Real> Penalty<'_, Vec<R>> {
    /// The part of the penalty that belongs to a token with `l0` edges above θ.
    pub fn of_token(&self, l0: usize) -> f64 {
        match self {
            Penalty::Quadratic { weight, target } => {
                let excess = l0 as f64 - target;
                weight * 2.0 / target * excess * excess
            }
            _ => 0.0,
        }
    }
}

fn magnitude<R: Real>(j: usize, p: f64, b_gate: &[R], r_mag: &[R], b_mag: &[R]) -> f64 {
    (p - b_gate[j].to_f64()) * r_mag[j].to_f64().exp() + b_mag[j].to_f64()
}

/// max(p, 0) that lets NaN through.
fn relu(p: f64) -> f64 {
    if p <= 0.0 { 0.0 } else { p }
}

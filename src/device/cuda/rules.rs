//! Activation functions and penalties as `edges.cu` takes them.

use super::memory::{In, Memory};
use crate::device::sae::{Penalty, Rule};

type Buf = Memory<f32>;

/// A rule as the kernels take it: kind, threshold, b_gate, r_mag, b_mag, bandwidth, ste_to_input.
pub struct RuleArguments<'a> {
    pub kind: u32,
    pub threshold: Option<In<'a, f32>>,
    pub gate: [Option<In<'a, f32>>; 3],
    pub bandwidth: f64,
    pub ste_to_input: bool,
}

impl<'a> RuleArguments<'a> {
    pub fn of(rule: &Rule<'a, Buf>, d_sae: usize) -> Self {
        let mut all = Self {
            kind: 0,
            threshold: None,
            gate: [None; 3],
            bandwidth: 1.0,
            ste_to_input: false,
        };
        match *rule {
            Rule::Relu => {}
            Rule::Jump {
                threshold,
                bandwidth,
                ste_to_input,
            } => {
                all.kind = 1;
                all.threshold = Some(threshold.input(0, d_sae));
                all.bandwidth = bandwidth;
                all.ste_to_input = ste_to_input;
            }
            Rule::Magnitude {
                b_gate,
                r_mag,
                b_mag,
            } => {
                all.kind = 2;
                all.gate = [b_gate, r_mag, b_mag].map(|buf| Some(buf.input(0, d_sae)));
            }
        }
        all
    }
}

/// A penalty as the kernels take it: kind, weight, target or scale, norms.
pub fn penalty_arguments<'a>(
    penalty: &Penalty<'a, Buf>,
    d_sae: usize,
) -> (u32, f64, f64, Option<In<'a, f32>>) {
    match *penalty {
        Penalty::None => (0, 0.0, 1.0, None),
        Penalty::L1 { weight, norms } => (1, weight, 1.0, Some(norms.input(0, d_sae))),
        Penalty::Step { weight } => (2, weight, 1.0, None),
        Penalty::Quadratic { weight, target } => (3, weight, target, None),
        Penalty::Tanh {
            weight,
            scale,
            norms,
        } => (4, weight, scale, Some(norms.input(0, d_sae))),
    }
}

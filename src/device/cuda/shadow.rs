//! A weight's rows rounded to 16 bits, as products take them, and kept beside the weight for as long
//! as they are what rounding would give.
//!
//! A stale one cannot be had: whoever is to write a buffer gets there by `&mut self`, through
//! `Memory::output` and its like, and each of these takes the shadow away first. Adam alone puts
//! it back, whose kernel has written both.

use super::Cuda;
use super::halves::Half;
use super::launch::{Shape, count};
use super::memory::Memory;
use super::tensor::{DEPTH, HOPPER};
use crate::device::sae::AdamStep;
use crate::domain::Result;
use std::sync::Arc;

/// The rows [rows, d] of a weight in 16 bits.
pub struct Shadow {
    half: Half,
    /// Whether they lie in panels, whole tiles of them.
    panels: bool,
    rows: usize,
    d: usize,
    /// Length of a row, with 0 behind its numbers: a multiple of 8, or of the depth of panels.
    pub k: usize,
    /// The numbers.
    pub numbers: Memory<u16>,
}

impl Shadow {
    /// Rounds `w` [rows, d].
    pub fn of(cuda: &Cuda, w: &Memory<f32>, half: Half, [rows, d]: [usize; 2]) -> Result<Self> {
        let (panels, from) = (cuda.wgmma, w.input(0, rows * d));
        let (numbers, k) = if panels {
            let numbers = half.panels(cuda, from, None, None, [rows, d, HOPPER[1]])?;
            (numbers, d.next_multiple_of(DEPTH))
        } else {
            let k = d.next_multiple_of(8);
            (half.rows(cuda, from, None, 1.0, [rows, d, k])?, k)
        };
        Ok(Self {
            half,
            panels,
            rows,
            d,
            k,
            numbers,
        })
    }

    /// The one that is kept with `w`, from before or from now on.
    pub fn kept(cuda: &Cuda, w: &Memory<f32>, half: Half, shape: [usize; 2]) -> Result<Arc<Self>> {
        let wanted = (half, cuda.wgmma, shape);
        let fits = |kept: &Arc<Self>| (kept.half, kept.panels, [kept.rows, kept.d]) == wanted;
        if let Some(kept) = w.shadow().filter(fits) {
            return Ok(kept);
        }
        let made = Arc::new(Self::of(cuda, w, half, shape)?);
        w.keep(made.clone());
        Ok(made)
    }

    /// A step of Adam on the weight whose shadow this is, and on this. It stays the weight's where
    /// that went well.
    fn adam(
        mut self,
        cuda: &Cuda,
        step: &AdamStep,
        param: &mut Memory<f32>,
        grad: &Memory<f32>,
        m: &mut Memory<f32>,
        v: &mut Memory<f32>,
    ) -> Result<()> {
        let (n, len) = (param.len(), self.numbers.len());
        let [scale, beta1, rest1, beta2, rest2, eps, kept, rate, root] = numbers_of(step);
        cuda.kernels.adam_rounded(
            &cuda.gpu,
            Shape::warps(self.rows),
            param.output(n),
            grad.input(0, n),
            m.output(n),
            v.output(n),
            self.numbers.output(len),
            count(self.rows),
            count(self.d),
            count(self.k),
            u32::from(self.panels),
            self.half.flag(),
            scale,
            beta1,
            rest1,
            beta2,
            rest2,
            eps,
            kept,
            rate,
            root,
        )?;
        param.keep(Arc::new(self));
        Ok(())
    }
}

/// What the kernels of Adam take of a step, in their order.
fn numbers_of(step: &AdamStep) -> [f32; 9] {
    [
        step.grad_scale,
        step.beta1,
        1.0 - step.beta1,
        step.beta2,
        1.0 - step.beta2,
        step.eps,
        1.0 - step.lr * step.decay,
        step.lr / step.correction1,
        1.0 / step.correction2.sqrt(),
    ]
    .map(|v| v as f32)
}

impl Cuda {
    /// A step of Adam on `param`, and on its shadow where it has one.
    pub(super) fn optimised(
        &self,
        step: &AdamStep,
        param: &mut Memory<f32>,
        grad: &Memory<f32>,
        m: &mut Memory<f32>,
        v: &mut Memory<f32>,
    ) -> Result<()> {
        let n = param.len();
        let whole = |shadow: &Shadow| shadow.rows * shadow.d == n;
        if let Some(shadow) = param.take_shadow().filter(whole) {
            return shadow.adam(self, step, param, grad, m, v);
        }
        let [scale, beta1, rest1, beta2, rest2, eps, kept, rate, root] = numbers_of(step);
        self.kernels.adam(
            &self.gpu,
            Shape::threads(n.div_ceil(4)),
            param.output(n),
            grad.input(0, n),
            m.output(n),
            v.output(n),
            n as u64,
            scale,
            beta1,
            rest1,
            beta2,
            rest2,
            eps,
            kept,
            rate,
            root,
        )
    }
}

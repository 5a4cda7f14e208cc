//! The factor that gradients carry while they are held in fp16.
//!
//! Many gradients are too small for fp16, so the loss is multiplied by a large number, and with
//! it all gradients (Micikevicius et al. 2018, "Mixed Precision Training", section 3.2). How large
//! is found out: the scale halves where a gradient overflowed and doubles after a while in which
//! none did. Numbers are those of PyTorch's `torch.amp.GradScaler` but for two bounds: 2²⁴ above, as
//! Apex has it, and 1 below, where DeepSpeed gives up too: a gradient that does not fit without
//! any scale is no matter of the scale.

/// Where a new scale begins.
const INITIAL: f64 = 65536.0;
/// Good steps after which it grows.
const INTERVAL: u32 = 2000;
/// What it grows by, and the inverse of what it falls by.
const FACTOR: f64 = 2.0;
const LEAST: f64 = 1.0;
const MOST: f64 = (1 << 24) as f64;

/// The scale: a power of two from 1 to 2²⁴, so that it comes off without rounding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScale {
    scale: f64,
    good_steps: u32,
}

/// How a step was decided. A step that ran out of memory was not: it runs again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// Parameters moved.
    Moved,
    /// The gradient was not finite, and the step is left out.
    Overflowed,
}

impl Default for LossScale {
    fn default() -> Self {
        Self {
            scale: INITIAL,
            good_steps: 0,
        }
    }
}

impl LossScale {
    /// A scale that was kept; `None` where these numbers are none of a scale's.
    pub fn kept(scale: f64, good_steps: u64) -> Option<Self> {
        let power = scale.is_normal() && scale.to_bits().trailing_zeros() >= 52;
        let good_steps = u32::try_from(good_steps).ok()?;
        let sound = power && (LEAST..=MOST).contains(&scale) && good_steps < INTERVAL;
        sound.then_some(Self { scale, good_steps })
    }

    /// The factor of the gradients.
    pub fn scale(self) -> f64 {
        self.scale
    }

    /// Steps since the last overflow or growth.
    pub fn good_steps(self) -> u32 {
        self.good_steps
    }

    /// Whether an overflow may be the scale's doing: not at the least one.
    pub fn can_fall(self) -> bool {
        self.scale > LEAST
    }

    /// The scale of the next step.
    #[must_use]
    pub fn after(self, step: Decided) -> Self {
        match step {
            Decided::Overflowed => Self {
                scale: (self.scale / FACTOR).max(LEAST),
                good_steps: 0,
            },
            Decided::Moved if self.good_steps + 1 == INTERVAL => Self {
                scale: (self.scale * FACTOR).min(MOST),
                good_steps: 0,
            },
            Decided::Moved => Self {
                good_steps: self.good_steps + 1,
                ..self
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(scale: LossScale, steps: usize) -> LossScale {
        (0..steps).fold(scale, |scale, _| scale.after(Decided::Moved))
    }

    #[test]
    fn it_doubles_after_2000_good_steps_in_a_row_and_halves_at_once() {
        let start = LossScale::default();
        assert_eq!(start.scale(), 65536.0);
        assert_eq!(moved(start, 1999).scale(), 65536.0);
        let grown = moved(start, 2000);
        assert_eq!((grown.scale(), grown.good_steps()), (131_072.0, 0));
        // An overflow begins the count anew.
        let fallen = moved(start, 1999).after(Decided::Overflowed);
        assert_eq!((fallen.scale(), fallen.good_steps()), (32768.0, 0));
        assert_eq!(moved(fallen, 1999).scale(), 32768.0);
        assert_eq!(moved(fallen, 2000).scale(), 65536.0);
    }

    #[test]
    fn it_stays_within_its_bounds() {
        let mut scale = LossScale::default();
        for _ in 0..16 {
            assert!(scale.can_fall());
            scale = scale.after(Decided::Overflowed);
        }
        assert!(!scale.can_fall());
        assert_eq!(scale.after(Decided::Overflowed).scale(), 1.0);
        assert_eq!(moved(scale, 100 * 2000).scale(), 16_777_216.0);
    }

    #[test]
    fn what_it_can_be_and_nothing_else_can_be_kept() {
        let mut scale = LossScale::default();
        for step in 0..50_000 {
            let decided = match step % 2477 {
                0 => Decided::Overflowed,
                _ => Decided::Moved,
            };
            scale = scale.after(decided);
            let again = LossScale::kept(scale.scale(), scale.good_steps().into());
            assert_eq!(again, Some(scale));
        }
        for (scale, good_steps) in [
            (0.0, 0),
            (0.5, 0),
            (-2.0, 0),
            (3.0, 0),
            (f64::NAN, 0),
            (f64::INFINITY, 0),
            (33_554_432.0, 0),
            (2.0, 2000),
        ] {
            assert_eq!(LossScale::kept(scale, good_steps), None, "{scale}");
        }
    }
}

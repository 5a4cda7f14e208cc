//! Elementwise functions without branches, and the macro that compiles a loop over them
//! once for each instruction set.
//!
//! The body of a [`kernel`] is plain Rust over slices, which the compiler turns into
//! vectors of whatever width it may use. The arithmetic is spelled out, fused
//! multiply-adds included, so AVX2 and AVX-512 give the same bits.

/// Whether plain code has fused multiply-adds.
pub(super) const PLAIN_FMA: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

/// Defines `fn name(isa, …)`, which runs its body compiled for `isa`. In the body `F` says
/// whether multiply-adds are fused: see [`fma`].
macro_rules! kernel {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        $vis fn $name(isa: $crate::device::cpu::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<const F: bool>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body::<true>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body::<true>($($arg),*)
            }
            match isa {
                // SAFETY: an instruction set comes from a pool, which asserts that the
                // machine has it.
                #[cfg(target_arch = "x86_64")]
                $crate::device::cpu::isa::Isa::Amx | $crate::device::cpu::isa::Isa::Avx512 => unsafe {
                    avx512($($arg),*)
                },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::device::cpu::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => body::<{ $crate::device::cpu::lm::simd::PLAIN_FMA }>($($arg),*),
            }
        }
    };
}
pub(super) use kernel;

/// `a · b + c`, with one rounding where `F`.
#[inline(always)]
pub(super) fn fma<const F: bool>(a: f32, b: f32, c: f32) -> f32 {
    if F { a.mul_add(b, c) } else { a * b + c }
}

/// The larger one; a NaN in `b` stays away.
#[inline(always)]
pub(super) fn max(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

#[inline(always)]
fn polynomial<const F: bool, const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[0];
    for c in &coefficients[1..] {
        sum = fma::<F>(sum, x, *c);
    }
    sum
}

/// eˣ with a relative error below 2e-7, after Cephes' `expf`. Below −87.3 it stays at
/// 1.2e-38, above 88.3 at 2.4e38; NaN stays NaN.
#[inline(always)]
pub(super) fn exp<const F: bool>(x: f32) -> f32 {
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.3 { 88.3 } else { x };
    // Adding 1.5 · 2²³ leaves the nearest whole number in the low bits.
    const SHIFT: f32 = 12_582_912.0;
    let shifted = fma::<F>(x, std::f32::consts::LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    let r = fma::<F>(n, -0.693_359_4, x);
    let r = fma::<F>(n, 2.121_944_4e-4, r);
    let p = polynomial::<F, 6>(
        r,
        [
            1.987_569_1e-4,
            1.398_199_9e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            1.666_666_5e-1,
            0.5,
        ],
    );
    let value = fma::<F>(p * r, r, r) + 1.0;
    let power = shifted
        .to_bits()
        .wrapping_add(127)
        .wrapping_sub(SHIFT.to_bits())
        << 23;
    value * f32::from_bits(power)
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(super) fn sigmoid<const F: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<F>(-x))
}

/// tanh x with a relative error below 3e-7, after Cephes' `tanhf`.
#[inline(always)]
pub(super) fn tanh<const F: bool>(x: f32) -> f32 {
    let z = x * x;
    let p = polynomial::<F, 5>(
        z,
        [
            -5.704_988_7e-3,
            2.063_909e-2,
            -5.373_971_6e-2,
            1.333_144_2e-1,
            -3.333_328e-1,
        ],
    );
    let near = fma::<F>(p * z, x, x);
    let far = 1.0 - 2.0 / (exp::<F>(2.0 * x.abs()) + 1.0);
    if x.abs() < 0.625 {
        near
    } else {
        far.copysign(x)
    }
}

/// `x σ(x)`.
#[inline(always)]
pub(super) fn silu<const F: bool>(x: f32) -> f32 {
    x * sigmoid::<F>(x)
}

/// GELU's tanh form, written with a sigmoid so that its tail does not cancel.
#[inline(always)]
pub(super) fn gelu_tanh<const F: bool>(x: f32) -> f32 {
    // 2 √(2/π) (x + 0.044715 x³)
    let inner = x * fma::<F>(x * x, 0.071_354_814, 1.595_769);
    x * sigmoid::<F>(inner)
}

/// `x Φ(x)`, with erfc by the fraction in Press et al., Numerical Recipes, section 6.2
/// (relative error below 1.2e-7), so that its tail does not cancel.
#[inline(always)]
pub(super) fn gelu<const F: bool>(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / fma::<F>(0.5, z, 1.0);
    let p = polynomial::<F, 10>(
        t,
        [
            0.170_872_77,
            -0.822_152_2,
            1.488_515_9,
            -1.135_204,
            0.278_868_07,
            -0.186_288_06,
            0.096_784_18,
            0.374_091_96,
            1.000_023_7,
            -1.265_512_2,
        ],
    );
    let half = 0.5 * t * exp::<F>(fma::<F>(-z, z, p));
    x * if x < 0.0 { half } else { 1.0 - half }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::isa::Isa;
    use crate::device::cpu::pool::Pool;

    macro_rules! over {
        ($name:ident, $function:ident) => {
            kernel! {
                fn $name(values: &mut [f32]) {
                    values.iter_mut().for_each(|v| *v = $function::<F>(*v));
                }
            }
        };
    }
    over!(exps, exp);
    over!(tanhs, tanh);
    over!(silus, silu);
    over!(gelus, gelu);
    over!(gelu_tanhs, gelu_tanh);

    /// Complementary error function, by its continued fraction or the series of erf.
    fn erfc(x: f64) -> f64 {
        let z = x.abs();
        let tail = if z > 2.0 {
            let fraction = (1..200)
                .rev()
                .fold(z, |below, n| z + n as f64 / 2.0 / below);
            (-z * z).exp() / std::f64::consts::PI.sqrt() / fraction
        } else {
            let (mut term, mut sum) = (z, z);
            for n in 1..100 {
                term *= -z * z / n as f64;
                sum += term / (2 * n + 1) as f64;
            }
            1.0 - 2.0 / std::f64::consts::PI.sqrt() * sum
        };
        if x < 0.0 { 2.0 - tail } else { tail }
    }

    fn worst(kernel: fn(Isa, &mut [f32]), truth: fn(f64) -> f64, from: f32, to: f32) -> f64 {
        let inputs: Vec<f32> = (0..40_001)
            .map(|i| from + (to - from) * (i as f32 / 40_000.0))
            .collect();
        let mut worst = 0.0_f64;
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let mut values = inputs.clone();
            kernel(isa, &mut values);
            for (x, value) in inputs.iter().zip(&values) {
                let truth = truth(f64::from(*x));
                let error = (f64::from(*value) - truth).abs() / truth.abs().max(1e-30);
                worst = worst.max(error);
            }
        }
        worst
    }

    #[test]
    fn relative_errors_stay_below_two_millionths() {
        assert!(worst(exps, f64::exp, -87.0, 88.0) < 2e-7);
        assert!(worst(tanhs, f64::tanh, -12.0, 12.0) < 3e-7);
        assert!(worst(silus, |x| x / (1.0 + (-x).exp()), -30.0, 30.0) < 5e-7);
        // Below −4.5 less than 2e-5 of a GELU is left, and what the exponent's rounding makes
        // of that is of no weight.
        let tanh_form = |x: f64| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            x / (1.0 + (-2.0 * inner).exp())
        };
        assert!(worst(gelu_tanhs, tanh_form, -4.5, 20.0) < 2e-6);
        let exact = |x: f64| x * 0.5 * erfc(-x / std::f64::consts::SQRT_2);
        assert!(worst(gelus, exact, -4.5, 20.0) < 2e-6);
    }

    #[test]
    fn extremes_stay_finite_and_nan_stays_nan() {
        for kernel in [exps, tanhs, silus, gelus, gelu_tanhs] {
            let mut values = [-1e30, -1e4, -100.0, 0.0, 100.0, 1e4, 1e9, f32::NAN];
            kernel(Pool::new(1).isa(), &mut values);
            assert!(values[..7].iter().all(|v| v.is_finite()), "{values:?}");
            assert!(values[7].is_nan());
        }
    }

    #[test]
    fn vector_widths_agree_in_every_bit() {
        if !Isa::Avx512.available() {
            return;
        }
        let inputs: Vec<f32> = (0..1003).map(|i| (i as f32 - 500.0) / 37.0).collect();
        for kernel in [exps, tanhs, silus, gelus, gelu_tanhs] {
            let (mut wide, mut narrow) = (inputs.clone(), inputs.clone());
            kernel(Isa::Avx512, &mut wide);
            kernel(Isa::Avx2, &mut narrow);
            assert_eq!(wide, narrow);
        }
    }
}

//! Code compiled once for each instruction set.
//!
//! Element-wise loops are left to the compiler ([`for_each_isa`]). Where a sum is formed or
//! registers matter, kernels are written over [`Lanes`], sixteen numbers whatever the
//! width of the registers, so that the order of every sum is that of the source.

/// Defines a function that takes the [`super::isa::Isa`] first and runs a copy of its body
/// compiled for it. In the body the name in angle brackets is the type that implements
/// [`Lanes`] for the instruction set.
macro_rules! for_each_isa {
    ($(#[$doc:meta])* $vis:vis fn $name:ident<$lanes:ident $(, const $n:ident)?>(
        $($arg:ident: $type:ty),* $(,)?
    ) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        $vis fn $name$(<const $n: usize>)?(
            isa: $crate::device::cpu::isa::Isa,
            $($arg: $type),*
        ) $(-> $ret)? {
            #[inline(always)]
            fn body<$lanes: $crate::device::cpu::simd::Lanes $(, const $n: usize)?>(
                $($arg: $type),*
            ) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::device::cpu::isa::Isa;
                use $crate::device::cpu::simd::{Avx2, Avx512};
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
                fn avx512$(<const $n: usize>)?($($arg: $type),*) $(-> $ret)? {
                    body::<Avx512 $(, $n)?>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2$(<const $n: usize>)?($($arg: $type),*) $(-> $ret)? {
                    body::<Avx2 $(, $n)?>($($arg),*)
                }
                match isa {
                    // SAFETY: a pool has only instruction sets that the machine has.
                    Isa::Amx | Isa::Avx512 => return unsafe { avx512$(::<$n>)?($($arg),*) },
                    // SAFETY: as above.
                    Isa::Avx2 => return unsafe { avx2$(::<$n>)?($($arg),*) },
                    Isa::Portable => {}
                }
            }
            let _ = isa;
            body::<$crate::device::cpu::simd::Plain $(, $n)?>($($arg),*)
        }
    };
}
pub(super) use for_each_isa;

/// Numbers in a [`Lanes`].
pub const LANES: usize = 16;

/// Sixteen numbers.
///
/// Only bodies of [`for_each_isa`] may use it, so that the instruction set is there.
pub trait Lanes: Copy {
    /// All of them `v`.
    fn splat(v: f32) -> Self;
    /// The first sixteen of `from`.
    fn load(from: &[f32]) -> Self;
    /// Writes them to the first sixteen of `to`.
    fn store(self, to: &mut [f32]);
    /// self + other.
    fn plus(self, other: Self) -> Self;
    /// self − other.
    fn minus(self, other: Self) -> Self;
    /// self + a·b, fused where the machine can.
    fn plus_product(self, a: Self, b: Self) -> Self;
    /// c + a·b of single numbers, rounded as in [`Lanes::plus_product`].
    fn fma(a: f32, b: f32, c: f32) -> f32;

    /// The first `from.len()` ≤ 16 numbers; the others are 0.
    #[inline(always)]
    fn load_part(from: &[f32]) -> Self {
        let mut all = [0.0; LANES];
        all[..from.len()].copy_from_slice(from);
        Self::load(&all)
    }

    /// Their sum, as a tree: lane i takes lane i + 8, then i + 4, i + 2, i + 1.
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes);
        sum_tree(lanes)
    }
}

#[inline(always)]
fn sum_tree(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Fetches the cache lines of `place`, which is about to be used.
#[inline(always)]
pub fn prefetch(place: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in place.chunks(LANES) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch may be of any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// What the compiler makes of an array.
#[derive(Clone, Copy)]
pub struct Plain([f32; LANES]);

impl Plain {
    #[inline(always)]
    fn each(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Plain {
    #[inline(always)]
    fn splat(v: f32) -> Self {
        Self([v; LANES])
    }
    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        Self(from[..LANES].try_into().expect("sixteen numbers"))
    }
    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        to[..LANES].copy_from_slice(&self.0);
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self.each(other, |a, b| a + b)
    }
    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        self.each(other, |a, b| a - b)
    }
    #[inline(always)]
    fn plus_product(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| {
            Self::fma(a.0[i], b.0[i], self.0[i])
        }))
    }
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        match cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            true => a.mul_add(b, c),
            false => a * b + c,
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, Lanes};
    use std::arch::x86_64::*;

    /// One register of AVX-512.
    #[derive(Clone, Copy)]
    pub struct Avx512(__m512);

    // SAFETY (of every block below): loads and stores are of slices that were cut to
    // sixteen numbers; the instruction set is there by the contract of `Lanes`.
    impl Lanes for Avx512 {
        #[inline(always)]
        fn splat(v: f32) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm512_set1_ps(v)) }
        }
        #[inline(always)]
        fn load(from: &[f32]) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm512_loadu_ps(from[..LANES].as_ptr())) }
        }
        #[inline(always)]
        fn store(self, to: &mut [f32]) {
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(to[..LANES].as_mut_ptr(), self.0) }
        }
        #[inline(always)]
        fn plus(self, other: Self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm512_add_ps(self.0, other.0)) }
        }
        #[inline(always)]
        fn minus(self, other: Self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
        }
        #[inline(always)]
        fn plus_product(self, a: Self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm512_fmadd_ps(a.0, b.0, self.0)) }
        }
        #[inline(always)]
        fn fma(a: f32, b: f32, c: f32) -> f32 {
            a.mul_add(b, c)
        }
        #[inline(always)]
        fn sum(self) -> f32 {
            // SAFETY: see above.
            unsafe {
                let high = _mm512_extractf32x8_ps::<1>(self.0);
                sum_256(_mm256_add_ps(_mm512_castps512_ps256(self.0), high))
            }
        }
    }

    /// Two registers of AVX2.
    #[derive(Clone, Copy)]
    pub struct Avx2(__m256, __m256);

    impl Lanes for Avx2 {
        #[inline(always)]
        fn splat(v: f32) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_set1_ps(v), _mm256_set1_ps(v)) }
        }
        #[inline(always)]
        fn load(from: &[f32]) -> Self {
            let from = from[..LANES].as_ptr();
            // SAFETY: see above.
            unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
        }
        #[inline(always)]
        fn store(self, to: &mut [f32]) {
            let to = to[..LANES].as_mut_ptr();
            // SAFETY: see above.
            unsafe {
                _mm256_storeu_ps(to, self.0);
                _mm256_storeu_ps(to.add(8), self.1);
            }
        }
        #[inline(always)]
        fn plus(self, other: Self) -> Self {
            // SAFETY: see above.
            unsafe {
                Self(
                    _mm256_add_ps(self.0, other.0),
                    _mm256_add_ps(self.1, other.1),
                )
            }
        }
        #[inline(always)]
        fn minus(self, other: Self) -> Self {
            // SAFETY: see above.
            unsafe {
                Self(
                    _mm256_sub_ps(self.0, other.0),
                    _mm256_sub_ps(self.1, other.1),
                )
            }
        }
        #[inline(always)]
        fn plus_product(self, a: Self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe {
                Self(
                    _mm256_fmadd_ps(a.0, b.0, self.0),
                    _mm256_fmadd_ps(a.1, b.1, self.1),
                )
            }
        }
        #[inline(always)]
        fn fma(a: f32, b: f32, c: f32) -> f32 {
            a.mul_add(b, c)
        }
        #[inline(always)]
        fn sum(self) -> f32 {
            // SAFETY: see above.
            unsafe { sum_256(_mm256_add_ps(self.0, self.1)) }
        }
    }

    #[inline(always)]
    unsafe fn sum_256(v: __m256) -> f32 {
        // SAFETY: AVX2 is there, the caller says.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::isa::Isa;
    use super::*;

    for_each_isa! {
        fn sums<L>(values: &[f32; LANES]) -> [f32; 2] {
            let lanes = L::load(values);
            let twice = L::splat(0.5).plus_product(lanes, L::splat(3.0)).minus(lanes).plus(lanes);
            [lanes.sum(), twice.sum()]
        }
    }

    #[test]
    fn every_kind_of_lanes_adds_in_the_same_order() {
        let values = std::array::from_fn(|i| (i as f32 * 0.7).exp());
        let plain = sums(Isa::Portable, &values);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let [sum, twice] = sums(isa, &values);
            assert_eq!(sum.to_bits(), plain[0].to_bits());
            assert!((twice - plain[1]).abs() <= 1e-6 * plain[1]);
        }
    }
}

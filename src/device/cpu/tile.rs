//! The micro-kernels: one 12 × 32 tile of a product from two packed panels.
//!
//! An A panel is `[k][12]` and a B panel `[k][32]`, both zero-padded to full width, so
//! edge tiles run the same instructions as inner ones. AVX-512 keeps the whole tile in 24
//! registers; the others run over sub-tiles of the same panels.
//!
//! Order of summation: an element is the sum, in order, of partial sums over [`KC`] values
//! of k, each one chain of fused multiply-adds in ascending k. It depends on k alone.

use super::isa::Isa;

/// Rows of a tile.
pub const MR: usize = 12;
/// Columns of a tile.
pub const NR: usize = 32;
/// Length of one chain of additions: A and B sub-panels of this length fit in L1.
pub const KC: usize = 256;

/// A tile, row-major.
#[repr(C, align(64))]
pub struct Tile(pub [f32; MR * NR]);

impl Tile {
    /// Zeros.
    pub const fn new() -> Self {
        Self([0.0; MR * NR])
    }

    /// The tile that `values` are, so that a product is written where it is needed.
    ///
    /// # Panics
    /// Where `values` do not begin at a cache line.
    pub fn of(values: &mut [f32; MR * NR]) -> &mut Self {
        assert!(values.as_ptr().cast::<Self>().is_aligned());
        // SAFETY: a tile is such an array, and this one has its alignment.
        unsafe { &mut *values.as_mut_ptr().cast() }
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> &[f32; NR] {
        self.0[i * NR..(i + 1) * NR]
            .try_into()
            .expect("a row has NR values")
    }

    /// Becomes the product of an A panel `[k][MR]` and a B panel `[k][NR]`.
    ///
    /// # Panics
    /// Where the panels' lengths disagree, or this machine has no `isa` to run.
    #[inline]
    pub fn product(&mut self, isa: Isa, a: &[f32], b: &[f32]) {
        let k = a.len() / MR;
        assert!(a.len() == k * MR && b.len() == k * NR);
        if k == 0 {
            self.0.fill(0.0);
        }
        let mut start = 0;
        while start < k {
            let len = KC.min(k - start);
            // SAFETY: both panels hold `len` steps from `start` on; the tile is whole. The
            // instruction set is there: `Pool::with_isa` asserts it.
            unsafe {
                let a = a.as_ptr().add(start * MR);
                let b = b.as_ptr().add(start * NR);
                let c = self.0.as_mut_ptr();
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    Isa::Amx | Isa::Avx512 => x86::avx512(len, a, b, c, start > 0),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => x86::avx2(len, a, b, c, start > 0),
                    _ => portable(len, a, b, c, start > 0),
                }
            }
            start += len;
        }
    }
}

/// 6 × 8 sub-tiles that fit in sixteen 128-bit registers.
///
/// # Safety
/// `a` has `k` · [`MR`] values, `b` has `k` · [`NR`], `c` is a tile.
unsafe fn portable(k: usize, a: *const f32, b: *const f32, c: *mut f32, add: bool) {
    // SAFETY: the slices are as long as the caller promises.
    let (a, b, c) = unsafe {
        (
            std::slice::from_raw_parts(a, k * MR),
            std::slice::from_raw_parts(b, k * NR),
            std::slice::from_raw_parts_mut(c, MR * NR),
        )
    };
    const M: usize = 6;
    const N: usize = 8;
    for i0 in (0..MR).step_by(M) {
        for j0 in (0..NR).step_by(N) {
            let mut sum = [[0.0f32; N]; M];
            for (a, b) in a.chunks_exact(MR).zip(b.chunks_exact(NR)) {
                let a: &[f32; M] = a[i0..i0 + M].try_into().expect("M values");
                let b: &[f32; N] = b[j0..j0 + N].try_into().expect("N values");
                for (row, a) in sum.iter_mut().zip(a) {
                    for (sum, b) in row.iter_mut().zip(b) {
                        *sum = if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
                            a.mul_add(*b, *sum)
                        } else {
                            *sum + a * b
                        };
                    }
                }
            }
            for (i, row) in sum.iter().enumerate() {
                let c = &mut c[(i0 + i) * NR + j0..][..N];
                for (c, sum) in c.iter_mut().zip(row) {
                    *c = if add { *c + sum } else { *sum };
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{MR, NR};
    use std::arch::x86_64::*;

    /// The whole tile in 24 registers; a step is 2 loads, 12 broadcasts and 24 FMAs.
    ///
    /// # Safety
    /// As [`super::portable`]; the machine has AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512(k: usize, a: *const f32, b: *const f32, c: *mut f32, add: bool) {
        // SAFETY: all offsets lie within what the caller promises; a prefetch may be of any
        // address.
        unsafe {
            let mut sum = [[_mm512_setzero_ps(); 2]; MR];
            for step in 0..k {
                let (a, b) = (a.add(step * MR), b.add(step * NR));
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(16 * NR).cast());
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(16 * NR + 16).cast());
                let b = [_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16))];
                for (i, sum) in sum.iter_mut().enumerate() {
                    let a = _mm512_set1_ps(*a.add(i));
                    sum[0] = _mm512_fmadd_ps(a, b[0], sum[0]);
                    sum[1] = _mm512_fmadd_ps(a, b[1], sum[1]);
                }
            }
            for (i, row) in sum.iter().enumerate() {
                for (half, sum) in row.iter().enumerate() {
                    let c = c.add(i * NR + half * 16);
                    let value = match add {
                        true => _mm512_add_ps(_mm512_load_ps(c), *sum),
                        false => *sum,
                    };
                    _mm512_store_ps(c, value);
                }
            }
        }
    }

    /// Four 6 × 16 sub-tiles of 12 registers each.
    ///
    /// # Safety
    /// As [`super::portable`]; the machine has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2(k: usize, a: *const f32, b: *const f32, c: *mut f32, add: bool) {
        const M: usize = 6;
        for i0 in [0, M] {
            for j0 in [0, NR / 2] {
                // SAFETY: all offsets lie within what the caller promises.
                unsafe {
                    let mut sum = [[_mm256_setzero_ps(); 2]; M];
                    for step in 0..k {
                        let (a, b) = (a.add(step * MR + i0), b.add(step * NR + j0));
                        let b = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                        for (i, sum) in sum.iter_mut().enumerate() {
                            let a = _mm256_set1_ps(*a.add(i));
                            sum[0] = _mm256_fmadd_ps(a, b[0], sum[0]);
                            sum[1] = _mm256_fmadd_ps(a, b[1], sum[1]);
                        }
                    }
                    for (i, row) in sum.iter().enumerate() {
                        for (half, sum) in row.iter().enumerate() {
                            let c = c.add((i0 + i) * NR + j0 + half * 8);
                            let value = match add {
                                true => _mm256_add_ps(_mm256_load_ps(c), *sum),
                                false => *sum,
                            };
                            _mm256_store_ps(c, value);
                        }
                    }
                }
            }
        }
    }
}

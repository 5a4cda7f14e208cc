//! The comparisons that the encoder makes on every finished tile.

use super::isa::Isa;
use super::tile::{MR, NR, Tile};

/// For each row of a tile, one bit a column.
pub type Masks = [u32; MR];

/// Adds `bias` to each row of `tile`.
pub fn add_bias(isa: Isa, tile: &mut Tile, bias: &[f32; NR]) {
    rows_plus(isa, &mut tile.0, bias);
}

super::simd::for_each_isa! {
    fn rows_plus<L>(tile: &mut [f32; MR * NR], bias: &[f32; NR]) {
        for row in tile.chunks_exact_mut(NR) {
            for (p, b) in row.iter_mut().zip(bias) {
                *p += b;
            }
        }
    }
}

/// Bits where `tile[i][j] · scale[j] > bound[i]`; `scale` is 1 where `None`.
pub fn above_rows(isa: Isa, tile: &Tile, scale: Option<&[f32; NR]>, bound: &[f32; MR]) -> Masks {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a pool has only instruction sets that the machine has.
        Isa::Amx | Isa::Avx512 => unsafe { x86::above_rows_avx512(tile, scale, bound) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { x86::above_rows_avx2(tile, scale, bound) },
        _ => std::array::from_fn(|i| {
            bits(|j| tile.row(i)[j] * scale.map_or(1.0, |s| s[j]) > bound[i])
        }),
    }
}

/// Bits where `tile[i][j] > bound[j]`.
pub fn above_columns(isa: Isa, tile: &Tile, bound: &[f32; NR]) -> Masks {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `above_rows`.
        Isa::Amx | Isa::Avx512 => unsafe { x86::above_columns_avx512(tile, bound) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `above_rows`.
        Isa::Avx2 => unsafe { x86::above_columns_avx2(tile, bound) },
        _ => std::array::from_fn(|i| bits(|j| tile.row(i)[j] > bound[j])),
    }
}

fn bits(test: impl Fn(usize) -> bool) -> u32 {
    (0..NR).fold(0, |mask, j| mask | u32::from(test(j)) << j)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{MR, Masks, NR, Tile};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    fn load_512(row: &[f32; NR]) -> [__m512; 2] {
        // SAFETY: a row has 32 values.
        unsafe { [0, 16].map(|at| _mm512_loadu_ps(row.as_ptr().add(at))) }
    }

    #[target_feature(enable = "avx512f")]
    fn greater_512(a: [__m512; 2], b: [__m512; 2]) -> u32 {
        let low = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a[0], b[0]);
        let high = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a[1], b[1]);
        u32::from(low) | u32::from(high) << 16
    }

    #[target_feature(enable = "avx512f")]
    pub fn above_rows_avx512(tile: &Tile, scale: Option<&[f32; NR]>, bound: &[f32; MR]) -> Masks {
        let mut masks = [0; MR];
        let scale = scale.map(|s| load_512(s));
        for (i, mask) in masks.iter_mut().enumerate() {
            let mut p = load_512(tile.row(i));
            if let Some(scale) = scale {
                p = [_mm512_mul_ps(p[0], scale[0]), _mm512_mul_ps(p[1], scale[1])];
            }
            *mask = greater_512(p, [_mm512_set1_ps(bound[i]); 2]);
        }
        masks
    }

    #[target_feature(enable = "avx512f")]
    pub fn above_columns_avx512(tile: &Tile, bound: &[f32; NR]) -> Masks {
        let mut masks = [0; MR];
        let bound = load_512(bound);
        for (i, mask) in masks.iter_mut().enumerate() {
            *mask = greater_512(load_512(tile.row(i)), bound);
        }
        masks
    }

    #[target_feature(enable = "avx2")]
    fn load_256(row: &[f32; NR]) -> [__m256; 4] {
        // SAFETY: a row has 32 values.
        unsafe { [0, 8, 16, 24].map(|at| _mm256_loadu_ps(row.as_ptr().add(at))) }
    }

    #[target_feature(enable = "avx2")]
    fn greater_256(a: [__m256; 4], b: [__m256; 4]) -> u32 {
        let mut mask = 0;
        for part in 0..4 {
            let greater = _mm256_cmp_ps::<_CMP_GT_OQ>(a[part], b[part]);
            mask |= (_mm256_movemask_ps(greater) as u32) << (8 * part);
        }
        mask
    }

    #[target_feature(enable = "avx2")]
    pub fn above_rows_avx2(tile: &Tile, scale: Option<&[f32; NR]>, bound: &[f32; MR]) -> Masks {
        let mut masks = [0; MR];
        let scale = scale.map(|s| load_256(s));
        for (i, mask) in masks.iter_mut().enumerate() {
            let mut p = load_256(tile.row(i));
            if let Some(scale) = scale {
                for part in 0..4 {
                    p[part] = _mm256_mul_ps(p[part], scale[part]);
                }
            }
            *mask = greater_256(p, [_mm256_set1_ps(bound[i]); 4]);
        }
        masks
    }

    #[target_feature(enable = "avx2")]
    pub fn above_columns_avx2(tile: &Tile, bound: &[f32; NR]) -> Masks {
        let mut masks = [0; MR];
        let bound = load_256(bound);
        for (i, mask) in masks.iter_mut().enumerate() {
            *mask = greater_256(load_256(tile.row(i)), bound);
        }
        masks
    }
}

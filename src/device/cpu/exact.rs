//! Single elements of a product, with the bits that a tile would give them.

use super::isa::Isa;
use super::simd::{LANES, for_each_isa};
use super::tile::KC;

/// The products of `x` with sixteen rows as long as it is. `next` are rows that are needed soon.
///
/// The order of each sum is that of [`super::tile`].
pub fn dots(isa: Isa, x: &[f32], rows: &[&[f32]; LANES], next: &[&[f32]; LANES]) -> [f32; LANES] {
    assert!(rows.iter().chain(next).all(|row| row.len() == x.len()));
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a pool has only instruction sets that the machine has.
        Isa::Amx | Isa::Avx512 => unsafe { x86::dots(x, rows, next) },
        _ => {
            let mut sums = [0.0; LANES];
            plain(isa, x, rows, &mut sums);
            sums
        }
    }
}

for_each_isa! {
    fn plain<L>(x: &[f32], rows: &[&[f32]; LANES], sums: &mut [f32; LANES]) {
        for (sum, row) in sums.iter_mut().zip(rows) {
            let mut parts = x.chunks(KC).zip(row.chunks(KC)).map(|(x, row)| {
                x.iter().zip(row).fold(0.0, |sum, (x, w)| L::fma(*x, *w, sum))
            });
            let first = parts.next().unwrap_or(0.0);
            *sum = parts.fold(first, |sum, part| sum + part);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{KC, LANES};
    use std::arch::x86_64::*;

    /// Sixteen values of each row at a time, transposed in registers: then a lane is a row.
    #[target_feature(enable = "avx512f,avx512dq")]
    pub fn dots(x: &[f32], rows: &[&[f32]; LANES], next: &[&[f32]; LANES]) -> [f32; LANES] {
        let mut total = _mm512_setzero_ps();
        for start in (0..x.len()).step_by(KC) {
            let end = x.len().min(start + KC);
            let mut sum = _mm512_setzero_ps();
            let whole = start + (end - start) / LANES * LANES;
            for at in (start..whole).step_by(LANES) {
                for row in next {
                    // A line of each, to L2: sixteen rows fill L1, and they lie all over the matrix.
                    _mm_prefetch::<_MM_HINT_T1>(row.as_ptr().wrapping_add(at).cast());
                }
                // SAFETY: rows have sixteen values from `at` on.
                let columns = unsafe { transposed(rows, at) };
                for (x, column) in x[at..at + LANES].iter().zip(columns) {
                    sum = _mm512_fmadd_ps(_mm512_set1_ps(*x), column, sum);
                }
            }
            for at in whole..end {
                let column = rows.map(|row| row[at]);
                // SAFETY: sixteen values are read.
                let column = unsafe { _mm512_loadu_ps(column.as_ptr()) };
                sum = _mm512_fmadd_ps(_mm512_set1_ps(x[at]), column, sum);
            }
            total = match start {
                0 => sum,
                _ => _mm512_add_ps(total, sum),
            };
        }
        let mut sums = [0.0; LANES];
        // SAFETY: sixteen values are written.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), total) };
        sums
    }

    /// Column `at + i` of the rows is entry i.
    ///
    /// # Safety
    /// Rows have sixteen values from `at` on.
    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn transposed(rows: &[&[f32]; LANES], at: usize) -> [__m512; LANES] {
        let mut columns = [_mm512_setzero_ps(); LANES];
        for part in 0..4 {
            // Row 4·l + r in lane l of four.
            let mut four = [_mm512_setzero_ps(); 4];
            for (r, four) in four.iter_mut().enumerate() {
                let lane = |l: usize| rows[4 * l + r].as_ptr().wrapping_add(at + 4 * part);
                // SAFETY: the caller's promise.
                unsafe {
                    let low = _mm512_castps128_ps512(_mm_loadu_ps(lane(0)));
                    let low = _mm512_insertf32x4::<1>(low, _mm_loadu_ps(lane(1)));
                    let low = _mm512_insertf32x4::<2>(low, _mm_loadu_ps(lane(2)));
                    *four = _mm512_insertf32x4::<3>(low, _mm_loadu_ps(lane(3)));
                }
            }
            let [a, b, c, d] = four;
            let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
            let (ab_high, cd_high) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
            columns[4 * part] = _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd);
            columns[4 * part + 1] = _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd);
            columns[4 * part + 2] = _mm512_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high);
            columns[4 * part + 3] = _mm512_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high);
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use super::super::tile::{MR, NR, Tile};
    use super::*;
    use crate::domain::random::Stream;

    #[test]
    fn the_bits_are_those_of_a_tile() {
        let random = Stream::new(1, "exact dots");
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            for k in [0, 1, 15, 16, 17, 255, 256, 257, 300, 768, 1031] {
                let value = |i: usize| (random.at(i as u64) as u32).cast_signed() as f32 * 1e-9;
                let rows: Vec<Vec<f32>> = (0..LANES)
                    .map(|row| (0..k).map(|i| value(row * k + i)).collect())
                    .collect();
                let x: Vec<f32> = (0..k).map(|i| value(100_000 + i)).collect();
                let (mut a, mut b) = (vec![0.0; k * MR], vec![0.0; k * NR]);
                for i in 0..k {
                    a[i * MR] = x[i];
                    for (row, values) in rows.iter().enumerate() {
                        b[i * NR + row] = values[i];
                    }
                }
                let mut tile = Tile::new();
                tile.product(isa, &a, &b);
                let rows: [&[f32]; LANES] = std::array::from_fn(|row| &rows[row][..]);
                let got = dots(isa, &x, &rows, &rows).map(f32::to_bits);
                let expected: Vec<u32> = tile.row(0)[..LANES].iter().map(|v| v.to_bits()).collect();
                assert_eq!(got[..], expected[..], "{isa} k {k}");
            }
        }
    }
}

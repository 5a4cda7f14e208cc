use super::super::isa::Isa;
use super::*;

fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn pools() -> impl Iterator<Item = Pool> {
    Isa::ALL
        .into_iter()
        .filter(|isa| isa.available())
        .map(|isa| Pool::with_isa(2, isa))
}

#[test]
fn agrees_with_an_f64_product_on_ragged_shapes() {
    for pool in pools() {
        for (m, n, k) in [
            (1, 1, 1),
            (1, 33, 7),
            (5, 31, 300),
            (12, 32, 256),
            (13, 65, 257),
            (100, 100, 128),
            (37, 70, 4096 + 300),
            (3, 5, 0),
        ] {
            let (a, w, bias) = (noise(m * k, 1), noise(n * k, 2), noise(n, 3));
            let before = noise(m * n, 4);
            let packed = PackedWeight::new(&w, n, k);
            for (bias, accumulate) in [(None, false), (Some(&bias), false), (Some(&bias), true)] {
                let mut out = before.clone();
                gemm(
                    &pool,
                    &a,
                    m,
                    &packed,
                    bias.map(|b| &b[..]),
                    accumulate,
                    &mut out,
                );
                for (e, got) in out.iter().enumerate() {
                    let (i, j) = (e / n, e % n);
                    let mut sum = bias.map_or(0.0, |b| f64::from(b[j]));
                    let mut size = 1.0;
                    for l in 0..k {
                        let term = f64::from(a[i * k + l]) * f64::from(w[j * k + l]);
                        sum += term;
                        size += term.abs();
                    }
                    if accumulate {
                        sum += f64::from(before[e]);
                    }
                    let error = (f64::from(*got) - sum).abs();
                    assert!(
                        error <= 1e-6 * size,
                        "{} {m}x{n}x{k} ({i}, {j}): {error:e}",
                        pool.isa()
                    );
                }
            }
        }
    }
}

#[test]
fn bits_depend_neither_on_threads_nor_on_the_rows_place() {
    let (m, n, k) = (61, 150, 4096 + 513);
    let (a, w) = (noise(m * k, 5), noise(n * k, 6));
    let packed = PackedWeight::new(&w, n, k);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        let run = |threads: usize, rows: std::ops::Range<usize>| {
            let mut out = vec![0.0; rows.len() * n];
            let pool = Pool::with_isa(threads, isa);
            gemm(
                &pool,
                &a[rows.start * k..rows.end * k],
                rows.len(),
                &packed,
                None,
                false,
                &mut out,
            );
            out.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        let whole = run(1, 0..m);
        assert_eq!(whole, run(2, 0..m));
        assert_eq!(whole, run(5, 0..m));
        for rows in [0..1, 7..8, 3..40, m - 1..m] {
            assert_eq!(whole[rows.start * n..rows.end * n], run(3, rows)[..]);
        }
    }
}

#[test]
fn avx512_and_avx2_have_the_same_bits() {
    let (m, n, k) = (25, 70, 700);
    let (a, w) = (noise(m * k, 7), noise(n * k, 8));
    let packed = PackedWeight::new(&w, n, k);
    let results: Vec<Vec<u32>> = pools()
        .filter(|pool| pool.isa() != Isa::Portable)
        .map(|pool| {
            let mut out = vec![0.0; m * n];
            gemm(&pool, &a, m, &packed, None, false, &mut out);
            out.iter().map(|v| v.to_bits()).collect()
        })
        .collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

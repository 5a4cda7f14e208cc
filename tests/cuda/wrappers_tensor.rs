//! Wrappers of asynchronous copies and of tensor cores, likewise, with the layouts of the PTX ISA.

use super::wrappers::{everywhere, on_sm_90a, words};
use half::{bf16, f16};

#[test]
fn asynchronous_copies_fill_with_zeros_and_land_in_their_groups() {
    everywhere(|gpu| {
        let mut input = words(128);
        input.extend((0..32).map(|l| [16, 0, 4, 8, 12][l % 5]));
        let got = gpu.run("wrap_copies", 32, &input, 256);
        for l in 0..32 {
            for i in 0..4 {
                let there = 4 * i < input[128 + l] as usize;
                let expected = if there { input[4 * l + i] } else { 0 };
                assert_eq!(got[4 * l + i], expected, "lane {l}, word {i}");
                let other = 31 - (l ^ 1);
                assert_eq!(
                    got[128 + 4 * l + i],
                    input[4 * other + i],
                    "lane {l}, word {i}"
                );
            }
        }
    });
}

/// PTX ISA, `ldmatrix`: thread l has two elements of row l / 4, from column l % 4 * 2 on; with `.trans`
/// the matrix is the other one.
#[test]
fn matrices_are_spread_over_a_warp() {
    everywhere(|gpu| {
        let mut input = words(128);
        input.extend((0..32).map(|r| r * 5 % 32));
        let element =
            |m: usize, r: usize, c: usize| input[4 * (8 * m + r) + c / 2] >> (c % 2 * 16) & 0xffff;
        let got = gpu.run("wrap_matrices", 32, &input, 256);
        for l in 0..32 {
            for m in 0..4 {
                let (line, at) = (l / 4, l % 4 * 2);
                let straight = element(m, line, at) | element(m, line, at + 1) << 16;
                let across = element(m, at, line) | element(m, at + 1, line) << 16;
                assert_eq!(got[4 * l + m], straight, "lane {l}, matrix {m}");
                assert_eq!(got[128 + 4 * l + m], across, "lane {l}, matrix {m}, across");
            }
        }
    });
}

/// Small whole numbers, whose products and sums any order gives.
fn whole(len: usize) -> Vec<f32> {
    words(len)
        .iter()
        .map(|w| (w >> 8 & 15) as f32 - 7.0)
        .collect()
}

type Coded = fn(f32) -> u16;
fn code_bf16(v: f32) -> u16 {
    bf16::from_f32(v).to_bits()
}
fn code_f16(v: f32) -> u16 {
    f16::from_f32(v).to_bits()
}

/// PTX ISA, fragments of `mma.m16n8k16`: with g = lane / 4 and q = lane % 4, a has elements of rows g and
/// g + 8 at columns 2q and 2q + 8, b those of rows 2q and 2q + 8 in column g, d rows g and g + 8 at
/// column 2q; two neighbours each.
#[test]
fn products_of_matrices_have_the_fragments_of_the_isa() {
    everywhere(|gpu| {
        for (name, code) in [
            ("wrap_mma_bf16", code_bf16 as Coded),
            ("wrap_mma_f16", code_f16),
        ] {
            let (a, b, d) = (whole(16 * 16), whole(16 * 8 + 9), whole(16 * 8 + 3));
            let pair = |low: f32, high: f32| u32::from(code(low)) | u32::from(code(high)) << 16;
            let mut input = Vec::new();
            for lane in 0..32 {
                let (g, q) = (lane / 4, lane % 4 * 2);
                for (r, c) in [(g, q), (g + 8, q), (g, q + 8), (g + 8, q + 8)] {
                    input.push(pair(a[r * 16 + c], a[r * 16 + c + 1]));
                }
                for k in [q, q + 8] {
                    input.push(pair(b[k * 8 + g], b[(k + 1) * 8 + g]));
                }
                for (r, c) in [(g, q), (g, q + 1), (g + 8, q), (g + 8, q + 1)] {
                    input.push(d[r * 8 + c].to_bits());
                }
            }
            let got = gpu.run(name, 32, &input, 128);
            for (at, got) in got.iter().enumerate() {
                let (lane, i) = (at / 4, at % 4);
                let (r, c) = (lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
                let sum: f32 = (0..16).map(|k| a[r * 16 + k] * b[k * 8 + c]).sum();
                assert_eq!(
                    f32::from_bits(*got),
                    d[r * 8 + c] + sum,
                    "{name} [{r}, {c}]"
                );
            }
        }
    });
}

/// PTX ISA, `wgmma.m64n256k16`: both factors by rows of k with a swizzle of 128 bytes (piece c of 16
/// bytes of row r lies at c ^ r % 8), and sum 4j + i of a thread in the row of its warp's sixteen and
/// of its lane's four, column 8j + 2 (lane % 4).
#[test]
fn products_of_warpgroups_have_the_layout_of_the_isa() {
    on_sm_90a(|gpu| {
        for (name, code) in [
            ("wrap_wgmma_bf16", code_bf16 as Coded),
            ("wrap_wgmma_f16", code_f16),
        ] {
            let rows = whole(320 * 64);
            let mut halves = vec![0; 320 * 64];
            for (i, v) in rows.iter().enumerate() {
                let (r, c) = (i / 64, i % 64);
                halves[r * 64 + ((c / 8) ^ (r % 8)) * 8 + c % 8] = code(*v);
            }
            let pairs = halves.chunks(2);
            let input: Vec<u32> = pairs
                .map(|p| u32::from(p[0]) | u32::from(p[1]) << 16)
                .collect();
            let got = gpu.run(name, 128, &input, 128 * 129);
            let (a, b) = rows.split_at(64 * 64);
            let part = |r: usize, c: usize, from: usize| -> f32 {
                (from..64).map(|k| a[r * 64 + k] * b[c * 64 + k]).sum()
            };
            for t in 0..128 {
                let place = |i: usize| {
                    let row = t / 32 * 16 + t % 32 / 4 + i % 4 / 2 * 8;
                    (row, i / 4 * 8 + t % 4 * 2 + i % 2)
                };
                for i in 0..128 {
                    let (r, c) = place(i);
                    let got = f32::from_bits(got[t * 128 + i]);
                    assert_eq!(got, part(r, c, 0), "{name} [{r}, {c}]");
                }
                let (r, c) = place(77);
                let got = f32::from_bits(got[128 * 128 + t]);
                assert_eq!(
                    got,
                    part(r, c, 0) + part(r, c, 48),
                    "{name} [{r}, {c}], more"
                );
            }
        }
    });
}

#[test]
fn registers_that_change_hands_lose_nothing() {
    on_sm_90a(|gpu| {
        let v = words(180 * 384);
        let got = gpu.run("wrap_registers", 384, &v, 384);
        for (t, got) in got.iter().enumerate() {
            let kept = |i: usize| v[i * 384 + t];
            let add =
                |sum: u32, i: usize| sum.wrapping_mul(31).wrapping_add(kept(179 - i) ^ kept(i));
            let expected = if t < 256 {
                (0..180).fold(0, add)
            } else {
                v[t].wrapping_add(1)
            };
            assert_eq!(*got, expected, "thread {t}");
        }
    });
}

#[test]
fn bulk_copies_complete_a_turn_of_their_barrier() {
    on_sm_90a(|gpu| {
        let v = words(80);
        let got = gpu.run("wrap_transactions", 96, &v, 160);
        assert_eq!(got[..80], v);
        assert_eq!(got[80..], v);
    });
}

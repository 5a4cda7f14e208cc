use super::super::{Cpu, encode, rounded};
use super::*;
use crate::device::sae::{Rows, SaeOps};
use crate::domain::random::Stream;

/// Activations, encoder, bias, factors of keys.
struct Case {
    name: &'static str,
    d: usize,
    d_sae: usize,
    x: Vec<f32>,
    center: Option<Vec<f32>>,
    w_enc: Vec<f32>,
    b_enc: Vec<f32>,
    scale: Option<Vec<f32>>,
}

fn normal(random: Stream, count: usize) -> Vec<f32> {
    let sum = |i| (0..12).map(|n| random.uniform(12 * i + n)).sum::<f64>() - 6.0;
    (0..count as u64).map(|i| sum(i) as f32).collect()
}

fn same(got: &Codes, expected: &Codes, what: &str) {
    assert_eq!(got.row_ptr, expected.row_ptr, "{what}");
    assert_eq!(got.latent, expected.latent, "{what}");
    let bits = |pre: &[f32]| pre.iter().map(|p| p.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&got.pre), bits(&expected.pre), "{what}");
}

impl Case {
    fn new(name: &'static str, [tokens, d, d_sae]: [usize; 3]) -> Self {
        let part = |part, count| normal(Stream::new(7, name).child(part), count);
        Self {
            name,
            d,
            d_sae,
            x: part(0, tokens * d),
            center: None,
            w_enc: part(1, d_sae * d),
            b_enc: part(2, d_sae),
            scale: None,
        }
    }

    /// Both ways, for several k, with every instruction set.
    fn check(&self) {
        let product = Encode {
            x: Rows::of(&self.x, self.x.len() / self.d),
            center: self.center.as_ref(),
            w_enc: &self.w_enc,
            b_enc: &self.b_enc,
            d_in: self.d,
            d_sae: self.d_sae,
            rounded: true,
        };
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            for k in [1, 7, 32, self.d_sae] {
                let k = k.min(self.d_sae);
                let pool = Pool::with_isa(2, isa);
                let cpu = Cpu::new(1);
                let [mut expected, mut got] = [(); 2].map(|()| cpu.new_codes());
                let select = Select::TopK {
                    k,
                    scale: self.scale.as_ref(),
                    among: None,
                };
                let mut pick = Pick {
                    select,
                    codes: &mut expected,
                };
                encode::by_tiles(&pool, &product, &mut [&mut pick]).unwrap();
                topk(&pool, &product, k, self.scale.as_deref(), &mut got).unwrap();
                let what = format!("{}, {isa}, k {k}", self.name);
                same(&got, &expected, &what);
                // Half a latent a token at the least, and more than there are.
                let total = (k * product.x.count).div_ceil(2).max(1);
                let scale = self.scale.as_ref();
                let mut pick = Pick {
                    select: Select::BatchTopK { total, scale },
                    codes: &mut expected,
                };
                encode::by_tiles(&pool, &product, &mut [&mut pick]).unwrap();
                let select = Select::BatchTopK { total, scale };
                batch::topk(
                    &pool,
                    &product,
                    &select,
                    total,
                    self.scale.as_deref(),
                    &mut got,
                )
                .unwrap();
                same(&got, &expected, &format!("{what}, of the batch"));
            }
        }
    }
}

#[test]
fn the_best_are_those_of_the_exact_product_bit_for_bit() {
    for shape in [
        [1, 1, 1],
        [3, 5, 40],
        [33, 32, 70],
        [70, 300, 400],
        [35, 768, 300],
    ] {
        Case::new("normal", shape).check();
    }
    let mut case = Case::new("centered and scaled", [50, 96, 600]);
    case.center = Some(normal(Stream::new(1, "center"), 96));
    case.scale = Some(
        normal(Stream::new(1, "scale"), 600)
            .iter()
            .map(|s| s.abs())
            .collect(),
    );
    case.check();
}

#[test]
fn keys_that_are_closer_than_the_error_are_told_apart() {
    // All latents nearly the same, some the same: the lowest of equal ones win.
    let mut case = Case::new("close", [40, 64, 900]);
    for j in 1..900 {
        for i in 0..64 {
            let nudge = f32::from((j % 5) as u8) * 1e-6;
            case.w_enc[j * 64 + i] = case.w_enc[i] * (1.0 + nudge);
        }
    }
    case.b_enc.fill(0.25);
    case.check();
    // Everything is equal.
    case.x.fill(0.0);
    case.check();
}

#[test]
fn rows_of_every_length_stand_beside_each_other() {
    let mut case = Case::new("lengths", [40, 64, 700]);
    for (j, row) in case.w_enc.chunks_mut(64).enumerate() {
        let factor = 10f32.powi(j as i32 % 60 - 40);
        row.iter_mut().for_each(|w| *w *= factor);
        // What bf16 rounds most.
        if j % 7 == 0 {
            row.fill(0.0);
            row[j % 64] = 1.003_9;
        }
    }
    for (b, row) in case.x.chunks_mut(64).enumerate() {
        let factor = 10f32.powi(b as i32 * 2 - 45);
        row.iter_mut().for_each(|x| *x *= factor);
    }
    case.check();
    // A bias that leaves little of the product.
    let mut case = Case::new("bias", [40, 64, 700]);
    case.b_enc.fill(1e7);
    case.check();
}

#[test]
fn what_is_not_a_number_or_too_large_is_as_in_the_exact_product() {
    let mut case = Case::new("strange", [40, 33, 300]);
    case.scale = Some(vec![1.0; 300]);
    let scale = case.scale.as_mut().unwrap();
    (scale[3], scale[40], scale[41], scale[42]) = (0.0, -2.0, f32::NAN, f32::INFINITY);
    case.x[2 * 33] = f32::NAN;
    case.x[3 * 33 + 1] = f32::INFINITY;
    case.x[4 * 33 + 1] = 3.4e38;
    case.x[5 * 33..6 * 33].fill(1e30);
    case.w_enc[7 * 33] = f32::NAN;
    case.w_enc[8 * 33 + 5] = f32::NEG_INFINITY;
    case.w_enc[9 * 33..10 * 33].fill(-3.39e38);
    case.w_enc[10 * 33..11 * 33].fill(1e-42);
    (case.b_enc[11], case.b_enc[12]) = (f32::NAN, f32::INFINITY);
    case.check();
}

#[test]
fn no_error_is_larger_than_its_bound() {
    // Each value just between two that bf16 has, all errors of one sign, all products positive.
    let (d, isa) = (256, Isa::best());
    let worst = vec![1.0 + 1.0 / 256.0 - 1e-6; d];
    let alternating: Vec<f32> = (0..d).map(|i| 1.0 + (i % 2) as f32 / 128.0).collect();
    let normal = normal(Stream::new(3, "bound"), d);
    for x in [&worst, &alternating, &normal] {
        for w in [&worst, &alternating, &normal] {
            let pool = Pool::with_isa(1, isa);
            let tokens = Tokens::new(&pool, x, d, None).unwrap();
            let mut tiles = vec![0; 2 * rounded::steps(d) * TILE];
            let reach = rounded::latents(isa, w.chunks(d), &mut tiles);
            let mut sums: Block = bytemuck::Zeroable::zeroed();
            let (unit, half) = (Tiles::new(isa), tiles.len() / 2);
            for chunk @ (first, len) in rounded::chunks(rounded::steps(d)) {
                let part = |at: usize| &tiles[at * half + first * TILE..][..len * TILE];
                let x = tokens.tiles(0, chunk);
                unit.multiply([part(0), part(1)], x, &mut sums, first == 0);
            }
            let exact: f64 = x
                .iter()
                .zip(w)
                .map(|(x, w)| f64::from(*x) * f64::from(*w))
                .sum();
            let error = (f64::from(sums.0[0][0]) - exact).abs();
            let bound = f64::from(tokens.slack(0)[0] * reach[0]);
            assert!(error <= bound, "{error} > {bound}");
            // … and the bound is of use.
            let lengths = |of: &[f32]| of.iter().map(|v| f64::from(v * v)).sum::<f64>().sqrt();
            let share = bound / (lengths(x) * lengths(w));
            let most = if [x, w] == [&normal; 2] {
                0.0045
            } else {
                0.014
            };
            assert!(share < most, "{share}");
        }
    }
}

#[test]
fn what_a_selection_takes_is_known_where_it_goes_this_way() {
    // 2k + 96 candidates of 12 bytes, with as many orders for each 32 tokens; 6 bytes a number of x.
    let lists = 64 * (2 * 8 + 96) * 12 + 2 * (2 * 8 + 96) * 4;
    let found = bytes(Isa::Amx, 64, 8, 100, 256);
    assert_eq!(found, Some(lists + 64 * 600));
    assert_eq!(bytes(Isa::Amx, 64, 8, 100, 255), None, "too many of them");
    assert_eq!(bytes(Isa::Avx512, 64, 8, 100, 256), None);
}

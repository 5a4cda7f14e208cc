//! Operations of the language model at shapes that fill no tile, against the f64 reference.

use super::cuda_double::gpu;
use super::device_suite::{coarse, down, fine, up};
use backpropd::device::Real;
use backpropd::device::coded::Coded;
use backpropd::device::cuda::Cuda;
use backpropd::device::lm::{
    Activation, Embed, Head, Linear, LmOps, Mlp, NO_TARGET, Norm, NormKind, Table,
};
use backpropd::device::reference::Reference;
use backpropd::domain::Precision;

/// Orders of threads and blocks: ascending, descending, shuffled.
pub const SCHEDULES: [i64; 3] = [0, 1, 77];

pub fn scheduled(schedule: i64) -> Option<Cuda> {
    let gpu = gpu()?;
    gpu.schedule(schedule);
    // Half of them with the rows that GPUs before sm_90 multiply.
    let device = gpu.open();
    Some(if schedule % 2 == 1 {
        device.without_wgmma()
    } else {
        device
    })
}

#[track_caller]
pub fn assert_close(got: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let square: f64 = expected.iter().map(|e| e * e).sum();
    let rms = (square / expected.len() as f64).sqrt();
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got - expected).abs();
        assert!(
            error <= tolerance * (expected.abs() + rms),
            "{what}: element {i}: {got} for {expected}"
        );
    }
}

/// Numbers that bf16 holds, so that nothing is lost by rounding them.
fn matrix<D: LmOps>(device: &D, n: usize, k: usize, seed: u32) -> D::Weight {
    let values: Vec<f32> = coarse(n * k, seed).iter().map(|v| *v as f32).collect();
    let coded = Coded::new(&values, k, Precision::Bf16).unwrap().unwrap();
    device.pack_coded(coded).unwrap()
}

/// Codes of numbers that they hold, and that bf16 holds too: multiples of a power of two, which is
/// another for each two groups that are neighbours, and in the first column of a group what makes it
/// the group's scale.
fn codes(n: usize, k: usize, precision: Precision, seed: u32) -> Coded {
    let most = match precision {
        Precision::Int4 => 7.0,
        _ => 127.0,
    };
    let group = precision.group().unwrap_or(k);
    let values = coarse(n * k, seed).into_iter().enumerate();
    let values: Vec<f32> = values
        .map(|(i, v)| {
            let (row, column) = (i / k, i % k);
            let first = column % group == 0;
            let scale = 1 << ((row + column / group) % 3);
            scale as f32 * if first { most / 4.0 } else { v as f32 }
        })
        .collect();
    Coded::new(&values, k, precision).unwrap().unwrap()
}

const CODES: [Precision; 4] = [
    Precision::Bf16,
    Precision::F16,
    Precision::Int8,
    Precision::Int4,
];

fn linear<D: LmOps>(device: &D, [m, n, k]: [usize; 3], precision: Precision) -> Vec<f64> {
    let weight = codes(n, k, precision, 1);
    let layer = Linear {
        weight: device.pack_coded(weight).unwrap(),
        bias: Some(up(device, &fine(n, 2))),
    };
    let x = up(device, &coarse(m * k, 3));
    let mut out = up(device, &vec![7.0; m * n + 3]);
    device.linear(&x, m, &layer, &mut out).unwrap();
    down(device, &out)
}

/// … whether rows are whole eights, groups or panels, or none of them.
#[test]
fn products_of_codes_are_exact_where_bf16_is() {
    let check = |shape, precision| {
        let expected = linear(&Reference::<f64>::new(), shape, precision);
        for schedule in SCHEDULES {
            let Some(device) = scheduled(schedule) else {
                return;
            };
            let got = linear(&device, shape, precision);
            assert_close(&got, &expected, 1e-6, &format!("{precision} {shape:?}"));
        }
    };
    for precision in CODES {
        for shape in [[1, 1, 1], [5, 33, 70], [3, 130, 136]] {
            check(shape, precision);
        }
    }
    for shape in [[130, 129, 31], [129, 257, 96]] {
        check(shape, Precision::Bf16);
    }
}

/// Rows of a table, scaled and with a position added, row after row in any order.
fn embedded<D: LmOps>(device: &D, d: usize, precision: Precision) -> Vec<f64> {
    let vocab = 19;
    let values: Vec<f32> = fine(vocab * d, 5).iter().map(|v| *v as f32).collect();
    let table = Coded::new(&values, d, precision).unwrap().unwrap();
    let ids: Vec<u32> = (0..23).map(|r| r * 7 % 19).collect();
    let at: Vec<u32> = (0..23).map(|r| r % 5).collect();
    let positions = up(device, &fine(5 * d, 6));
    let work = Embed {
        table: &Table::Coded(device.hold_coded(table).unwrap()),
        positions: Some(&positions),
        scale: 3.0,
        ids: &ids,
        at: &at,
        d_model: d,
    };
    let mut out = up(device, &vec![7.0; 23 * d]);
    device.embed(&work, &mut out).unwrap();
    down(device, &out)
}

#[test]
fn an_embedding_in_codes_is_that_of_the_reference() {
    for precision in CODES {
        for d in [1, 37, 136] {
            let expected = embedded(&Reference::<f64>::new(), d, precision);
            let Some(device) = scheduled(77) else {
                return;
            };
            let got = embedded(&device, d, precision);
            assert_close(&got, &expected, 1e-6, &format!("{precision} {d}"));
        }
    }
}

/// An MLP whose inner width fills no eight, or no four, with weights in bf16 or in f32.
fn mlp<D: LmOps>(
    device: &D,
    activation: Activation,
    gated: bool,
    d_mlp: usize,
    coded: bool,
) -> Vec<f64> {
    let (rows, d) = (37, 19);
    let linear = |n, k, seed| Linear {
        weight: if coded {
            matrix(device, n, k, seed)
        } else {
            let values = fine(n * k, seed);
            let values: Vec<D::Real> = values.iter().map(|v| D::Real::from_f64(*v)).collect();
            device.pack(&values, n, k).unwrap()
        },
        bias: Some(up(device, &fine(n, seed + 1))),
    };
    let mlp = Mlp {
        up: linear(if gated { 2 * d_mlp } else { d_mlp }, d, 11),
        down: linear(d, d_mlp, 13),
        activation,
        gated,
        d_mlp,
    };
    let x = up(device, &coarse(rows * d, 15));
    let mut out = up(device, &vec![0.0; rows * d]);
    device.mlp(&x, rows, &mlp, &mut out).unwrap();
    down(device, &out)
}

/// What is between the products is rounded: each term of a sum by 2⁻⁹ at most, all together by less
/// of their length.
#[test]
fn the_mlp_of_bf16_weights_agrees_with_the_reference() {
    use Activation::{Gelu, GeluTanh, Relu, Silu};
    for activation in [Gelu, GeluTanh, Silu, Relu] {
        for (gated, d_mlp) in [(false, 37), (true, 36), (true, 64), (false, 44)] {
            let expected = mlp(&Reference::<f64>::new(), activation, gated, d_mlp, true);
            for schedule in SCHEDULES {
                let Some(device) = scheduled(schedule) else {
                    return;
                };
                let got = mlp(&device, activation, gated, d_mlp, true);
                let square = |v: f64| v * v;
                let pairs = got.iter().zip(&expected);
                let error: f64 = pairs.map(|(a, b)| square(a - b)).sum();
                let norm: f64 = expected.iter().copied().map(square).sum();
                let error = (error / norm).sqrt();
                let most = 2.0_f64.powi(-9);
                let what = format!("{activation:?}, gated: {gated}, {d_mlp}: {error:.2e}");
                assert!(error < most, "{what}");
            }
        }
    }
}

#[test]
fn the_mlp_of_f32_weights_agrees_with_the_reference() {
    use Activation::{Gelu, GeluTanh, Relu, Silu};
    for activation in [Gelu, GeluTanh, Silu, Relu] {
        for gated in [false, true] {
            let expected = mlp(&Reference::<f64>::new(), activation, gated, 37, false);
            let Some(device) = scheduled(77) else {
                return;
            };
            let got = mlp(&device, activation, gated, 37, false);
            assert_close(&got, &expected, 2e-6, &format!("{activation:?}, {gated}"));
        }
    }
}

/// … to the bit, whether or not rows are whole eights.
#[test]
fn a_norm_before_a_product_is_that_norm() {
    for (kind, d) in [
        (NormKind::Rms, 37),
        (NormKind::Layer, 64),
        (NormKind::Layer, 7),
    ] {
        let (rows, n) = (21, 9);
        let Some(device) = scheduled(77) else {
            return;
        };
        let norm = Norm {
            kind,
            eps: 1e-5,
            weight: up(&device, &fine(d, 1)),
            bias: (kind == NormKind::Layer).then(|| up(&device, &fine(d, 2))),
        };
        let layer = Linear {
            weight: matrix(&device, n, d, 3),
            bias: None,
        };
        let x = up(&device, &fine(rows * d, 4));
        let [mut normed, mut room] = [0; 2].map(|_| up(&device, &vec![0.0; rows * d]));
        let [mut apart, mut together] = [0; 2].map(|_| up(&device, &vec![0.0; rows * n]));
        device.norm(&x, rows, &norm, &mut normed).unwrap();
        device.linear(&normed, rows, &layer, &mut apart).unwrap();
        let out = &mut together;
        device
            .norm_linear(&x, rows, &norm, &mut room, &layer, out)
            .unwrap();
        assert_eq!(
            down(&device, &apart),
            down(&device, &together),
            "{kind:?} {d}"
        );
    }
}

/// Logits and losses with a vocabulary of three tiles, the last one short.
fn head<D: LmOps>(device: &D, softcap: Option<f64>) -> (Vec<f64>, Vec<f64>) {
    let (d, vocab, tile, rows) = (20, 83, 40, 70);
    let tiles = [40, 40, 3].into_iter().zip(0..);
    let head = Head {
        tiles: tiles.map(|(n, seed)| matrix(device, n, d, seed)).collect(),
        tile,
        vocab,
        softcap,
    };
    let x = up(device, &coarse(rows * d, 9));
    let mut logits = up(device, &vec![0.0; rows * vocab]);
    device.logits(&x, rows, &head, &mut logits).unwrap();
    let targets: Vec<u32> = (0..rows as u32)
        .map(|r| if r % 5 == 0 { NO_TARGET } else { r * 7 % 83 })
        .collect();
    let mut losses = vec![-1.0; rows];
    device.losses(&x, &head, &targets, &mut losses).unwrap();
    (down(device, &logits), losses)
}

#[test]
fn logits_and_losses_of_bf16_weights_agree_with_the_reference() {
    for softcap in [None, Some(3.0)] {
        let (expected, expected_losses) = head(&Reference::<f64>::new(), softcap);
        for schedule in SCHEDULES {
            let Some(device) = scheduled(schedule) else {
                return;
            };
            let (logits, losses) = head(&device, softcap);
            assert_close(&logits, &expected, 1e-6, "logits");
            assert_close(&losses, &expected_losses, 1e-5, "losses");
        }
    }
}

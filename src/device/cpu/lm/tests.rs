use crate::device::coded::Coded;
use crate::device::cpu::Cpu;
use crate::device::lm::{
    Activation, Attention, Head, Linear, LmOps, Mlp, NO_TARGET, Norm, NormKind, QkNorm, RopeTable,
    Span,
};
use crate::device::reference::Reference;
use crate::device::{Device, Real};
use crate::domain::Precision;

type Oracle = Reference<f64>;

/// Reproducible values in −1 … 1.
fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn buf<D: Device>(values: &[f32]) -> Vec<D::Real> {
    values
        .iter()
        .map(|v| D::Real::from_f64(f64::from(*v)))
        .collect()
}

/// A backend whose buffers are vectors, as both of these are.
trait Backend: LmOps<Buf = Vec<<Self as Device>::Real>> {}
impl<D: LmOps<Buf = Vec<<D as Device>::Real>>> Backend for D {}

fn linear<D: Backend>(device: &D, n: usize, k: usize, seed: u64) -> Linear<D> {
    Linear {
        weight: device.pack(&buf::<D>(&values(n * k, seed)), n, k).unwrap(),
        bias: Some(buf::<D>(&values(n, seed + 1))),
    }
}

fn norm<D: Backend>(kind: NormKind, width: usize, seed: u64) -> Norm<D> {
    Norm {
        kind,
        eps: 1e-5,
        weight: buf::<D>(&values(width, seed)),
        bias: Some(buf::<D>(&values(width, seed + 1))),
    }
}

#[track_caller]
fn assert_close(got: &[f32], expected: &[f64], what: &str) {
    assert_eq!(got.len(), expected.len());
    let norm: f64 = expected.iter().map(|e| e * e).sum::<f64>().sqrt();
    let rms = norm / (expected.len() as f64).sqrt();
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - expected).abs();
        assert!(
            error <= 2e-5 * (expected.abs() + rms),
            "{what}: element {i}: {got} for {expected}"
        );
    }
}

/// What an attention is called with.
#[derive(Clone, Debug)]
struct Case {
    spans: Vec<Span>,
    rows: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    softcap: Option<f64>,
    window: Option<usize>,
    rope: usize,
    qk_norm: &'static str,
}

fn attend<D: Backend>(device: &D, case: &Case) -> Vec<D::Real> {
    let longest = case.spans.iter().map(|s| s.len).max().unwrap();
    let angles = values(longest * case.rope / 2, 5);
    let turn = |f: fn(f32) -> f32| buf::<D>(&angles.iter().map(|a| f(*a)).collect::<Vec<_>>());
    let rope = RopeTable {
        cos: turn(f32::cos),
        sin: turn(f32::sin),
        dim: case.rope,
    };
    let norms = |q, k| (norm(NormKind::Rms, q, 7), norm(NormKind::Rms, k, 9));
    let d = case.head_dim;
    let qk_norm = match case.qk_norm {
        "per head" => {
            let (q, k) = norms(d, d);
            QkNorm::PerHead(q, k)
        }
        "full width" => {
            let (q, k) = norms(case.heads * d, case.kv_heads * d);
            QkNorm::FullWidth(q, k)
        }
        _ => QkNorm::Off,
    };
    let work = Attention {
        spans: &case.spans,
        rows: case.rows,
        heads: case.heads,
        kv_heads: case.kv_heads,
        head_dim: d,
        scale: 1.5 / (d as f64).sqrt(),
        softcap: case.softcap,
        window: case.window,
        rope: (case.rope > 0).then_some(&rope),
        qk_norm: &qk_norm,
        rounded: false,
    };
    let mut qkv = buf::<D>(&values(case.rows * work.qkv_width(), 3));
    let mut out = buf::<D>(&values(case.rows * case.heads * d, 4));
    device.attention(&work, &mut qkv, &mut out).unwrap();
    out
}

#[test]
fn attention_agrees_with_the_reference_at_awkward_shapes() {
    let span = |start, len| Span { start, len };
    let base = Case {
        spans: vec![span(0, 40)],
        rows: 40,
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        softcap: None,
        window: None,
        rope: 8,
        qk_norm: "off",
    };
    let cases = [
        base.clone(),
        Case {
            spans: vec![span(0, 1)],
            rows: 1,
            ..base.clone()
        },
        Case {
            heads: 6,
            kv_heads: 3,
            head_dim: 20,
            rope: 6,
            ..base.clone()
        },
        Case {
            heads: 3,
            kv_heads: 3,
            head_dim: 5,
            rope: 0,
            softcap: Some(0.7),
            ..base.clone()
        },
        Case {
            window: Some(1),
            ..base.clone()
        },
        Case {
            window: Some(7),
            qk_norm: "per head",
            ..base.clone()
        },
        Case {
            window: Some(33),
            qk_norm: "full width",
            heads: 4,
            kv_heads: 2,
            ..base.clone()
        },
        // Padding before, behind and around; a context of padding alone.
        Case {
            spans: vec![span(3, 10), span(13, 17), span(32, 0), span(45, 13)],
            rows: 60,
            ..base.clone()
        },
        // More than one chunk of queries, with and without keys out of sight.
        Case {
            spans: vec![span(0, 600)],
            rows: 600,
            ..base.clone()
        },
        Case {
            spans: vec![span(0, 600)],
            rows: 600,
            window: Some(100),
            ..base.clone()
        },
    ];
    for case in cases {
        let expected = attend(&Oracle::new(), &case);
        for threads in [1, 3] {
            let got = attend(&Cpu::new(threads), &case);
            assert_close(&got, &expected, &format!("{case:?}"));
        }
    }
}

fn run_mlp<D: Backend>(
    device: &D,
    activation: Activation,
    gated: bool,
    rows: usize,
) -> Vec<D::Real> {
    let (d, d_mlp) = (19, 37);
    let mlp = Mlp {
        up: linear(device, if gated { 2 * d_mlp } else { d_mlp }, d, 11),
        down: linear(device, d, d_mlp, 13),
        activation,
        gated,
        d_mlp,
    };
    let x = buf::<D>(&values(rows * d, 15));
    let mut out = buf::<D>(&vec![0.0; rows * d]);
    device.mlp(&x, rows, &mlp, &mut out).unwrap();
    out
}

#[test]
fn the_mlp_agrees_with_the_reference() {
    use Activation::{Gelu, GeluTanh, Relu, Silu};
    for activation in [Gelu, GeluTanh, Silu, Relu] {
        for gated in [false, true] {
            for rows in [1, 97, 500] {
                let expected = run_mlp(&Oracle::new(), activation, gated, rows);
                let got = run_mlp(&Cpu::new(2), activation, gated, rows);
                assert_close(&got, &expected, &format!("{activation:?} {gated} {rows}"));
            }
        }
    }
}

fn run_norm<D: Backend>(device: &D, kind: NormKind, width: usize) -> Vec<D::Real> {
    let x = buf::<D>(&values(9 * width, 21));
    let mut out = buf::<D>(&vec![0.0; 9 * width]);
    device
        .norm(&x, 9, &norm(kind, width, 23), &mut out)
        .unwrap();
    out
}

#[test]
fn norms_agree_with_the_reference() {
    for kind in [NormKind::Layer, NormKind::Rms] {
        for width in [1, 31, 32, 33, 576] {
            let expected = run_norm(&Oracle::new(), kind, width);
            let got = run_norm(&Cpu::new(2), kind, width);
            assert_close(&got, &expected, &format!("{kind:?} {width}"));
        }
    }
}

/// Logits and losses with a vocabulary of three tiles, the last one short.
fn run_head<D: Backend>(device: &D, softcap: Option<f64>) -> (Vec<D::Real>, Vec<f64>) {
    let (d, vocab, tile, rows) = (24, 83, 40, 200);
    let weights = values(vocab * d, 31);
    let head = Head {
        tiles: weights
            .chunks(tile * d)
            .map(|w| device.pack(&buf::<D>(w), w.len() / d, d).unwrap())
            .collect(),
        tile,
        vocab,
        softcap,
    };
    // Large enough that a sum without the largest taken off would overflow.
    let x: Vec<f32> = values(rows * d, 33).iter().map(|v| v * 60.0).collect();
    let x = buf::<D>(&x);
    let mut logits = buf::<D>(&vec![0.0; rows * vocab]);
    device.logits(&x, rows, &head, &mut logits).unwrap();
    let targets: Vec<u32> = (0..rows as u32)
        .map(|r| if r % 5 == 0 { NO_TARGET } else { r * 7 % 83 })
        .collect();
    let mut losses = vec![-1.0; rows];
    device.losses(&x, &head, &targets, &mut losses).unwrap();
    (logits, losses)
}

#[test]
fn logits_and_losses_agree_with_the_reference() {
    for softcap in [None, Some(3.0)] {
        let (expected_logits, expected) = run_head(&Oracle::new(), softcap);
        for threads in [1, 2] {
            let (logits, losses) = run_head(&Cpu::new(threads), softcap);
            assert_close(&logits, &expected_logits, "logits");
            for (r, (loss, expected)) in losses.iter().zip(&expected).enumerate() {
                assert!(
                    (loss - expected).abs() <= 1e-4 * (1.0 + expected),
                    "row {r}: {loss}"
                );
                assert_eq!(
                    *loss == -1.0,
                    r % 5 == 0,
                    "rows without target stay as they are"
                );
            }
        }
    }
}

#[test]
fn a_product_leaves_what_lies_behind_its_rows() {
    let device = Cpu::new(1);
    let layer = Linear {
        weight: device.pack(&[1.0, 2.0], 1, 2).unwrap(),
        bias: None,
    };
    let mut out = vec![7.0; 3];
    device
        .linear(&vec![1.0, 1.0, 9.0, 9.0], 1, &layer, &mut out)
        .unwrap();
    assert_eq!(out, [3.0, 7.0, 7.0]);
}

#[test]
fn a_coded_product_is_that_of_the_decoded_matrix_to_the_bit() {
    for (m, n, k) in [(1, 1, 1), (5, 33, 70), (130, 300, 96), (7, 40, 4200)] {
        let (w, x) = (values(n * k, 41), values(m * k, 42));
        for precision in &Precision::ALL[1..] {
            let coded = || Coded::new(&w, k, *precision).unwrap().unwrap();
            let mut decoded = vec![0.0; n * k];
            for (row, to) in decoded.chunks_mut(k).enumerate() {
                coded().decode(row, 0, to);
            }
            for threads in [1, 2] {
                let device = Cpu::new(threads);
                let bias = Some(values(n, 43));
                let [plain, held] = [
                    device.pack(&decoded, n, k).unwrap(),
                    device.pack_coded(coded()).unwrap(),
                ]
                .map(|weight| {
                    let mut out = vec![f32::NAN; m * n];
                    let bias = bias.clone();
                    let layer = Linear { weight, bias };
                    device.linear(&x, m, &layer, &mut out).unwrap();
                    out
                });
                assert_eq!(plain, held, "{precision} {m} {n} {k}");
            }
        }
    }
}

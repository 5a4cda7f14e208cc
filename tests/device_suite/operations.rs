//! Every operation against the f64 reference.

use super::*;

fn numbers<D: SaeOps>(device: &D, later: D::Later) -> Vec<f64> {
    device.numbers(vec![later]).unwrap().remove(0)
}

/// Errors of f32 sums.
pub const F32: f64 = 2e-6;

/// Everything a step computes, as one list of named results.
pub fn everything<D: SaeOps>(
    device: &D,
    shape: Shape,
    choice: &Choice,
    split: usize,
) -> Vec<(String, Vec<f64>)> {
    let Shape { tokens, d, latents } = shape;
    let choices = std::slice::from_ref(choice);
    let codes = pick(device, shape, choices, true, coarse).pop().unwrap();
    let edges = device.edges(&codes);
    let fresh = |len: usize, seed| up(device, &fine(len, seed));
    let w_dec = fresh(latents * d, 11);
    let (y, base) = (fresh((tokens + 2) * d, 12), fresh(tokens * d, 13));
    let values = fresh(edges, 14);
    let (row, v) = (fresh(d, 15), fresh(latents, 16));
    let mut results = Vec::new();
    let mut keep = |what: &str, values: Vec<f64>| results.push((what.to_owned(), values));
    let one = [Prefix {
        width: latents,
        scale: 0.5,
    }];
    let two = [
        Prefix {
            width: split,
            scale: 0.25,
        },
        Prefix {
            width: latents,
            scale: 0.5,
        },
    ];
    let decode = |base| Decode {
        codes: &codes,
        values: &values,
        w_dec: &w_dec,
        d_out: d,
        base,
    };
    let mut out = fresh(tokens * d, 17);
    for start in [Base::Zero, Base::Row(&row), Base::Rows(&base)] {
        device.decode(&decode(start), &mut out).unwrap();
        keep("decode", down(device, &out));
    }
    let residual = fresh(tokens * d, 18);
    let target = Rows {
        buf: &y,
        first: 2,
        count: tokens,
    };
    for prefixes in [&one[..], &two[..]] {
        let (mut grad, mut dots) = (fresh(prefixes.len() * tokens * d, 19), fresh(edges, 20));
        for target in [
            Target::Rows(target),
            Target::Residual {
                of: target,
                out: &residual,
            },
        ] {
            let work = Reconstruct {
                decode: decode(Base::Row(&row)),
                target,
                prefixes,
            };
            let to = Reconstruction {
                out: Some(&mut out),
                grad: &mut grad,
                dots: &mut dots,
            };
            let errors = device.reconstruct(&work, to).unwrap();
            keep("errors", numbers(device, errors));
            keep("x-hat", down(device, &out));
            keep("grad", down(device, &grad));
            keep("dots", down(device, &dots));
        }
        let mut dw = fresh(latents * d, 21);
        for (center, accumulate) in [(None, false), (Some(&row), true)] {
            let rows = match prefixes.len() {
                1 => target,
                _ => Rows::of(&grad, tokens),
            };
            let prefixes = if prefixes.len() == 1 { &[] } else { prefixes };
            let work = OuterGrad {
                codes: &codes,
                values: &values,
                rows,
                prefixes,
                center,
                d,
                scale: 8.0,
                accumulate,
            };
            device.outer_grad(&work, &mut dw).unwrap();
            keep("outer", down(device, &dw));
        }
    }
    let mut sums = fresh(latents, 22);
    device
        .latent_sums(&codes, &values, &mut sums, true)
        .unwrap();
    keep("latent sums", down(device, &sums));
    // Numbers, and where they are full.
    for start in [0, u32::MAX - 1] {
        let mut fired = ints(device, &vec![start; latents]);
        device.count_fired(&codes, &values, &mut fired).unwrap();
        let mut counts = vec![0; latents];
        device.read_ints(&fired, 0, &mut counts).unwrap();
        keep("fired", counts.iter().map(|c| f64::from(*c)).collect());
    }
    let mut a = fresh(edges, 23);
    let active = device.activate(&codes, &Rule::Relu, &mut a).unwrap();
    keep("active", numbers(device, active));
    keep("activate", down(device, &a));
    let (mut dp, mut norm) = (fresh(edges, 24), fresh(edges, 25));
    let penalty = Penalty::Tanh {
        weight: 0.3,
        scale: 2.0,
        norms: &v,
    };
    let mut grads = EdgeGrads {
        add_to_pre: true,
        norm: Some(&mut norm),
        ..EdgeGrads::only(&mut dp)
    };
    let losses = device.activate_backward(&codes, &Rule::Relu, &penalty, None, &values, &mut grads);
    keep("penalty", numbers(device, losses.unwrap()));
    keep("dp", down(device, &dp));
    keep("norm", down(device, &norm));
    keep(
        "least",
        numbers(device, device.least_positive(&codes, None).unwrap()),
    );
    let mut part = device.new_codes();
    device
        .slice_codes(&codes, tokens / 3, tokens / 2, &mut part)
        .unwrap();
    let part = device.download_codes(&part).unwrap();
    keep("slice", part.latent.iter().map(|j| f64::from(*j)).collect());
    keep(
        "slice ends",
        part.row_ptr.iter().map(|j| f64::from(*j)).collect(),
    );
    results
}

/// Dense operations.
pub fn dense<D: SaeOps>(device: &D, rows: usize, d: usize) -> Vec<(String, Vec<f64>)> {
    let fresh = |len: usize, seed| up(device, &fine(len, seed));
    let (w, v) = (fresh(rows * d, 31), fresh(rows, 32));
    let mut results = Vec::new();
    let mut keep = |what: &str, values: Vec<f64>| results.push((what.to_owned(), values));
    let some = Rows {
        buf: &w,
        first: 1,
        count: rows - 1,
    };
    let mut row = fresh(d, 33);
    for accumulate in [false, true] {
        device.column_sums(some, d, &mut row, accumulate).unwrap();
        keep("column sums", down(device, &row));
    }
    device
        .add_matvec_t(&w, rows, d, &v, -0.5, &mut row)
        .unwrap();
    keep("matvec", down(device, &row));
    let spread = device.spread(some, d).unwrap();
    let mut matrix = fresh(rows * d, 34);
    device.scaled(some, d, -2.5, &mut matrix).unwrap();
    keep("scaled", down(device, &matrix));
    let mut norms = fresh(rows, 35);
    device.row_norms(&w, rows, d, &mut norms).unwrap();
    keep("norms", down(device, &norms));
    device.add_norm_grad(&w, rows, d, &v, &mut matrix).unwrap();
    keep("norm grad", down(device, &matrix));
    device.project_rows(&w, rows, d, &mut matrix).unwrap();
    keep("project", down(device, &matrix));
    let buffers = [(&matrix, rows * d - 1), (&w, 1), (&norms, rows), (&v, 0)];
    let squares = device.sum_squares(&buffers).unwrap();
    // Of two operations at once, the later one first.
    let both = device.numbers(vec![squares, spread]).unwrap();
    keep("squares and spread", both.concat());
    let n = 5;
    let (skip, bias, g) = (fresh(n * d, 36), fresh(n, 37), fresh(rows * n, 38));
    let mut out = fresh(rows * n, 39);
    device.linear(some, &skip, &bias, d, n, &mut out).unwrap();
    keep("linear", down(device, &out));
    let mut dw = fresh(n * d, 40);
    let g = Rows {
        buf: &g,
        first: 0,
        count: rows - 1,
    };
    for accumulate in [false, true] {
        device
            .linear_grad(g, some, d, n, &mut dw, accumulate)
            .unwrap();
        keep("linear grad", down(device, &dw));
    }
    let step = AdamStep {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        decay: 0.1,
        correction1: 0.19,
        correction2: 0.0199,
        grad_scale: 0.7,
    };
    let mut param = fresh(rows * d, 41);
    let (mut m, mut square) = (fresh(rows * d, 42), matrix);
    device.clamp_below(&mut square, 0.25).unwrap();
    keep("clamp", down(device, &square));
    device
        .adam(&step, &mut param, &w, &mut m, &mut square)
        .unwrap();
    keep("adam", down(device, &param));
    keep("m", down(device, &m));
    keep("v", down(device, &square));
    device.normalize_rows(&mut param, rows, d).unwrap();
    keep("normalize", down(device, &param));
    // A row of zeros has no direction.
    let mut some = fine(rows * d, 43);
    some[..d].fill(0.0);
    let mut some = up(device, &some);
    device.normalize_rows(&mut some, rows, d).unwrap();
    keep("normalize zeros", down(device, &some));
    device.project_rows(&some, rows, d, &mut param).unwrap();
    keep("project along zeros", down(device, &param));
    device
        .add_norm_grad(&some, rows, d, &v, &mut param)
        .unwrap();
    keep("norm grad of zeros", down(device, &param));
    results
}

/// Errors are at most `most` of the largest number of a result.
pub fn compare<D: Device>(
    device: &D,
    shape: &str,
    got: &[(String, Vec<f64>)],
    expected: &[(String, Vec<f64>)],
    most: f64,
) {
    compare_each(device, shape, got, expected, |_| most);
}

/// … at most what is said for that result.
fn compare_each<D: Device>(
    device: &D,
    shape: &str,
    got: &[(String, Vec<f64>)],
    expected: &[(String, Vec<f64>)],
    most: impl Fn(&str) -> f64,
) {
    assert_eq!(got.len(), expected.len(), "{shape}");
    for ((what, got), (_, expected)) in got.iter().zip(expected) {
        assert_eq!(got.len(), expected.len(), "{what}");
        // What cancels to 0 may leave what f64 rounds.
        let largest = expected.iter().fold(1e-9, |a: f64, b| a.max(b.abs()));
        for (i, (g, e)) in got.iter().zip(expected).enumerate() {
            let error = (g - e).abs() / largest;
            assert!(
                error <= most(what),
                "{} {shape}: {what}[{i}]: {g}, expected {e}",
                device.describe()
            );
        }
    }
}

/// Every operation, on more latents than 16 bits can name.
pub fn many_latents<D: SaeOps>(device: &D) {
    let (oracle, choice) = (Reference::<f64>::new(), Choice::TopK(2, None));
    let shape = Shape {
        tokens: 3,
        d: 1,
        latents: 70_000,
    };
    let expected = everything(&oracle, shape, &choice, 40_000);
    let got = everything(device, shape, &choice, 40_000);
    compare(device, &format!("{shape:?}"), &got, &expected, F32);
}

/// Every operation, on shapes that fill no tile.
pub fn agree_with_the_reference<D: SaeOps>(devices: &[D]) {
    agree_but_for_rounding(devices, F32);
}

/// … where what is gathered may be off by `gathered`.
pub fn agree_but_for_rounding<D: SaeOps>(devices: &[D], gathered: f64) {
    let oracle = Reference::<f64>::new();
    // Few edges a token, and many of them: both ways to gather.
    for (shape, choice) in [
        (
            Shape {
                tokens: 45,
                d: 37,
                latents: 101,
            },
            Choice::TopK(6, None),
        ),
        (
            Shape {
                tokens: 45,
                d: 170,
                latents: 301,
            },
            Choice::Above,
        ),
        (
            Shape {
                tokens: 40,
                d: 64,
                latents: 90,
            },
            Choice::TopK(90, None),
        ),
        (
            Shape {
                tokens: 3,
                d: 5,
                latents: 7,
            },
            Choice::Batch(4),
        ),
        // Latents that fire for nearly every token, and others that seldom do.
        (
            Shape {
                tokens: 400,
                d: 12,
                latents: 50,
            },
            Choice::TopK(20, None),
        ),
        // All of them fire for all.
        (
            Shape {
                tokens: 290,
                d: 5,
                latents: 9,
            },
            Choice::TopK(9, None),
        ),
        // Rows of 16 bytes' multiples: edges that fit a tile, more than fit, and several tiles.
        (
            Shape {
                tokens: 9,
                d: 520,
                latents: 101,
            },
            Choice::TopK(6, None),
        ),
        (
            Shape {
                tokens: 12,
                d: 260,
                latents: 301,
            },
            Choice::Above,
        ),
        // No edges at all.
        (
            Shape {
                tokens: 4,
                d: 8,
                latents: 5,
            },
            Choice::Batch(0),
        ),
    ] {
        let expected = everything(&oracle, shape, &choice, shape.latents / 3);
        for device in devices {
            let got = everything(device, shape, &choice, shape.latents / 3);
            let most = |what: &str| if what == "outer" { gathered } else { F32 };
            compare_each(device, &format!("{shape:?}"), &got, &expected, most);
        }
    }
    for (rows, d) in [(2, 1), (300, 37), (90, 132), (20, 8192)] {
        let expected = dense(&oracle, rows, d);
        for device in devices {
            compare(
                device,
                &format!("{rows}x{d}"),
                &dense(device, rows, d),
                &expected,
                F32,
            );
        }
    }
}

/// Results as bits.
pub fn bits(results: Vec<(String, Vec<f64>)>) -> Vec<(String, Vec<u64>)> {
    let to_bits = |values: Vec<f64>| values.iter().map(|v| v.to_bits()).collect();
    results
        .into_iter()
        .map(|(what, values)| (what, to_bits(values)))
        .collect()
}

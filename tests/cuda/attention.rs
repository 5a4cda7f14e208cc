//! Attention in tiles, at shapes that fill none, against the f64 reference.

use super::device_suite::{down, fine, up};
use super::lm::{SCHEDULES, assert_close, scheduled};
use backpropd::device::lm::{Attention, LmOps, Norm, NormKind, QkNorm, RopeTable, Span};
use backpropd::device::reference::Reference;

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

fn span(start: usize, len: usize) -> Span {
    Span { start, len }
}

fn base() -> Case {
    Case {
        spans: vec![span(0, 70)],
        rows: 70,
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        softcap: None,
        window: None,
        rope: 8,
        qk_norm: "off",
    }
}

/// Tiles that are cut short, contexts that begin within one, padding, windows, wide heads.
fn cases() -> Vec<Case> {
    let wide = |heads, kv_heads, head_dim, rope| Case {
        heads,
        kv_heads,
        head_dim,
        rope,
        ..base()
    };
    vec![
        base(),
        Case {
            spans: vec![span(0, 1)],
            rows: 1,
            ..base()
        },
        wide(6, 3, 20, 6),
        Case {
            softcap: Some(0.7),
            ..wide(3, 3, 5, 0)
        },
        Case {
            window: Some(1),
            ..base()
        },
        Case {
            window: Some(7),
            qk_norm: "per head",
            ..base()
        },
        Case {
            window: Some(33),
            qk_norm: "full width",
            ..wide(4, 2, 8, 8)
        },
        // Padding before, behind and around; a context of padding alone.
        Case {
            spans: vec![span(3, 10), span(13, 150), span(170, 0), span(175, 65)],
            rows: 250,
            ..base()
        },
        Case {
            spans: vec![span(5, 300)],
            rows: 310,
            window: Some(100),
            softcap: Some(2.0),
            ..base()
        },
        wide(4, 2, 64, 64),
        wide(2, 1, 72, 16),
        wide(2, 2, 128, 128),
        wide(2, 1, 200, 8),
        Case {
            spans: vec![span(0, 130)],
            rows: 130,
            ..wide(1, 1, 256, 0)
        },
        wide(1, 1, 264, 0),
    ]
}

fn attend<D: LmOps>(device: &D, case: &Case, rounded: bool, qkv: &[f64]) -> Vec<f64> {
    let longest = case.spans.iter().map(|s| s.len).max().unwrap();
    let angles = fine(longest * case.rope / 2, 5);
    let turn = |f: fn(f64) -> f64| {
        let values: Vec<f64> = angles.iter().map(|a| f(*a)).collect();
        up(device, &values)
    };
    let rope = RopeTable {
        cos: turn(f64::cos),
        sin: turn(f64::sin),
        dim: case.rope,
    };
    let norm = |width, seed| Norm {
        kind: NormKind::Rms,
        eps: 1e-5,
        weight: up(device, &fine(width, seed)),
        bias: None,
    };
    let d = case.head_dim;
    let qk_norm = match case.qk_norm {
        "per head" => QkNorm::PerHead(norm(d, 7), norm(d, 9)),
        "full width" => QkNorm::FullWidth(norm(case.heads * d, 7), norm(case.kv_heads * d, 9)),
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
        rounded,
    };
    assert_eq!(qkv.len(), case.rows * work.qkv_width());
    let mut qkv = up(device, qkv);
    let mut out = up(device, &fine(case.rows * case.heads * d, 4));
    device.attention(&work, &mut qkv, &mut out).unwrap();
    down(device, &out)
}

fn qkv(case: &Case) -> Vec<f64> {
    let width = (case.heads + 2 * case.kv_heads) * case.head_dim;
    fine(case.rows * width, 3)
}

#[test]
fn tiles_of_queries_agree_with_the_reference_at_awkward_shapes() {
    for schedule in SCHEDULES {
        let Some(device) = scheduled(schedule) else {
            return;
        };
        for case in cases() {
            let expected = attend(&Reference::<f64>::new(), &case, false, &qkv(&case));
            let got = attend(&device, &case, false, &qkv(&case));
            assert_close(&got, &expected, 2e-5, &format!("{case:?}"));
        }
    }
}

/// Values are within 1, and each weight loses 2⁻⁹ of itself at most: so does their mix, and what
/// the reference gets is rounded already. Where angles or norms come between, queries and keys
/// are rounded once more, and scores with them.
#[test]
fn tiles_in_bf16_agree_with_the_reference_at_awkward_shapes() {
    for schedule in SCHEDULES {
        let Some(device) = scheduled(schedule) else {
            return;
        };
        for case in cases() {
            let near = |v: &f64| half::bf16::from_f32(*v as f32).to_f64();
            let qkv: Vec<f64> = qkv(&case).iter().map(near).collect();
            let expected = attend(&Reference::<f64>::new(), &case, false, &qkv);
            let got = attend(&device, &case, true, &qkv);
            let pairs = got.iter().zip(&expected);
            let worst = pairs.fold(0.0_f64, |most, (a, b)| most.max((a - b).abs()));
            let most = match (case.rope, case.qk_norm) {
                (0, "off") => 2.0_f64.powi(-9) + 1e-5,
                _ => 2.0_f64.powi(-8),
            };
            // NaN must not pass for small.
            let finite = got.iter().all(|v| v.is_finite());
            assert!(finite && worst <= most, "{case:?}: {worst}");
        }
    }
}

/// … wherever it lies in a batch, and whatever lies around it.
#[test]
fn a_context_gives_the_same_bits_in_any_batch() {
    let Some(device) = scheduled(77) else {
        return;
    };
    let alone = Case {
        spans: vec![span(0, 150)],
        rows: 150,
        window: Some(90),
        ..base()
    };
    let packed = Case {
        spans: vec![span(0, 37), span(40, 150), span(190, 20)],
        rows: 215,
        ..alone.clone()
    };
    let width = 4 * alone.head_dim;
    let all: Vec<f64> = qkv(&packed);
    let mut around = all.clone();
    for (i, value) in around.iter_mut().enumerate() {
        if !(40..190).contains(&(i / width)) {
            *value = f64::NAN;
        }
    }
    for rounded in [false, true] {
        let here = attend(&device, &alone, rounded, &all[40 * width..190 * width]);
        for batch in [&all, &around] {
            let there = attend(&device, &packed, rounded, batch);
            let out = alone.heads * alone.head_dim;
            assert!(here.iter().all(|v| v.is_finite()));
            assert_eq!(here, there[40 * out..190 * out], "rounded: {rounded}");
        }
    }
}

/// Rows without keys get 0, whatever the memory held.
#[test]
fn padding_rows_get_zeros() {
    let Some(device) = scheduled(1) else {
        return;
    };
    let case = Case {
        spans: vec![span(3, 5), span(80, 2)],
        rows: 150,
        ..base()
    };
    for (rounded, head_dim) in [(false, 8), (true, 8), (false, 264)] {
        let case = Case {
            head_dim,
            ..case.clone()
        };
        let out = attend(&device, &case, rounded, &qkv(&case));
        let width = case.heads * head_dim;
        for (r, row) in out.chunks(width).enumerate() {
            let real = (3..8).contains(&r) || (80..82).contains(&r);
            assert_eq!(row.iter().all(|v| *v == 0.0), !real, "row {r}");
        }
    }
}

//! The cost model of `kernels/README.md`: what each kernel of a step moves and multiplies, in closed
//! form.

use backpropd::domain::Amp;

/// A step of TopK, or its language model's attention.
pub struct Shape {
    pub tokens: usize,
    pub d: usize,
    pub latents: usize,
    pub k: usize,
    /// Latents whose pre-activations give the bounds.
    pub first: usize,
    pub amp: Amp,
    pub wgmma: bool,
}

/// A kernel's parameter, `adam.grad`: bytes that warps ask for, that are read at all, and that are
/// written; each may be off by a share of `within`. Or a kernel, `append_bf16`: the pairs of factors
/// that it multiplies on tensor cores, first.
pub struct Line {
    pub of: String,
    pub bytes: [f64; 3],
    pub within: f64,
}

/// A closed form that is exact.
fn exact(of: &str, bytes: [f64; 3]) -> Line {
    about(of, bytes, 0.0)
}

/// One that depends on which latents are chosen.
fn about(of: &str, bytes: [f64; 3], within: f64) -> Line {
    let of = of.to_owned();
    Line { of, bytes, within }
}

/// What a lone number costs.
const SECTOR: f64 = 32.0;

fn up_to(n: f64, multiple: f64) -> f64 {
    (n / multiple).ceil() * multiple
}

/// All that has a closed form, of one step of TopK.
pub fn of_a_step(shape: &Shape) -> Vec<Line> {
    let mut lines = dense_rest(shape);
    lines.extend(sums_by_latent(shape));
    lines.extend(by_token(shape));
    lines.extend(roundings(shape));
    lines.extend(products(shape));
    lines.extend(if shape.amp == Amp::Off {
        filter(shape)
    } else {
        lists(shape)
    });
    lines
}

/// b tokens, d columns, f latents, e edges.
fn numbers(shape: &Shape) -> [f64; 4] {
    let [b, d, f, k] = [shape.tokens, shape.d, shape.latents, shape.k].map(|n| n as f64);
    [b, d, f, b * k]
}

/// Each waits for memory alone, and passes once over what it is given.
fn dense_rest(shape: &Shape) -> Vec<Line> {
    let [b, d, f, _] = numbers(shape);
    let (matrix, all) = (4.0 * f * d, 4.0 * (2.0 * f * d + f + d));
    // The batch twice for its spread, G for b_dec, W_enc for what its center does.
    let columns = 4.0 * d * (3.0 * b + f);
    // Warps of 32 columns each ask for a row's weight or a column's mean.
    let weights = SECTOR * f * d / 32.0;
    // With `amp` W_enc's rounding is written with it.
    let (alone, with) = match shape.amp {
        Amp::Off => (all, 0.0),
        _ => (all - matrix, matrix),
    };
    vec![
        // 28 bytes a parameter.
        exact("adam.param", [alone, alone, alone]),
        exact("adam.grad", [alone, alone, 0.0]),
        exact("adam.mean", [alone, alone, alone]),
        exact("adam.square", [alone, alone, alone]),
        // … and 2.
        exact("adam_rounded.param", [with, with, with]),
        exact("adam_rounded.grad", [with, with, 0.0]),
        exact("adam_rounded.mean", [with, with, with]),
        exact("adam_rounded.square", [with, with, with]),
        exact("adam_rounded.rounded", [0.0, 0.0, with / 2.0]),
        exact("square_partials.input", [all, all, 0.0]),
        // As both factors of its product, as it is written; a compiler may see that they are one.
        exact("row_norms.w", [2.0 * matrix, matrix, 0.0]),
        exact("row_norms.out", [0.0, 0.0, SECTOR * f]),
        exact("column_partials.input", [columns, columns, 0.0]),
        exact("column_partials.weights", [weights, 4.0 * f, 0.0]),
        exact("column_partials.means", [8.0 * b * d, 8.0 * d, 0.0]),
    ]
}

/// Two sums of rows and three of numbers by latent, and the sort for them.
fn sums_by_latent(shape: &Shape) -> Vec<Line> {
    let [b, d, f, e] = numbers(shape);
    let (name, value) = match shape.amp {
        Amp::Off => ("outer_grad", 4.0),
        _ => ("outer_grad_bf16", 2.0),
    };
    let of = |parameter: &str| format!("{name}.{parameter}");
    let row = value * d;
    let mut lines = vec![
        // A row an edge, twice; what is written, once a latent.
        exact(&of("rows"), [2.0 * e * row, 2.0 * b * row, 0.0]),
        exact(&of("out"), [0.0, 0.0, 2.0 * 4.0 * f * d]),
        // An edge's token and value lie anywhere.
        exact(&of("token"), [2.0 * SECTOR * e, 2.0 * 4.0 * e, 0.0]),
        exact(&of("values"), [2.0 * SECTOR * e, 2.0 * 4.0 * e, 0.0]),
        // Where a latent's edges begin and end; with a few more for long ones.
        about(
            &of("starts"),
            [4.0 * SECTOR * f, 2.0 * 4.0 * (f + 8.0), 0.0],
            0.03,
        ),
        // Four bytes an edge go anywhere, twice; neighbours seldom.
        about("radix_scatter.to_keys", [0.0, 0.0, 2.0 * SECTOR * e], 0.35),
        about(
            "radix_scatter.to_values",
            [0.0, 0.0, 2.0 * SECTOR * e],
            0.35,
        ),
        exact("radix_scatter.keys", [8.0 * e, 8.0 * e, 0.0]),
        exact("radix_count.keys", [8.0 * e, 8.0 * e, 0.0]),
    ];
    if shape.amp == Amp::Off {
        // A latent's block has the center of W_enc's rows, out of L2.
        lines.push(exact(&of("center"), [4.0 * f * d, 4.0 * d, 0.0]));
    }
    for name in ["latent_sums", "count_fired"] {
        let of = |parameter: &str| format!("{name}.{parameter}");
        lines.push(exact(&of("values"), [SECTOR * e, 4.0 * e, 0.0]));
        let starts = [2.0 * SECTOR * f, up_to(4.0 * (f + 1.0), SECTOR), 0.0];
        lines.push(exact(&of("starts"), starts));
    }
    lines.push(exact("latent_sums.out", [0.0, 0.0, SECTOR * f]));
    lines.push(exact(
        "count_fired.counts",
        [SECTOR * f, 4.0 * f, SECTOR * f],
    ));
    lines
}

/// Codes, what they reconstruct, and the gradients of their values.
fn by_token(shape: &Shape) -> Vec<Line> {
    let [b, d, f, e] = numbers(shape);
    let (row, edges, ends) = (4.0 * d, 4.0 * e, 2.0 * SECTOR * b);
    let row_ptr = up_to(4.0 * (b + 1.0), SECTOR);
    // Of so many choices among f.
    let chosen = f * (1.0 - (-e / f).exp());
    let mut lines = vec![
        // A row of W_dec an edge, once.
        about("reconstruct_tiles.w", [e * row, chosen * row, 0.0], 0.05),
        exact("reconstruct_tiles.y", [b * row, b * row, 0.0]),
        exact("reconstruct_tiles.base", [b * row, row, 0.0]),
        exact("reconstruct_tiles.out", [0.0, 0.0, b * row]),
        exact("reconstruct_tiles.grad", [0.0, 0.0, b * row]),
        exact("reconstruct_tiles.dots", [0.0, 0.0, edges]),
        exact("topk_order.keys", [2.0 * edges, 2.0 * edges, 0.0]),
        exact("topk_order.row_ptr", [0.0, 0.0, SECTOR * (b + 1.0)]),
        exact("edge_tokens.row_ptr", [ends, row_ptr, 0.0]),
        exact("activate_backward.row_ptr", [ends, row_ptr, 0.0]),
        exact("activate_backward.losses", [0.0, 0.0, 2.0 * SECTOR * b]),
    ];
    let read = |of: &str| exact(of, [edges, edges, 0.0]);
    let written = |of: &str| exact(of, [0.0, 0.0, edges]);
    lines.extend(
        [
            "reconstruct_tiles.latents",
            "reconstruct_tiles.values",
            "topk_order.pres",
            "activate.pre",
            "activate_backward.pre",
            "activate_backward.da",
            "activate_backward.latents",
        ]
        .map(read),
    );
    lines.extend(
        [
            "topk_order.latents",
            "topk_order.edges",
            "edge_tokens.token",
            "activate.values",
            "activate_backward.dp",
        ]
        .map(written),
    );
    lines
}

/// Factors of products: x and, in a run's first step, W_enc. With `amp` also the rows that are gathered: x and G.
fn roundings(shape: &Shape) -> Vec<Line> {
    let [b, d, f, _] = numbers(shape);
    let factors = 4.0 * d * (b + f);
    let gathered = if shape.amp == Amp::Off { 0.0 } else { 2.0 };
    let (rows, wide) = match shape.wgmma {
        true => (4.0 * d * gathered * b, gathered / 2.0),
        false => (factors + 4.0 * d * gathered * b, 1.0 + gathered / 2.0),
    };
    // A center of each token, out of L1.
    let center = 4.0 * b * d;
    let padded = 2.0 * d * (up_to(b, 128.0) + up_to(f, 256.0));
    vec![
        exact("round_to_rows.input", [rows, rows, 0.0]),
        // … by four numbers.
        exact(
            "round_to_rows.center",
            [wide * 4.0 * center, wide * 4.0 * d, 0.0],
        ),
        exact("round_to_rows.out", [0.0, 0.0, rows / 2.0]),
        // A lane has a sector in two loads, and half of one in two stores; a center by eight numbers.
        exact("round_to_panels.input", [2.0 * factors, factors, 0.0]),
        exact("round_to_panels.center", [8.0 * center, 4.0 * d, 0.0]),
        exact("round_to_panels.out", [0.0, 0.0, 2.0 * padded]),
    ]
}

/// Stretches of latents: the first, and as many as were seen, or the filter's, where the second is
/// twice the first.
fn stretches(shape: &Shape) -> Vec<f64> {
    let [first, all] = [shape.first, shape.latents].map(|n| n as f64);
    let (mut seen, mut list) = (first, Vec::new());
    if shape.amp == Amp::Off {
        list.push(2.0 * first);
        seen = 2.0 * first;
    }
    while seen < all {
        list.push(seen.min(all - seen));
        seen += list[list.len() - 1];
    }
    list
}

/// What a product of these widths copies of both factors, [m, d] and [., d], and multiplies: tiles of
/// 128 rows and `side` columns have their rows and columns each.
fn tiles(shape: &Shape, widths: &[f64]) -> [f64; 4] {
    let [b, d, ..] = numbers(shape);
    let (side, d, rows) = match shape.wgmma {
        // Panels are whole.
        true => (256.0, up_to(d, 64.0), up_to(b, 128.0)),
        false => (128.0, d, b),
    };
    let across: f64 = widths.iter().map(|n| (n / side).ceil()).sum();
    let columns: f64 = match shape.wgmma {
        true => across * side,
        false => widths.iter().sum(),
    };
    let down = (b / 128.0).ceil();
    let pairs = down * 128.0 * across * side * d;
    [
        across * 2.0 * rows * d,
        down * 2.0 * columns * d,
        pairs,
        down * across,
    ]
}

fn products(shape: &Shape) -> Vec<Line> {
    let [b, d, f, _] = numbers(shape);
    let first = shape.first as f64;
    let (product, append) = match (shape.wgmma, shape.amp) {
        (true, Amp::Off) => ("product_hopper", "filter_hopper"),
        (true, _) => ("product_hopper", "append_hopper"),
        (false, Amp::Off) => ("product_bf16", "filter_bf16"),
        (false, _) => ("product_bf16", "append_bf16"),
    };
    let rows = 2.0 * d * if shape.wgmma { up_to(b, 128.0) } else { b };
    let widths = stretches(shape);
    let (seen, times) = (widths.iter().sum::<f64>(), widths.len() as f64);
    assert!(seen == f || seen + first == f);
    let [a, columns, pairs, _] = tiles(shape, &[first]);
    let mut lines = vec![
        exact(product, [pairs, 0.0, 0.0]),
        exact(&format!("{product}.a"), [a, rows, 0.0]),
        exact(&format!("{product}.b"), [columns, 2.0 * d * first, 0.0]),
        // Four lanes share a sector, and write each second number of it at a time.
        exact(&format!("{product}.c"), [0.0, 0.0, 2.0 * 4.0 * b * first]),
    ];
    let [a, columns, pairs, count] = tiles(shape, &widths);
    // Each of a tile's warps asks for numbers of its columns: two rows of them, or four of sixteen.
    let asked = count
        * if shape.wgmma {
            8.0 * 8.0 * 256.0
        } else {
            8.0 * 4.0 * 64.0
        };
    lines.extend([
        exact(append, [pairs, 0.0, 0.0]),
        exact(&format!("{append}.a"), [a, times * rows, 0.0]),
        exact(&format!("{append}.b"), [columns, 2.0 * d * seen, 0.0]),
    ]);
    // … and of those of sums that pass, which a warp of mma.sync has column by column.
    let passing = passing(shape) * SECTOR;
    let (apart, places) = if shape.wgmma {
        (0.8, 0.36)
    } else {
        (0.16, 0.7)
    };
    let again = apart * passing;
    for name in ["bias", "scale"] {
        let bytes = [asked + again, 4.0 * seen, 0.0];
        lines.push(about(&format!("{append}.{name}"), bytes, 0.3));
    }
    if shape.amp == Amp::Off {
        let bytes = [2.0 * asked + again, 8.0 * seen, 0.0];
        lines.push(about(&format!("{append}.of_columns"), bytes, 0.3));
    }
    // A sum that passes goes anywhere in its token's list.
    for name in [
        "keys",
        if shape.amp == Amp::Off {
            "uppers"
        } else {
            "pres"
        },
    ] {
        let bytes = [0.0, 0.0, places * passing];
        lines.push(about(&format!("{append}.{name}"), bytes, 0.4));
    }
    lines
}

/// Sums that pass a bound: about k a token and stretch, or nearly twice that of what may reach it.
fn passing(shape: &Shape) -> f64 {
    let [.., e] = numbers(shape);
    let each = if shape.amp == Amp::Off { 1.8 } else { 1.0 };
    each * e * stretches(shape).len() as f64
}

/// What may be among the best, and what is computed anew of it.
fn filter(shape: &Shape) -> Vec<Line> {
    let [b, d, f, e] = numbers(shape);
    let first = shape.first as f64;
    let factors = 4.0 * d * (b + f);
    let p = 4.0 * b * first;
    let row = 4.0 * d;
    let lists = 8.0 * 2.5 * e * stretches(shape).len() as f64;
    vec![
        // A lane has a sector in eight loads, of the row and of the center, and 16 bytes in two.
        exact("margins.input", [8.0 * factors, factors, 0.0]),
        exact("margins.center", [8.0 * 4.0 * b * d, 4.0 * d, 0.0]),
        exact("margins.rounded", [factors, factors / 2.0, 0.0]),
        exact("filter_bounds.p", [p, p, 0.0]),
        exact("filter_bounds.scale", [p, 4.0 * first, 0.0]),
        exact("filter_bounds.of_columns", [2.0 * p, 8.0 * first, 0.0]),
        // Bit by bit, out of L1.
        about("filter_fold.keys", [16.0 * lists, lists, 0.5 * lists], 0.3),
        // Hardly more than k rows of W_enc a token.
        about("filter_exact.w", [1.1 * e * row, 0.8 * f * row, 0.0], 0.1),
        about("filter_exact.x", [1.5 * b * row, b * row, 0.0], 0.1),
        about("filter_exact.center", [1.5 * b * row, row, 0.0], 0.1),
        // Bit by bit again, and then in the order of keys.
        about(
            "filter_exact.lists",
            [40.0 * 8.0 * e, 1.4 * 8.0 * e, 1.7 * 8.0 * e],
            0.1,
        ),
    ]
}

/// The best of what passed.
fn lists(shape: &Shape) -> Vec<Line> {
    let [b, .., e] = numbers(shape);
    let first = shape.first as f64;
    let (p, lists) = (4.0 * b * first, 8.0 * passing(shape));
    vec![
        // Those that are chosen are read again.
        about("topk_first.p", [p + SECTOR * e, p, 0.0], 0.05),
        exact("topk_first.scale", [p, 4.0 * first, 0.0]),
        // Bit by bit, out of L1.
        about("topk_fold.from_keys", [18.0 * lists, 1.2 * lists, 0.0], 0.3),
        about("topk_fold.keys", [15.0 * lists, lists, lists], 0.3),
    ]
}

/// Attention of a context of `rows`, a multiple of 128, of two heads of 64. In f32 by pairs of 64
/// queries and 64 keys, each with queries, keys and values; in bf16 queries once, and 128 of them
/// share keys and values.
pub fn of_attention(rows: usize) -> Vec<Line> {
    let n = rows as f64;
    let (heads, side, d) = (2.0, 64.0, 64.0);
    let pairs = |queries: f64| {
        (1..=(n / queries) as u32)
            .map(|q| f64::from(q) * queries / side)
            .sum::<f64>()
    };
    let tile = heads * side * d;
    let all = 3.0 * heads * n * d;
    vec![
        exact(
            "attention_64.qkv",
            [pairs(side) * 3.0 * 4.0 * tile, 4.0 * all, 0.0],
        ),
        // A lane has four neighbours, and writes one at a time.
        exact("attention_64.out", [0.0, 0.0, 4.0 * 4.0 * heads * n * d]),
        exact("round_to_rows.input", [4.0 * all, 4.0 * all, 0.0]),
        exact("round_to_rows.out", [0.0, 0.0, 2.0 * all]),
        exact(
            "attention_bf16_64.qkv",
            [
                2.0 * heads * n * d + pairs(128.0) * 2.0 * 2.0 * tile,
                2.0 * all,
                0.0,
            ],
        ),
        exact("attention_bf16_64.out", [0.0, 0.0, 4.0 * heads * n * d]),
        // Scores and what they weigh; a warp skips the keys that none of its rows sees.
        exact(
            "attention_bf16_64",
            [2.0 * pairs(side) * side * tile, 0.0, 0.0],
        ),
    ]
}

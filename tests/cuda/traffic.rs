//! What kernels move and multiply, counted by the emulated GPU (`tests/cuda_double/traffic.h`),
//! beside what the ladder in `kernels/README.md` says of them.
//!
//! Bytes are in sectors of 32, as a GPU's counters have them. What a warp asks for may come out of
//! L1 or L2; what is read at all is what comes from memory once. A kernel that reads its rows twice
//! asks for twice as much here, whatever a cache would hide.

use super::cuda_double::{Gpu, build, emulated, real};
use super::device_suite::{fine, up};
use super::traffic_model::{Line, Shape, of_a_step, of_attention};
use backpropd::device::lm::{Attention, LmOps, QkNorm, Span};
use backpropd::domain::Amp;
use backpropd::domain::schedule::StepSettings;
use backpropd::sae::spec::{Pool, SaeSpec, TopK, Variant};
use backpropd::sae::{Batch, OptimSpec, SaeTrainer, Sample};
use std::collections::BTreeMap;

/// Of every kernel, the names of its parameters.
fn parameters() -> BTreeMap<&'static str, Vec<&'static str>> {
    let text = include_str!("../../src/device/cuda/kernels.rs");
    let (_, text) = text.split_once("kernels! {").unwrap();
    let last = |text: &'static str| {
        let word = text.rsplit(|c: char| c.is_whitespace() || "{,(".contains(c));
        word.into_iter().next().unwrap()
    };
    let calls = text.split(';').filter_map(|call| call.rsplit_once('('));
    let all = calls.map(|(name, list)| (last(name), list.split(": ").map(last).collect()));
    all.collect()
}

/// What was counted of a kernel's parameter: asked for, read at all, written.
fn counted(gpu: &Gpu, kernel: &str, index: usize) -> [f64; 3] {
    let of = |what: &str| gpu.get(&format!("{kernel}/{index}/{what}")) as f64;
    [of("read") + of("copied"), of("distinct"), of("written")]
}

/// Compares all kernels that ran with their lines, and prints a table; says what is wrong.
fn compare(gpu: &Gpu, what: &str, lines: &[Line]) -> Vec<String> {
    let (mut wrong, mut unpriced, mut moved) = (Vec::new(), Vec::new(), 0.0);
    println!(
        "\n{what}\n{:22}{:>9}{:>12}{:>12}{:>12}{:>12}{:>8}{:>11}{:>8}",
        "kernel", "launches", "asked", "read", "written", "model", "ratio", "multiplied", "ratio"
    );
    for (kernel, names) in parameters() {
        let launches = gpu.get(&format!("{kernel}/launches"));
        if launches == 0 {
            continue;
        }
        let (mut sums, mut model, mut priced) = ([0.0; 3], 0.0, 0.0);
        for (i, name) in names.iter().enumerate() {
            let got = counted(gpu, kernel, i);
            (0..3).for_each(|j| sums[j] += got[j]);
            let key = format!("{kernel}.{name}");
            let Some(line) = lines.iter().find(|line| line.of == key) else {
                continue;
            };
            model += line.bytes[0] + line.bytes[2];
            priced += got[0] + got[2];
            for (j, sort) in ["asks for", "reads", "writes"].into_iter().enumerate() {
                let off = (got[j] - line.bytes[j]).abs();
                if off > line.within * line.bytes[j] {
                    wrong.push(format!(
                        "{what}: {key} {sort} {}, not {}",
                        got[j], line.bytes[j]
                    ));
                }
            }
        }
        let pairs = gpu.get(&format!("{kernel}/multiplied")) as f64;
        let expected = lines
            .iter()
            .find(|line| line.of == kernel)
            .map_or(0.0, |line| line.bytes[0]);
        if pairs != expected {
            wrong.push(format!(
                "{what}: {kernel} multiplies {pairs} pairs, not {expected}"
            ));
        }
        let all = sums[0] + sums[2];
        moved += all;
        unpriced.push((all, priced, kernel));
        let ratio = |a: f64, b: f64| {
            if b > 0.0 {
                format!("{:.2}", a / b)
            } else {
                String::new()
            }
        };
        println!(
            "{kernel:22}{launches:>9}{:>12}{:>12}{:>12}{model:>12.0}{:>8}{pairs:>11}{:>8}",
            sums[0],
            sums[1],
            sums[2],
            ratio(all, model),
            ratio(pairs, expected)
        );
    }
    // What hardly shows needs no price.
    for (all, priced, kernel) in unpriced {
        if all > moved / 100.0 && priced < 0.8 * all {
            wrong.push(format!(
                "{what}: of {kernel}'s {all} bytes {priced} are in the model"
            ));
        }
    }
    wrong
}

/// A step of TopK on a GPU of its own.
fn step(shape: &Shape) -> Gpu {
    let gpu = emulated().unwrap();
    let cuda = gpu.open().with_amp(shape.amp).with_first(shape.first);
    let cuda = if shape.wgmma {
        cuda
    } else {
        cuda.without_wgmma()
    };
    let topk = TopK::new(shape.k as f64, Pool::Token);
    let spec = SaeSpec::new(shape.latents, Variant::TopK(topk));
    let (optim, d) = (OptimSpec::default(), shape.d);
    let mut trainer = SaeTrainer::new(&cuda, &spec, &optim, d, d, 3, Sample::EMPTY).unwrap();
    let x = up(&cuda, &fine(shape.tokens * d, 1));
    let batch = Batch {
        x: &x,
        target: None,
        tokens: shape.tokens,
    };
    let settings = StepSettings {
        lr: 1e-3,
        sparsity: 1.0,
        k: None,
    };
    trainer
        .step(&cuda, &batch, shape.tokens, &settings)
        .unwrap();
    gpu
}

/// Attention of one context of `rows`, of two heads of 64, on a GPU of its own.
fn attend(rows: usize, rounded: bool) -> Gpu {
    let gpu = emulated().unwrap();
    let cuda = gpu.open();
    let work = Attention {
        spans: &[Span {
            start: 0,
            len: rows,
        }],
        rows,
        heads: 2,
        kv_heads: 2,
        head_dim: 64,
        scale: 0.125,
        softcap: None,
        window: None,
        rope: None,
        qk_norm: &QkNorm::Off,
        rounded,
    };
    let mut qkv = up(&cuda, &fine(rows * work.qkv_width(), 1));
    let mut out = up(&cuda, &fine(rows * 128, 2));
    cuda.attention(&work, &mut qkv, &mut out).unwrap();
    gpu
}

#[test]
fn kernels_move_what_the_ladder_says() {
    if real().is_some() {
        return;
    }
    if !build::is_gcc() {
        return build::say("SKIPPED: accesses of kernels are counted as GCC has them");
    }
    if std::env::var_os("BACKPROPD_COUNTED").is_none() {
        let variant = build::Variant {
            sanitizer: build::Sanitizer::Traffic,
            ..build::Variant::default()
        };
        let Some(folder) = build::build(&variant) else {
            return;
        };
        // This program has other stand-ins.
        let own = std::env::current_exe().unwrap();
        let output = std::process::Command::new(own)
            .args(["traffic::kernels_move", "--nocapture"])
            .env("CUDA_DOUBLE_FOLDER", folder)
            .env("BACKPROPD_COUNTED", "1")
            .output()
            .unwrap();
        print!("{}", String::from_utf8_lossy(&output.stdout));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        return;
    }
    let mut wrong = Vec::new();
    for (amp, wgmma) in [
        (Amp::Off, true),
        (Amp::Off, false),
        (Amp::Bf16, true),
        (Amp::Bf16, false),
    ] {
        let shape = Shape {
            tokens: 192,
            d: 128,
            latents: 1024,
            k: 8,
            first: 256,
            amp,
            wgmma,
        };
        let way = if wgmma { "wgmma" } else { "mma.sync" };
        let what = format!("a step with amp {amp:?}, {way}");
        wrong.extend(compare(&step(&shape), &what, &of_a_step(&shape)));
    }
    for rounded in [false, true] {
        let rows = 256;
        let what = format!("attention, rounded: {rounded}");
        wrong.extend(compare(&attend(rows, rounded), &what, &of_attention(rows)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

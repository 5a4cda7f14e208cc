//! The benchmarks on an emulated GPU, through the real binary: that what they print is whole. Its
//! times are those of the emulator.

mod cuda_double;

use serde_json::Value;
use std::process::{Command, Output};

/// `backpropd bench …` on the emulated device; `None` without an emulator.
fn bench(args: &[&str]) -> Option<Output> {
    let folder = cuda_double::double()?.folder();
    let mut command = Command::new(env!("CARGO_BIN_EXE_backpropd"));
    command.arg("bench").args(args);
    command.env("LD_LIBRARY_PATH", folder);
    command.env("BACKPROPD_CACHE", folder.join("cache"));
    Some(command.output().unwrap())
}

fn said(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn positive(figures: &Value, keys: &[&str]) {
    for key in keys {
        let value = figures[key].as_f64().unwrap_or(f64::NAN);
        assert!(value.is_finite() && value > 0.0, "{key}: {figures:#}");
    }
}

/// Launches in a call, by the name of the kernel.
fn launches(profile: &Value, name: &str) -> f64 {
    let mut work = profile["work"].as_array().unwrap().iter();
    let row = work.find(|row| row["name"] == name);
    row.map_or(0.0, |row| row["launches"].as_f64().unwrap())
}

/// Shares and what is idle make a whole.
fn is_whole(profile: &Value) {
    let work = profile["work"].as_array().unwrap();
    let shares: f64 = work.iter().map(|row| row["share"].as_f64().unwrap()).sum();
    let [idle, seconds] = ["idle_seconds", "seconds"].map(|key| profile[key].as_f64().unwrap());
    assert!((shares + idle / seconds - 1.0).abs() < 1e-6, "{profile:#}");
}

const STEP: [&str; 8] = [
    "step", "--device", "cuda", "--batch", "70", "--steps", "2", "--shapes",
];

#[test]
fn a_step_is_told_for_each_shape_with_its_floors_and_its_kernels() {
    let args = [&STEP[..], &["24/130/4,32/64/3", "--json"]].concat();
    for amp in ["off", "bf16"] {
        let Some(output) = bench(&[&args[..], &["--amp", amp]].concat()) else {
            return;
        };
        let all: Vec<Value> = said(&output)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(all.len(), 2);
        for (figures, shape) in all.iter().zip([[24, 130, 4], [32, 64, 3]]) {
            let found = ["d_in", "d_sae", "k"].map(|key| figures[key].as_i64().unwrap());
            assert_eq!(found, shape);
            assert_eq!(figures["device"], "cuda:0 (emulated GPU, sm_90a)");
            assert_eq!(figures["amp"], amp);
            positive(
                figures,
                &[
                    "copy_gb_per_second",
                    "bf16_tflops",
                    "f32_tflops",
                    "product_seconds",
                    "product_tflops",
                    "encode_seconds",
                    "step_seconds",
                    "tokens_per_second",
                    "floor_seconds",
                    "floor_share",
                    "peak_memory_mib",
                    "set_up_seconds",
                ],
            );
            let profile = &figures["profile"];
            positive(profile, &["seconds", "waits", "allocations"]);
            is_whole(profile);
            // The encoder; which kernels multiply bf16 depends on GPU and shape.
            let f32 = launches(profile, "product_nt");
            assert_eq!(f32, if amp == "off" { 1.0 } else { 0.0 }, "{profile:#}");
            let rounding = ["round_to_rows", "round_to_panels"].map(|name| launches(profile, name));
            let rounded = rounding.iter().sum::<f64>() > 0.0;
            assert_eq!(rounded, amp == "bf16", "{profile:#}");
            assert!(launches(profile, "adam") >= 1.0, "{profile:#}");
            assert!(launches(profile, "(copy to the host)") >= 1.0);
        }
    }
}

#[test]
fn a_step_of_batchtopk_is_one() {
    let args = [
        &STEP[..],
        &["24/1300/4", "--json", "--batch-topk", "--amp", "bf16"],
    ]
    .concat();
    let Some(output) = bench(&args) else {
        return;
    };
    let figures: Value = serde_json::from_str(said(&output).trim()).unwrap();
    let of = |name| launches(&figures["profile"], name);
    assert!(
        of("batch_emit") > 0.0 && of("topk_order") == 0.0,
        "{figures:#}"
    );
}

#[test]
fn a_step_is_told_to_people() {
    let Some(output) = bench(&[&STEP[..], &["24/130/4", "--auxk"]].concat()) else {
        return;
    };
    let text = said(&output);
    for part in [
        "emulated GPU",
        "d_in 24, d_sae 130, k 4, batch 70, amp off; medians of 2 rounds",
        "encoder product",
        "fused encode",
        "step with AuxK",
        "tokens/s",
        "floors: copy",
        "topk_merge",
        "nothing",
        "the host waits",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

#[test]
fn a_language_model_is_told_with_its_kernels() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/lm/gpt2");
    let args = ["lm", "--device", "cuda:1", "--model", model, "--batch", "2"];
    let args = [&args[..], &["--context", "16", "--repeats", "2"]].concat();
    for (end, blocks) in [(&["--stop-at-layer", "0"][..], 1), (&["--logits"], 3)] {
        let Some(output) = bench(&[&args[..], end, &["--json"]].concat()) else {
            return;
        };
        let figures: Value = serde_json::from_str(&said(&output)).unwrap();
        assert_eq!(figures["device"], "cuda:1 (emulated GPU, sm_90a)");
        assert_eq!(figures["blocks"], blocks);
        positive(
            &figures,
            &[
                "seconds",
                "tokens_per_second",
                "gflops",
                "copy_gb_per_second",
                "bf16_tflops",
                "f32_tflops",
                "peak_memory_mib",
            ],
        );
        let profile = &figures["profile"];
        is_whole(profile);
        assert_eq!(launches(profile, "attention_64"), f64::from(blocks));
        assert_eq!(launches(profile, "loss_tile") > 0.0, blocks == 3);
    }
    let held = &["--precision", "bf16", "--logits", "--json"];
    let output = bench(&[&args[..], held].concat()).unwrap();
    let figures: Value = serde_json::from_str(&said(&output)).unwrap();
    assert_eq!(figures["precision"], "bf16");
    // Four products a block and one of the head, all of them on tensor cores.
    assert_eq!(launches(&figures["profile"], "product_nt"), 0.0);
    let on_tensor_cores = ["product_bf16", "product_hopper"];
    let products = on_tensor_cores.map(|name| launches(&figures["profile"], name));
    assert_eq!(products.iter().sum::<f64>(), 13.0);
    assert_eq!(launches(&figures["profile"], "attention_bf16_64"), 3.0);
    let text = said(&bench(&[&args[..], &["--logits"]].concat()).unwrap());
    for part in [
        "emulated GPU",
        "tokens/s",
        "floors: bf16",
        "attention",
        "nothing",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

#[test]
fn mixed_precision_on_the_cpu_is_refused_in_a_line() {
    let Some(output) = bench(&["step", "--amp", "bf16"]) else {
        return;
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("usage: --amp: the CPU"), "{errors}");
}

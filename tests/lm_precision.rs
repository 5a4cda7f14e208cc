//! Language models whose weights are held in fewer bits.

mod common;
mod cuda_double;

use backpropd::device::cpu::Cpu;
use backpropd::device::cuda::Cuda;
use backpropd::device::lm::LmOps;
use backpropd::device::reference::Reference;
use backpropd::domain::Precision;
use backpropd::lm::{End, HookPoint, Lm, Tokens};
use common::{Fixture, of_kind};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn austen() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart/model")
}

fn summary(fixture: &Fixture, out: &str) -> Value {
    let path = fixture.path(out).join("summary.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Mean cross-entropy of a part of the quickstart's text, in nats.
fn cross_entropy(precision: Precision) -> f64 {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart");
    let tokenizer = austen().join("tokenizer.json");
    let device = Cpu::new(2);
    let mut lm = Lm::load_as(&device, &austen(), precision).unwrap();
    assert_eq!(lm.precision(), precision);
    let tokenizer = backpropd::data::Tokenizer::load(&tokenizer, lm.spec().vocab).unwrap();
    let text = std::fs::read_dir(&text)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "txt"))
        .unwrap();
    let text = std::fs::read_to_string(text).unwrap();
    let start = text.char_indices().nth(20_000).unwrap().0;
    let end = text.char_indices().nth(28_000).unwrap().0;
    let ids = tokenizer.encode(&text[start..end]).unwrap();
    let ids = &ids[..8 * 128];
    let tokens = Tokens::new(ids, 8, 128).unwrap();
    let targets = tokens.next();
    let mut losses = vec![f64::NAN; tokens.rows()];
    let end = End::Losses {
        targets: &targets,
        out: &mut losses,
    };
    let nothing = &mut |_: usize, _: &mut Vec<f32>, _| Ok(());
    lm.forward(&device, &tokens, &[], nothing, end).unwrap();
    let losses: Vec<f64> = losses.into_iter().filter(|loss| !loss.is_nan()).collect();
    assert!(losses.len() > 900);
    losses.iter().sum::<f64>() / losses.len() as f64
}

/// behaviour: engine-07
#[test]
fn fewer_bits_cost_a_little_prediction_and_each_format_its_own() {
    let exact = cross_entropy(Precision::F32);
    assert!(exact < 6.0, "it has learned: {exact}");
    assert_eq!(cross_entropy(Precision::F16), exact, "its files are in f16");
    for (precision, most) in [
        (Precision::Bf16, 0.01),
        (Precision::Int8, 0.01),
        (Precision::Int4, 0.5),
    ] {
        let cost = cross_entropy(precision) - exact;
        assert_ne!(cost, 0.0, "{precision} is really used");
        assert!(cost.abs() < most, "{precision}: {cost} nats");
    }
}

/// behaviour: engine-07
#[test]
fn both_backends_read_the_same_codes() {
    let folder = common::data("lm/llama");
    let ids: Vec<u32> = (0..48).map(|i| i * 7 % 90).collect();
    let tokens = Tokens::new(&ids, 3, 16).unwrap();
    for precision in Precision::ALL {
        let cpu = Cpu::new(2);
        let mut lm = Lm::load_as(&cpu, &folder, precision).unwrap();
        let len = tokens.rows() * lm.spec().vocab;
        let mut found = vec![0.0_f32; len];
        let nothing = &mut |_: usize, _: &mut Vec<f32>, _| Ok(());
        lm.forward(&cpu, &tokens, &[], nothing, End::Logits(&mut found))
            .unwrap();
        let reference = Reference::<f64>::new();
        let mut lm = Lm::load_as(&reference, &folder, precision).unwrap();
        let mut wanted = vec![0.0_f64; len];
        let nothing = &mut |_: usize, _: &mut Vec<f64>, _| Ok(());
        lm.forward(&reference, &tokens, &[], nothing, End::Logits(&mut wanted))
            .unwrap();
        let size = wanted.iter().fold(0.0_f64, |most, v| most.max(v.abs()));
        for (found, wanted) in found.iter().zip(&wanted) {
            let error = (f64::from(*found) - wanted).abs();
            assert!(error <= 2e-5 * size, "{precision}: {found} for {wanted}");
        }
    }
}

/// All hook points and the logits of a few contexts, by name.
fn activations<D: LmOps>(
    device: &D,
    folder: &Path,
    precision: Precision,
) -> Vec<(String, Vec<D::Real>)> {
    let ids: Vec<u32> = (0..63).map(|i| i * i * 7 % 500).collect();
    let tokens = Tokens::new(&ids, 3, 21).unwrap();
    let mut lm = Lm::load_as(device, folder, precision).unwrap();
    let hooks: Vec<HookPoint> = lm.spec().hook_points();
    let mut logits = device.zeros(tokens.rows() * lm.spec().vocab).unwrap();
    let mut all = Vec::new();
    let mut at = |index: usize, value: &mut D::Buf, _: usize| {
        all.push((hooks[index].to_string(), device.download(value)?));
        Ok(())
    };
    let end = End::Logits(&mut logits);
    lm.forward(device, &tokens, &hooks, &mut at, end).unwrap();
    all.push(("logits".to_owned(), device.download(&logits).unwrap()));
    all
}

/// The worst relative error of a tensor of what the GPU computes, beside the CPU with the same codes.
fn worst(gpu: &Cuda, folder: &Path, precision: Precision) -> (f64, String) {
    let expected = activations(&Cpu::new(2), folder, precision);
    let found = activations(gpu, folder, precision);
    let mut worst = (0.0_f64, String::new());
    for ((name, found), (_, expected)) in found.iter().zip(&expected) {
        let square = |v: f32| f64::from(v).powi(2);
        let pairs = found.iter().zip(expected);
        let error: f64 = pairs.map(|(a, b)| square(a - b)).sum();
        let norm: f64 = expected.iter().map(|b| square(*b)).sum();
        let error = (error / norm).sqrt();
        assert!(!error.is_nan(), "{precision} {} {name}", folder.display());
        if error > worst.0 {
            worst = (error, format!("{precision} {} {name}", folder.display()));
        }
    }
    worst
}

/// The models of the golden activations; of the smaller formats those of a few kinds.
fn models(precision: Precision) -> Vec<PathBuf> {
    let models = std::fs::read_dir(common::data("lm")).unwrap();
    let models = models.map(|entry| entry.unwrap().path());
    let few = ["gpt2", "llama", "gemma2"];
    let whole = precision == Precision::Bf16;
    models
        .filter(|path| path.join("config.json").exists())
        .filter(|path| whole || few.iter().any(|name| path.ends_with(name)))
        .collect()
}

/// Both hold the same codes; the GPU rounds weights that are integers times a scale, and with all
/// but f16 also what they multiply, to 8 bits of significand: 2⁻⁹ of each factor at most. Three
/// blocks with sharp attention make that 0.013 of a tensor's length at worst. With f16 nothing is
/// rounded.
#[test]
fn a_gpu_computes_what_the_cpu_computes_of_the_same_codes() {
    let Some(gpu) = cuda_double::gpu() else {
        return;
    };
    let gpu = gpu.open();
    for precision in &Precision::ALL[1..] {
        let found = models(*precision);
        assert!(found.len() >= 3);
        let found = found.iter().map(|folder| worst(&gpu, folder, *precision));
        let (error, what) = found.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        println!("{error:.2e} {what}");
        let (least, most) = match precision {
            Precision::F16 => (0.0, 1e-5),
            _ => (1e-4, 0.02),
        };
        assert!(error < most, "{what}: {error:.2e}");
        assert!(error > least, "{what}: its factors are really rounded");
    }
}

/// With f16 a GPU's bits are those of f32 where the weights are in f16 anyway.
#[test]
fn a_model_of_f16_files_has_the_same_bits_in_f16_as_in_f32() {
    let Some(gpu) = cuda_double::gpu() else {
        return;
    };
    let gpu = gpu.open();
    let [f32, f16] =
        [Precision::F32, Precision::F16].map(|precision| activations(&gpu, &austen(), precision));
    assert_eq!(f32, f16);
}

/// behaviour: train-05
#[test]
fn a_run_holds_the_model_as_asked_and_says_so() {
    let fixture = Fixture::new(4);
    let mut results = Vec::new();
    for precision in Precision::ALL {
        let out = precision.name();
        let set = format!("model.precision={out}");
        let events = fixture.events(out, &["--set", &set]);
        let summary = summary(&fixture, out);
        assert_eq!(summary["model_precision"], out);
        assert_eq!(summary["model_scheme"], precision.scheme());
        let estimate = of_kind(&events, "estimate")[0];
        results.push((
            estimate["parts"]["language model"].as_u64().unwrap(),
            fixture.result(out).tensors,
        ));
        let resolved = std::fs::read_to_string(fixture.path(out).join("run.toml")).unwrap();
        assert!(
            resolved.contains(&format!("precision = \"{out}\"")),
            "{resolved}"
        );
    }
    for (n, (bytes, tensors)) in results.iter().enumerate() {
        for (earlier, others) in &results[..n] {
            assert!(bytes <= earlier, "less memory is estimated");
            assert_ne!(tensors, others, "another model was looked into");
        }
    }
    // 1 byte a weight and 4 for every 64; half a byte and 4 for every 32.
    let [f32, int8, int4] = [0, 3, 4].map(|n| results[n].0 as f64 / results[0].0 as f64 * 4.0);
    assert_eq!(f32, 4.0);
    assert!((1.0625..1.07).contains(&int8), "{int8}");
    assert!((0.625..0.63).contains(&int4), "{int4}");
}

/// behaviour: train-05
#[test]
fn what_does_not_fit_fails_and_names_the_way_to_less() {
    let fixture = Fixture::new(4);
    let model = format!("model.path={}", austen().display());
    let unknown = fixture.run("a", &["--set", "model.precision=int3"]);
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert_eq!(unknown.status.code(), Some(10), "{said}");
    for part in ["model.precision", "int3", "int4"] {
        assert!(said.contains(part), "{said}");
    }
    let estimate = |out: &str, precision: &str| {
        let precision = format!("model.precision={precision}");
        let args = ["--set", &model, "--set", &precision];
        let events = fixture.events(out, &args);
        of_kind(&events, "estimate")[0]["bytes"].as_u64().unwrap()
    };
    let (whole, small) = (estimate("b", "f32"), estimate("c", "int4"));
    let limit = ((whole + small) / 2) >> 20;
    assert!(whole - small > 4 << 20, "{whole} {small}");
    let limit = format!("training.max_memory_mib={limit}");
    let run = |out: &str, precision: &str| {
        let precision = format!("model.precision={precision}");
        let args = ["--set", &model, "--set", &precision, "--set", &limit];
        fixture.run(out, &args)
    };
    let refused = run("d", "f32");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(62), "{said}");
    assert!(said.contains("model.precision"), "{said}");
    assert!(!fixture.path("d").join("summary.json").exists());
    assert!(run("e", "int4").status.success());
    assert_eq!(summary(&fixture, "e")["model_precision"], "int4");
}

#[test]
fn a_run_goes_on_in_its_own_precision_only() {
    let fixture = Fixture::new(4);
    let int8 = ["--set", "model.precision=int8"];
    fixture.events(
        "run",
        &[&int8[..], &["--set", "training.stop_at=2"]].concat(),
    );
    let refused = fixture.run("run", &["--resume"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(42), "{said}");
    assert!(said.contains("model.precision was \"int8\""), "{said}");
    fixture.events("run", &[&int8[..], &["--resume"]].concat());
    fixture.events("whole", &int8);
    // The first half of a run that stops is measured at its end too.
    let [run, whole] = ["run", "whole"].map(|out| fixture.result(out));
    assert_eq!(run.tensors, whole.tensors);
    assert_eq!(run.metrics, whole.metrics);
}

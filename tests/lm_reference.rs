//! Every language model against activations that `transformers` computed.
//!
//! `BACKPROPD_LM_REFS` names another folder of such models: each folder below it holds a
//! model and `ref.safetensors` with `N.ids`, `N.logits` and
//! `N.blocks.L.hook_resid_pre|post`.

mod cuda_double;

use backpropd::device::Real;
use backpropd::device::cpu::Cpu;
use backpropd::device::lm::LmOps;
use backpropd::device::reference::Reference;
use backpropd::domain::Code;
use backpropd::lm::{End, HookPoint, Lm, Tokens};
use backpropd::tensorfile::{Codes, TensorFile};
use std::path::{Path, PathBuf};

const CODES: Codes = Codes {
    missing: Code::DataMissing,
    corrupt: Code::CacheCorrupt,
    mismatch: Code::CacheCorrupt,
};

fn folders() -> Vec<PathBuf> {
    let root = std::env::var_os("BACKPROPD_LM_REFS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/lm"),
        PathBuf::from,
    );
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&root)
        .unwrap_or_else(|e| panic!("{}: {e}", root.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("ref.safetensors").exists())
        .collect();
    folders.sort();
    assert!(!folders.is_empty(), "no models below {}", root.display());
    folders
}

/// ‖got − expected‖ / ‖expected‖.
fn relative_error<R: Real>(got: &[R], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let pairs = got.iter().zip(expected);
    let error: f64 = pairs.map(|(a, b)| (a.to_f64() - b).powi(2)).sum();
    let norm: f64 = expected.iter().map(|b| b * b).sum();
    assert!(norm > 0.0);
    (error / norm).sqrt()
}

/// The worst relative error over all prompts and tensors of a folder, and where it is.
fn worst<D: LmOps>(device: &D, folder: &Path) -> (f64, String) {
    let mut lm = Lm::load(device, folder).unwrap_or_else(|e| panic!("{e}"));
    let reference = TensorFile::open(folder.join("ref.safetensors"), CODES).unwrap();
    let mut worst = (0.0, String::new());
    let mut compared = 0;
    let mut compare = |name: String, got: &[D::Real]| {
        let expected = reference.tensor(&name).unwrap().f64().unwrap();
        let error = relative_error(got, &expected);
        // NaN must not pass for small.
        if error > worst.0 || error.is_nan() {
            worst = (error, name);
        }
        compared += 1;
    };
    for prompt in 0.. {
        let Some(ids) = reference.get(&format!("{prompt}.ids")) else {
            break;
        };
        let ids = ids.u32().unwrap();
        let tokens = Tokens::new(&ids, 1, ids.len()).unwrap();
        let points = lm.spec().hook_points();
        let hooks: Vec<HookPoint> = points
            .into_iter()
            .filter(|point| reference.get(&format!("{prompt}.{point}")).is_some())
            .collect();
        assert!(!hooks.is_empty());
        let mut logits = device.zeros(ids.len() * lm.spec().vocab).unwrap();
        let mut at = |index: usize, value: &mut D::Buf, _: usize| {
            compare(
                format!("{prompt}.{}", hooks[index]),
                &device.download(value)?,
            );
            Ok(())
        };
        lm.forward(device, &tokens, &hooks, &mut at, End::Logits(&mut logits))
            .unwrap();
        compare(
            format!("{prompt}.logits"),
            &device.download(&logits).unwrap(),
        );
    }
    assert!(compared >= 3, "{}: {compared} tensors", folder.display());
    worst
}

fn check<D: LmOps>(device: &D, tolerance: f64) {
    let mut failures = Vec::new();
    for folder in folders() {
        let (error, name) = worst(device, &folder);
        println!("{:40} {error:.2e} {name}", folder.display().to_string());
        if error > tolerance || error.is_nan() {
            failures.push(format!("{}: {name}: {error:.2e}", folder.display()));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// behaviour: engine-01
#[test]
fn the_cpu_computes_what_transformers_computes() {
    check(&Cpu::new(2), 2e-5);
}

#[test]
fn the_reference_backend_computes_what_transformers_computes() {
    // The expected values are of f32 themselves.
    check(&Reference::<f64>::new(), 5e-6);
}

/// Emulated, where there is a C++ compiler.
#[test]
fn the_emulated_cuda_device_computes_what_transformers_computes() {
    if let Some(gpu) = cuda_double::gpu() {
        check(&gpu.open(), 2e-5);
    }
}

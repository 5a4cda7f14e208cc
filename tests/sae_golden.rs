//! Every variant against inputs, outputs, losses and gradients of SAELens' autograd in
//! float64: the files of the folder `BACKPROPD_SAE_GOLDEN`, by default those of
//! `tests/data/sae-golden`, whatever their widths and settings.

mod cuda_double;

use backpropd::device::Real;
use backpropd::device::cpu::Cpu;
use backpropd::device::reference::Reference;
use backpropd::device::sae::SaeOps;
use backpropd::domain::Amp;
use backpropd::domain::schedule::StepSettings;
use backpropd::sae::params::{Dims, Name};
use backpropd::sae::spec::{JumpRelu, Pool, SaeSpec, Sparsity, TopK, Variant};
use backpropd::sae::{Batch, Losses, OptimSpec, Outputs, SaeTrainer, Sample, StateTensor};
use backpropd::tensorfile::{Codes, Dtype, TensorFile};
use serde_json::Value;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// One golden file.
struct Golden {
    name: String,
    file: TensorFile,
    cfg: Value,
}

impl Golden {
    fn all() -> Vec<Self> {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sae-golden");
        let folder = std::env::var_os("BACKPROPD_SAE_GOLDEN").map_or(own, PathBuf::from);
        let entries = std::fs::read_dir(&folder).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "safetensors"));
        paths.sort();
        assert!(!paths.is_empty(), "no files in {}", folder.display());
        paths.iter().map(|path| Self::open(path)).collect()
    }

    fn open(path: &Path) -> Self {
        let file = TensorFile::open(path, Codes::MODEL).unwrap();
        let cfg = serde_json::from_str(&file.metadata()["cfg"]).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        Self { name, file, cfg }
    }

    fn f64(&self, name: &str) -> Vec<f64> {
        let tensor = self.file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::F64, "{name}");
        let values = tensor.bytes().chunks_exact(8);
        values
            .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    fn number(&self, key: &str, otherwise: f64) -> f64 {
        self.cfg[key].as_f64().unwrap_or(otherwise)
    }

    fn flag(&self, key: &str, otherwise: bool) -> bool {
        self.cfg[key].as_bool().unwrap_or(otherwise)
    }

    fn coefficient(&self, key: &str) -> f64 {
        self.file.metadata()[key].parse().unwrap()
    }

    fn dims(&self) -> Dims {
        let size = |key: &str| self.cfg[key].as_u64().unwrap() as usize;
        Dims {
            d_in: size("d_in"),
            d_out: size("d_in"),
            d_sae: size("d_sae"),
        }
    }

    fn spec(&self) -> SaeSpec {
        let d_sae = self.dims().d_sae;
        let variant = if self.file.get("param.b_gate").is_some() {
            Variant::Gated {
                l1_coefficient: self.coefficient("l1"),
            }
        } else if self.file.get("param.threshold").is_some() {
            Variant::JumpRelu(self.jumprelu())
        } else if self.cfg["k"].is_number() {
            Variant::TopK(self.topk(d_sae))
        } else {
            Variant::Standard {
                l1_coefficient: self.coefficient("l1"),
            }
        };
        SaeSpec::new(d_sae, variant)
    }

    fn jumprelu(&self) -> JumpRelu {
        let penalty = match self.cfg["jumprelu_sparsity_loss_mode"].as_str() {
            Some("tanh") => Sparsity::Tanh {
                scale: self.number("jumprelu_tanh_scale", 4.0),
            },
            Some("quadratic") => Sparsity::Quadratic {
                target_l0: self.number("target_l0", f64::NAN),
            },
            _ => Sparsity::Step,
        };
        JumpRelu {
            bandwidth: self.number("jumprelu_bandwidth", 0.05),
            pre_act_coefficient: self.number("pre_act_loss_coefficient", 0.0),
            ste_to_input: self.flag("jumprelu_ste_to_input", false),
            ..JumpRelu::new(penalty, self.coefficient("l0"))
        }
    }

    fn topk(&self, d_sae: usize) -> TopK {
        // SAELens' BatchTopK has a k that is a float.
        let batch = self.cfg["k"].is_f64() || self.name.contains("batch");
        let pool = if batch { Pool::Batch } else { Pool::Token };
        let mut topk = TopK::new(self.number("k", f64::NAN), pool);
        topk.rescale = self.flag("rescale_acts_by_decoder_norm", true);
        topk.aux_coefficient = self.number("aux_loss_coefficient", 1.0);
        if let Some(widths) = self.cfg["matryoshka_widths"].as_array() {
            let widths = widths.iter().map(|w| w.as_u64().unwrap() as usize);
            topk.widths = widths.collect();
            if topk.widths.last() != Some(&d_sae) {
                topk.widths.push(d_sae);
            }
        }
        topk
    }

    /// The file's name of a parameter, and its values in this project's layout.
    fn param(&self, set: &str, name: Name) -> Vec<f64> {
        let Dims { d_in, d_sae, .. } = self.dims();
        match name {
            Name::WEnc => transposed(&self.f64(&format!("{set}.W_enc")), d_in, d_sae),
            Name::WDec => self.f64(&format!("{set}.W_dec")),
            Name::BEnc if self.file.get("param.b_gate").is_some() => {
                self.f64(&format!("{set}.b_gate"))
            }
            _ => self.f64(&format!("{set}.{}", name.as_str())),
        }
    }
}

/// The transpose of `m` [rows, columns].
fn transposed(m: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    let at = |i: usize| m[i % rows * columns + i / rows];
    (0..rows * columns).map(at).collect()
}

fn reals<R: Real>(values: &[f64]) -> Vec<R> {
    values.iter().map(|v| R::from_f64(*v)).collect()
}

/// A trainer with the file's parameters and dead latents.
fn trainer<D: SaeOps>(device: &D, golden: &Golden) -> SaeTrainer<D> {
    let (spec, dims) = (golden.spec(), golden.dims());
    let optim = OptimSpec::default();
    let (d, sample) = (dims.d_in, Sample::EMPTY);
    let mut trainer = SaeTrainer::new(device, &spec, &optim, d, d, 0, sample).unwrap();
    let params: Vec<Name> = trainer.params().each().map(|(name, _)| name).collect();
    let mut state = trainer.state(device).unwrap();
    for name in params {
        let text = format!("param.{}", name.as_str());
        let tensor = state.iter_mut().find(|t| t.name == text).unwrap();
        let values: Vec<D::Real> = reals(&golden.param("param", name));
        tensor.bytes = Cow::Owned(bytemuck::cast_slice(&values).to_vec());
    }
    let dead = golden.file.tensor("dead").unwrap();
    let since: Vec<u32> = dead
        .bytes()
        .iter()
        .map(|&d| u32::from(d) * u32::MAX)
        .collect();
    let counters = state.iter_mut().find(|t| t.name == "since_fired").unwrap();
    counters.bytes = Cow::Owned(bytemuck::cast_slice(&since).to_vec());
    let state: Vec<StateTensor<'_>> = state;
    trainer.load_state(device, &state).unwrap();
    trainer
}

/// Largest difference, relative to the largest value.
fn difference<R: Real>(got: &[R], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    let pairs = got.iter().zip(expected);
    let worst = pairs.map(|(g, e)| (g.to_f64() - e).abs());
    // Not f64::max, which would drop a NaN.
    let worst = worst.fold(0.0, |a, b| if b <= a { a } else { b });
    if largest > 0.0 {
        worst / largest
    } else {
        worst
    }
}

/// [tokens, d_sae] of SAELens' feature activations.
fn feature_acts<R: Real>(outputs: &Outputs<R>, golden: &Golden) -> Vec<f64> {
    let Dims { d_in, d_sae, .. } = golden.dims();
    let rescaled = match golden.spec().variant {
        Variant::TopK(topk) => topk.rescale,
        _ => false,
    };
    let w_dec = golden.f64("param.W_dec");
    let codes = &outputs.codes;
    let mut acts = vec![0.0; (codes.row_ptr.len() - 1) * d_sae];
    for (b, row) in codes.row_ptr.windows(2).enumerate() {
        for e in row[0] as usize..row[1] as usize {
            let j = codes.latent[e] as usize;
            let w = &w_dec[j * d_in..][..d_in];
            let norm = w.iter().map(|v| v * v).sum::<f64>().sqrt();
            let a = outputs.values[e].to_f64();
            acts[b * d_sae + j] = if rescaled { a * norm } else { a };
        }
    }
    acts
}

fn check_losses(losses: &Losses, golden: &Golden, tolerance: f64) {
    let close = |what: &str, got: f64| {
        let expected = golden.f64(what)[0];
        let error = difference(&[got], &[expected]);
        assert!(
            error <= tolerance,
            "{}: {what}: {got}, expected {expected}",
            golden.name
        );
    };
    close("loss", losses.total());
    let parts = golden.file.names().filter(|name| name.starts_with("loss."));
    for part in parts {
        let name = part.strip_prefix("loss.").unwrap();
        // A part that is left out is one that is not there: 0.
        close(part, losses.parts.get(name).copied().unwrap_or(0.0));
    }
}

/// Weights stay as the file has them.
const STILL: StepSettings = StepSettings {
    lr: 0.0,
    sparsity: 1.0,
    k: None,
};

/// The activations of the file, and how many they are.
fn activations<D: SaeOps>(device: &D, golden: &Golden) -> (D::Buf, usize) {
    let x: Vec<D::Real> = reals(&golden.f64("x"));
    let tokens = x.len() / golden.dims().d_in;
    (device.upload(&x).unwrap(), tokens)
}

fn check<D: SaeOps>(device: &D, golden: &Golden, tolerance: f64) {
    let mut trainer = trainer(device, golden);
    let (x, tokens) = activations(device, golden);
    let batch = Batch {
        x: &x,
        target: None,
        tokens,
    };
    let within = |what: &str, error: f64| {
        let name = &golden.name;
        assert!(
            error <= tolerance,
            "{name}: {what}: relative error {error:e}"
        );
    };
    for micro in [tokens, tokens.div_ceil(3)] {
        let losses = trainer.gradients(device, &batch, micro, &STILL).unwrap();
        check_losses(&losses, golden, tolerance);
        for (name, grad) in trainer.grads().each() {
            let expected = golden.param("grad", name);
            let got = device.download(grad).unwrap();
            let what = format!("gradient of {} ({micro} at a time)", name.as_str());
            within(&what, difference(&got, &expected));
        }
        if micro == tokens {
            let outputs = trainer.outputs(device).unwrap();
            within("sae_out", difference(&outputs.out, &golden.f64("sae_out")));
            let acts = feature_acts(&outputs, golden);
            within(
                "feature_acts",
                difference(&acts, &golden.f64("feature_acts")),
            );
        }
    }
}

#[test]
fn the_f64_reference_agrees_with_autograd() {
    for golden in Golden::all() {
        check(&Reference::<f64>::new(), &golden, 1e-9);
    }
}

#[test]
fn the_f32_reference_agrees_with_autograd() {
    for golden in Golden::all() {
        check(&Reference::<f32>::new(), &golden, 1e-4);
    }
}

#[test]
fn the_cpu_agrees_with_autograd() {
    for golden in Golden::all() {
        check(&Cpu::new(2), &golden, 1e-4);
    }
}

/// Emulated, where there is a C++ compiler.
#[test]
fn the_emulated_cuda_device_agrees_with_autograd() {
    let Some(gpu) = cuda_double::gpu() else {
        return;
    };
    // A row for each edge, or codes as a matrix.
    for from in [f64::INFINITY, 0.0] {
        let device = gpu.open().with_dense_from(from);
        for golden in Golden::all() {
            check(&device, &golden, 1e-4);
        }
    }
}

/// Length of the difference, relative to that of `expected`.
fn distance<R: Real>(got: &[R], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let far = length(&mut got.iter().zip(expected).map(|(g, e)| g.to_f64() - e));
    let whole = length(&mut expected.iter().copied());
    if whole > 0.0 { far / whole } else { far }
}

/// Factors and gathered rows have 8 bits in bf16 and 11 in fp16. In either a token of the TopK files
/// chooses another latent, of nearly the same key.
#[test]
fn the_emulated_cuda_device_is_close_to_autograd_in_16_bits() {
    let Some(gpu) = cuda_double::gpu() else {
        return;
    };
    for amp in [Amp::Bf16, Amp::Fp16] {
        // Rows are gathered, edge by edge.
        let device = gpu.open().with_amp(amp).with_dense_from(f64::INFINITY);
        for golden in Golden::all() {
            let most = match golden.spec().variant {
                Variant::TopK(_) => [0.15, 4e-3],
                _ => [2e-2, 1e-4],
            };
            close_to(&device, &golden, most);
        }
    }
}

fn close_to<D: SaeOps>(device: &D, golden: &Golden, [most, of_loss]: [f64; 2]) {
    let mut trainer = trainer(device, golden);
    // Sixteen tokens have larger gradients than the first scale is for.
    let mut state = trainer.state(device).unwrap();
    if let Some(scale) = state.iter_mut().find(|t| t.name == "loss_scale") {
        scale.bytes = Cow::Owned(1024f64.to_le_bytes().into());
    }
    trainer.load_state(device, &state).unwrap();
    let (x, tokens) = activations(device, golden);
    let batch = Batch {
        x: &x,
        target: None,
        tokens,
    };
    let losses = trainer.gradients(device, &batch, tokens, &STILL).unwrap();
    let within = |what: &str, error: f64, most: f64| {
        assert!(error <= most, "{}: {what}: {error:e}", golden.name);
    };
    let far = distance(&[losses.total()], &golden.f64("loss"));
    within("loss", far, of_loss);
    for (name, grad) in trainer.grads().each() {
        let got = device.download(grad).unwrap();
        let far = distance(&got, &golden.param("grad", name));
        within(name.as_str(), far, most);
    }
}

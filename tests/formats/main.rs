//! What other programs read: every variant in every format, read again by code that shares
//! nothing with the writers.

mod archive;
mod folders;
mod rows;
mod samples;
mod trained;

use archive::Tensor;
use backpropd::checkpoint::export::{
    Architecture, ExportedSae, Format, Outcome, Place, Task, saelens, write_all,
};
use backpropd::domain::Code;
use backpropd::tensorfile::{Codes, TensorFile};
use samples::{Noise, apply, close};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn folded() -> Vec<ExportedSae> {
    let mut saes = samples::all();
    saes.iter_mut().for_each(|s| s.unit_rows().unwrap());
    saes
}

fn place(dir: &Path) -> Place<'_> {
    Place {
        dir,
        name: None,
        index: 0,
    }
}

/// Exports `sae` to `dir`; the folder of `format`, where it can hold it.
fn export(sae: &ExportedSae, dir: &Path, format: Format) -> Option<PathBuf> {
    let outcomes = write_all(sae, place(dir)).unwrap();
    assert_eq!(outcomes.len(), Format::ALL.len());
    outcomes.into_iter().find_map(|outcome| match outcome {
        Outcome::Written(f, path) if f == format => Some(path),
        _ => None,
    })
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// An SAE as a foreign class has it: [d_sae, d_in] and [d_sae, d_out] matrices.
struct Foreign<'a> {
    subtract: bool,
    w_enc: Vec<f32>,
    b_enc: Vec<f32>,
    w_dec: Vec<f32>,
    b_dec: Vec<f32>,
    w_skip: Option<Vec<f32>>,
    /// From all pre-activations to all activations.
    activation: &'a dyn Fn(&mut [f64]),
}

impl Foreign<'_> {
    fn apply(&self, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let mul =
            |w: &[f32], x: &[f64]| -> f64 { w.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum() };
        let raw: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
        let mut x = raw.clone();
        if self.subtract {
            x.iter_mut()
                .zip(&self.b_dec)
                .for_each(|(x, b)| *x -= f64::from(*b));
        }
        let rows = self.w_enc.chunks(x.len());
        let mut a: Vec<f64> = rows.map(|row| mul(row, &x)).collect();
        a.iter_mut()
            .zip(&self.b_enc)
            .for_each(|(a, b)| *a += f64::from(*b));
        (self.activation)(&mut a);
        let d_out = self.b_dec.len();
        let y = (0..d_out)
            .map(|o| {
                let column: Vec<f32> = self.w_dec.chunks(d_out).map(|row| row[o]).collect();
                let skip = self
                    .w_skip
                    .as_deref()
                    .map(|w| &w[o * raw.len()..][..raw.len()]);
                let skip = skip.map_or(0.0, |row| mul(row, &raw));
                (mul(&column, &a) + f64::from(self.b_dec[o]) + skip) as f32
            })
            .collect();
        (a.iter().map(|a| *a as f32).collect(), y)
    }

    #[track_caller]
    fn agrees(&self, sae: &ExportedSae, what: &str) {
        let mut noise = Noise(23);
        for _ in 0..20 {
            let x = noise.array(sae.d_in, 1.0);
            let (a, y) = self.apply(&x);
            let (want_a, want_y) = apply(sae, &x);
            close(&a, &want_a, 1e-6, what);
            close(&y, &want_y, 1e-6, what);
        }
    }
}

fn relu(a: &mut [f64]) {
    a.iter_mut().for_each(|a| *a = a.max(0.0));
}

fn top(k: usize, a: &mut [f64]) {
    let mut order: Vec<f64> = a.to_vec();
    order.sort_by(|a, b| b.total_cmp(a));
    let least = order[k - 1];
    a.iter_mut()
        .for_each(|a| *a = if *a >= least { a.max(0.0) } else { 0.0 });
}

fn transposed(tensor: &Tensor) -> Vec<f32> {
    let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
    let values = tensor.f32();
    (0..rows * columns)
        .map(|i| values[(i % rows) * columns + i / rows])
        .collect()
}

#[test]
fn saelens_folders_hold_what_its_loader_expects_and_read_back_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut written = 0;
    for sae in folded() {
        let transcodes = matches!(sae.task, Task::Transcoder { .. });
        let possible = !transcodes
            || !matches!(
                sae.architecture,
                Architecture::TopK { .. } | Architecture::Gated { .. }
            );
        let folder = export(&sae, dir.path(), Format::SaeLens);
        assert_eq!(folder.is_some(), possible, "{:?}", sae.architecture);
        let Some(folder) = folder else { continue };
        written += 1;
        assert_eq!(folder, dir.path().join("saelens"));

        let config = read_json(&folder.join("cfg.json"));
        let file = TensorFile::open(folder.join("sae_weights.safetensors"), Codes::MODEL).unwrap();
        let names: Vec<&str> = file.names().collect();
        let skip = sae.w_skip().is_some();
        let (architecture, expected): (&str, &[&str]) = match (&sae.architecture, transcodes) {
            (Architecture::Standard, false) => ("standard", &[]),
            (Architecture::Standard, true) if skip => ("skip_transcoder", &["W_skip"]),
            (Architecture::Standard, true) => ("transcoder", &[]),
            (Architecture::TopK { .. }, _) => ("topk", &[]),
            (Architecture::Gated { .. }, _) => ("gated", &["b_gate", "b_mag", "r_mag"]),
            (_, false) => ("jumprelu", &["threshold"]),
            (_, true) if skip => ("jumprelu_skip_transcoder", &["W_skip", "threshold"]),
            (_, true) => ("jumprelu_transcoder", &["threshold"]),
        };
        let mut all = vec!["W_dec", "W_enc", "b_dec"];
        all.extend((architecture != "gated").then_some("b_enc"));
        all.extend(expected);
        all.sort_unstable();
        assert_eq!(names, all);
        assert_eq!(config["architecture"], architecture);
        assert_eq!(config["dtype"], "float32");
        assert_eq!(config["apply_b_dec_to_input"], sae.subtracts_b_dec());
        assert_eq!(config["normalize_activations"], "none");
        assert_eq!(config["reshape_activations"], "none");
        assert_eq!(config.get("d_out").is_some(), transcodes);
        assert_eq!(config.get("k").is_some(), architecture == "topk");
        assert_eq!(config["metadata"]["sae_lens_version"], "6.54.12");
        assert_eq!(config["metadata"]["hook_name"], "blocks.8.hook_resid_post");
        assert_eq!(config["metadata"]["exclude_special_tokens"], json!([0, 2]));
        let w_enc = file.tensor("W_enc").unwrap();
        assert_eq!(w_enc.shape(), [sae.d_in, sae.d_sae]);
        assert_eq!(w_enc.f32().unwrap()[1], sae.w_enc[sae.d_in]);

        let sparsity = TensorFile::open(folder.join("sparsity.safetensors"), Codes::MODEL).unwrap();
        let sparsity = sparsity
            .tensor("sparsity")
            .unwrap()
            .f32()
            .unwrap()
            .into_owned();
        let frequency = sae.frequency.as_ref().unwrap();
        assert_eq!(sparsity[0], (frequency[0] + 1e-10).log10());

        let back = saelens::load(&folder).unwrap();
        assert_eq!(back.metadata, sae.metadata);
        assert_eq!((&back.task, &back.w_dec), (&sae.task, &sae.w_dec));
        let mut noise = Noise(29);
        for _ in 0..20 {
            let x = noise.array(sae.d_in, 1.0);
            let (got, want) = (apply(&back, &x), apply(&sae, &x));
            close(&got.0, &want.0, 1e-6, architecture);
            close(&got.1, &want.1, 1e-6, architecture);
        }
    }
    assert_eq!(written, 31);
}

#[test]
fn sparsify_folders_compute_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut written = 0;
    for sae in folded() {
        let Some(folder) = export(&sae, dir.path(), Format::Sparsify) else {
            continue;
        };
        written += 1;
        assert!(folder.ends_with("sparsify/blocks.8.hook_resid_post"));
        let config = read_json(&folder.join("cfg.json"));
        let file = TensorFile::open(folder.join("sae.safetensors"), Codes::MODEL).unwrap();
        let read = |name| file.tensor(name).unwrap().f32().unwrap().into_owned();
        let k = config["k"].as_u64().unwrap() as usize;
        assert_eq!(config["activation"], "topk");
        assert_eq!(config["num_latents"], sae.d_sae);
        assert_eq!(config["d_in"], sae.d_in);
        let skip = config["skip_connection"].as_bool().unwrap();
        let foreign = Foreign {
            subtract: !config["transcode"].as_bool().unwrap(),
            w_enc: read("encoder.weight"),
            b_enc: read("encoder.bias"),
            w_dec: read("W_dec"),
            b_dec: read("b_dec"),
            w_skip: skip.then(|| read("W_skip")),
            activation: &|a| top(k, a),
        };
        foreign.agrees(&sae, &format!("{:?} {:?}", sae.architecture, sae.task));
    }
    // Standard and both TopK, each with both autoencoders and the transcoders of one width.
    assert_eq!(written, 12);
}

#[test]
fn dictionary_learning_folders_compute_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut classes = BTreeMap::new();
    for sae in folded() {
        let Some(folder) = export(&sae, dir.path(), Format::DictionaryLearning) else {
            assert!(matches!(sae.task, Task::Transcoder { .. }));
            continue;
        };
        assert!(folder.ends_with("dictionary_learning/trainer_0"));
        let trainer = &read_json(&folder.join("config.json"))["trainer"];
        assert_eq!(trainer["layer"], 8);
        let mut dict = archive::load(&fs::read(folder.join("ae.pt")).unwrap(), "ae");
        let mut take = |name: &str| dict.remove(name).unwrap_or_else(|| panic!("no {name}"));
        let class = trainer["dict_class"].as_str().unwrap();
        *classes.entry(class.to_owned()).or_insert(0) += 1;

        let (enc, dec, b_enc, b_dec) = match class {
            "AutoEncoder" => ("encoder.weight", "decoder.weight", "encoder.bias", "bias"),
            "AutoEncoderTopK" | "BatchTopKSAE" => {
                ("encoder.weight", "decoder.weight", "encoder.bias", "b_dec")
            }
            "GatedAutoEncoder" => (
                "encoder.weight",
                "decoder.weight",
                "gate_bias",
                "decoder_bias",
            ),
            _ => ("W_enc", "W_dec", "b_enc", "b_dec"),
        };
        let linear = enc == "encoder.weight";
        let (enc, dec, gate) = (take(enc), take(dec), take(b_enc).f32());
        let mut threshold = Vec::new();
        let (mut k, mut gain, mut b_mag) = (0, Vec::new(), Vec::new());
        match class {
            "AutoEncoderTopK" | "BatchTopKSAE" | "MatryoshkaBatchTopKSAE" => {
                let tensor = take("k");
                assert_eq!(
                    (tensor.storage.as_str(), &tensor.shape[..]),
                    ("IntStorage", &[][..])
                );
                k = i32::from_le_bytes(tensor.bytes.try_into().unwrap()) as usize;
                assert_eq!(trainer["k"], k);
                threshold = take("threshold").f32();
                assert_eq!(threshold.len(), 1);
            }
            "JumpReluAutoEncoder" => threshold = take("threshold").f32(),
            "GatedAutoEncoder" => {
                gain = take("r_mag").f32();
                b_mag = take("mag_bias").f32();
            }
            _ => {}
        }
        if class == "MatryoshkaBatchTopKSAE" {
            let sizes = take("group_sizes");
            let expected = [3i64, 5, 11].map(i64::to_le_bytes).concat();
            assert_eq!(
                (sizes.storage.as_str(), sizes.bytes),
                ("LongStorage", expected)
            );
        }
        let activation = |a: &mut [f64]| match class {
            "AutoEncoder" => relu(a),
            "AutoEncoderTopK" => top(k, a),
            "GatedAutoEncoder" => {
                for (j, a) in a.iter_mut().enumerate() {
                    let open = *a > 0.0;
                    let inner = *a - f64::from(gate[j]);
                    let value = inner * f64::from(gain[j]).exp() + f64::from(b_mag[j]);
                    *a = if open { value.max(0.0) } else { 0.0 };
                }
            }
            _ => {
                let at = |j: usize| f64::from(threshold[j % threshold.len()]);
                relu(a);
                (0..a.len()).for_each(|j| a[j] = if a[j] > at(j) { a[j] } else { 0.0 });
            }
        };
        let foreign = Foreign {
            subtract: class != "JumpReluAutoEncoder",
            w_enc: if linear { enc.f32() } else { transposed(&enc) },
            w_dec: if linear { transposed(&dec) } else { dec.f32() },
            b_enc: gate.clone(),
            b_dec: take(b_dec).f32(),
            w_skip: None,
            activation: &activation,
        };
        foreign.agrees(&sae, class);
        assert!(dict.is_empty(), "left over: {:?}", dict.keys());
    }
    // Two autoencoders of each; TopK and BatchTopK with and without rescaling.
    let expected = [
        ("AutoEncoder", 2),
        ("AutoEncoderTopK", 4),
        ("BatchTopKSAE", 4),
        ("GatedAutoEncoder", 2),
        ("JumpReluAutoEncoder", 2),
        ("MatryoshkaBatchTopKSAE", 2),
    ];
    assert_eq!(classes, expected.map(|(c, n)| (c.to_owned(), n)).into());
}

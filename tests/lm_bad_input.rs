//! Model folders that cannot be used: each fault has a code of its own, and its message
//! names the file and what is wrong in one line.

use backpropd::device::cpu::Cpu;
use backpropd::domain::{Code, Error};
use backpropd::lm::Lm;
use backpropd::tensorfile::{Codes, Dtype, TensorFile, TensorOut, write};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/lm")
        .join(name)
}

/// A copy of a model that may be spoilt.
fn copy(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(source(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

#[track_caller]
fn fails(folder: &Path, code: Code, parts: &[&str]) -> Error {
    let Err(error) = Lm::load(&Cpu::new(1), folder) else {
        panic!("the model was accepted")
    };
    let text = error.to_string();
    assert_eq!(error.code, code, "{text}");
    for part in parts {
        assert!(text.contains(part), "{text} lacks {part}");
    }
    assert!(!text.contains('\n'), "{text}");
    error
}

fn configure(folder: &Path, change: impl Fn(&mut Value)) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

/// One tensor of a file, free to change.
#[derive(Clone)]
struct Stored {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Writes `model.safetensors` of `folder` again, with its tensors changed.
fn rewrite(folder: &Path, change: impl Fn(&mut Vec<Stored>)) {
    let path = folder.join("model.safetensors");
    let mut tensors: Vec<Stored> = {
        let file = TensorFile::open(&path, Codes::MODEL).unwrap();
        let stored = |name: &str| {
            let tensor = file.tensor(name).unwrap();
            Stored {
                name: name.to_owned(),
                dtype: tensor.dtype(),
                shape: tensor.shape().to_vec(),
                bytes: tensor.bytes().to_vec(),
            }
        };
        file.names().map(stored).collect()
    };
    change(&mut tensors);
    let out: Vec<TensorOut<'_>> = tensors
        .iter()
        .map(|t| TensorOut::new(t.name.clone(), t.dtype, &t.shape, &t.bytes))
        .collect();
    write(&path, &BTreeMap::new(), &out).unwrap();
}

fn find<'a>(tensors: &'a mut [Stored], name: &str) -> &'a mut Stored {
    tensors.iter_mut().find(|t| t.name == name).unwrap()
}

/// behaviour: engine-13
#[test]
fn what_is_missing_is_named() {
    let missing = Path::new("/no/such/model");
    fails(missing, Code::ModelMissing, &["/no/such/model/config.json"]);
    let model = copy("llama");
    fs::remove_file(model.path().join("model.safetensors")).unwrap();
    fails(
        model.path(),
        Code::ModelMissing,
        &["model.safetensors", "index.json"],
    );
    let model = copy("llama-sharded");
    fs::remove_file(model.path().join("model-00002-of-00004.safetensors")).unwrap();
    fails(
        model.path(),
        Code::ModelMissing,
        &["model-00002-of-00004.safetensors"],
    );
    let model = copy("llama");
    let file = model.path().join("config.json");
    fails(
        &file,
        Code::ModelMissing,
        &["config.json/config.json", "not a folder"],
    );
}

#[test]
fn truncated_and_bloated_files_are_refused() {
    let model = copy("llama");
    let path = model.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for cut in [0, 5, 100, 3000, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        fails(model.path(), Code::ModelFileCorrupt, &["model.safetensors"]);
    }
    let mut bomb = (100_u64 << 20).to_le_bytes().to_vec();
    bomb.extend(whole);
    fs::write(&path, bomb).unwrap();
    fails(
        model.path(),
        Code::ModelFileCorrupt,
        &["header claims 104857600"],
    );
    fs::write(model.path().join("config.json"), vec![b' '; 5 << 20]).unwrap();
    fails(
        model.path(),
        Code::ModelConfigInvalid,
        &["config.json", "5242880 bytes"],
    );
}

#[test]
fn tensors_that_do_not_fit_the_config_are_refused() {
    let name = "model.layers.1.mlp.down_proj.weight";
    let mismatch = Code::ModelTensorMismatch;

    let model = copy("llama");
    rewrite(model.path(), |tensors| tensors.retain(|t| t.name != name));
    fails(
        model.path(),
        mismatch,
        &["model.safetensors", name, "missing"],
    );

    let model = copy("llama");
    rewrite(model.path(), |tensors| {
        find(tensors, name).shape = vec![64, 32]
    });
    fails(
        model.path(),
        mismatch,
        &[name, "[64, 32], expected [32, 64]"],
    );

    let model = copy("llama");
    rewrite(model.path(), |tensors| {
        find(tensors, name).dtype = Dtype::I32
    });
    fails(model.path(), mismatch, &[name, "I32"]);

    // The config speaks of fewer layers, or of no bias, than the weights have.
    let model = copy("llama");
    configure(model.path(), |config| {
        config["num_hidden_layers"] = json!(2)
    });
    fails(model.path(), mismatch, &["model.layers.2.", "no place"]);
    let model = copy("llama-biases");
    configure(model.path(), |config| config["mlp_bias"] = json!(false));
    fails(
        model.path(),
        mismatch,
        &["model.layers.0.mlp.down_proj.bias", "no place"],
    );
    let model = copy("llama");
    configure(model.path(), |config| config["vocab_size"] = json!(513));
    fails(
        model.path(),
        mismatch,
        &["embed_tokens", "expected [513, 32]"],
    );

    // An unembedding of its own where the config says that there is none.
    let model = copy("mistral");
    configure(model.path(), |config| {
        config["tie_word_embeddings"] = json!(true)
    });
    fails(
        model.path(),
        mismatch,
        &["lm_head.weight", "tie_word_embeddings"],
    );
}

#[test]
fn non_finite_weights_are_refused_in_every_dtype() {
    let name = "model.layers.2.self_attn.k_proj.weight";
    for (value, shown) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
        let model = copy("llama");
        rewrite(model.path(), |tensors| {
            find(tensors, name).bytes[40..44].copy_from_slice(&value.to_le_bytes());
        });
        let parts = ["model.safetensors", name, "element 10 of 512", shown];
        fails(model.path(), Code::ModelNonFinite, &parts);
    }
    let model = copy("llama");
    rewrite(model.path(), |tensors| {
        let tensor = find(tensors, name);
        tensor.dtype = Dtype::F16;
        tensor.bytes = [0x00, 0x7c].repeat(512);
    });
    fails(
        model.path(),
        Code::ModelNonFinite,
        &[name, "element 0 of 512 is inf"],
    );
}

#[test]
fn an_unsupported_model_is_named_by_its_key() {
    let model = copy("llama");
    configure(model.path(), |config| {
        config["rope_parameters"]["rope_type"] = json!("yarn");
    });
    let parts = ["config.json: rope_parameters.rope_type", "\"yarn\""];
    fails(model.path(), Code::ModelUnsupported, &parts);
}

#[test]
fn names_without_the_usual_prefix_are_found() {
    let model = copy("gpt2");
    rewrite(model.path(), |tensors| {
        for tensor in tensors.iter_mut() {
            tensor.name = tensor.name.replace("transformer.", "");
        }
        // Older files hold the causal mask too.
        tensors.push(Stored {
            name: "h.0.attn.bias".into(),
            dtype: Dtype::U8,
            shape: vec![1, 1, 2, 2],
            bytes: vec![1, 0, 1, 1],
        });
    });
    Lm::load(&Cpu::new(1), model.path()).unwrap();
}

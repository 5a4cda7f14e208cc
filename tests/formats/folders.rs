//! The folders themselves: golden bytes, replacing, names, and bad input.

use super::*;

/// An SAE with round numbers, whose `ae.pt` was loaded by PyTorch 2.15 once.
fn golden() -> ExportedSae {
    let mut sae = samples::all().remove(5);
    assert!(matches!(sae.task, Task::Autoencoder { .. }));
    sae.d_in = 2;
    sae.d_out = 2;
    sae.d_sae = 3;
    sae.architecture = Architecture::TopK {
        k: 2,
        rescale: true,
    };
    sae.w_enc = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    sae.b_enc = vec![0.5, -0.5, 0.25];
    sae.w_dec = vec![1.0, 0.0, 0.0, 1.0, -1.0, 0.0];
    sae.b_dec = vec![0.125, -8.0];
    sae.frequency = None;
    sae
}

#[test]
fn ae_pt_is_byte_for_byte_what_pytorch_was_shown_to_load() {
    let dir = tempfile::tempdir().unwrap();
    let folder = export(&golden(), dir.path(), Format::DictionaryLearning).unwrap();
    let written = fs::read(folder.join("ae.pt")).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/formats/ae.pt");
    if std::env::var_os("BACKPROPD_WRITE_GOLDEN").is_some() {
        fs::write(&path, &written).unwrap();
    }
    assert!(written == fs::read(path).unwrap(), "ae.pt changed");
    let names: Vec<String> = archive::unzip(&written).into_iter().map(|f| f.0).collect();
    let data = (0..6).map(|i| format!("ae/data/{i}"));
    let mut expected = vec!["ae/data.pkl".to_owned(), "ae/byteorder".to_owned()];
    expected.extend(data.chain(["ae/version".to_owned()]));
    assert_eq!(names, expected);
}

/// behaviour: train-13
#[test]
fn an_export_replaces_the_one_before_and_leaves_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let first = folded().remove(0);
    let second = golden();
    // What a killed export left.
    fs::create_dir_all(dir.path().join(".tmp-saelens")).unwrap();
    fs::create_dir_all(dir.path().join(".old-saelens")).unwrap();
    fs::write(dir.path().join(".old-saelens/cfg.json"), "{}").unwrap();
    for sae in [&first, &second] {
        write_all(sae, place(dir.path())).unwrap();
    }
    assert_eq!(saelens::load(&dir.path().join("saelens")).unwrap().d_sae, 3);
    // The second one has no frequencies, so no file of the first may be left.
    assert!(!dir.path().join("saelens/sparsity.safetensors").exists());
    for (folder, names) in [
        ("", &["dictionary_learning", "saelens", "sparsify"][..]),
        ("saelens", &["cfg.json", "sae_weights.safetensors"]),
        ("sparsify", &["blocks.8.hook_resid_post"]),
        (
            "sparsify/blocks.8.hook_resid_post",
            &["cfg.json", "sae.safetensors"],
        ),
        ("dictionary_learning", &["trainer_0"]),
        ("dictionary_learning/trainer_0", &["ae.pt", "config.json"]),
    ] {
        let mut found: Vec<String> = fs::read_dir(dir.path().join(folder))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        assert_eq!(found, names, "in {folder}");
    }
}

#[test]
fn several_saes_of_a_run_stand_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let sae = golden();
    for (index, name) in ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]
        .into_iter()
        .enumerate()
    {
        let place = Place {
            dir: dir.path(),
            name: Some(name),
            index,
        };
        write_all(&sae, place).unwrap();
    }
    for file in [
        "saelens/blocks.0.hook_mlp_out/cfg.json",
        "saelens/blocks.1.hook_mlp_out/cfg.json",
        "sparsify/blocks.1.hook_mlp_out/cfg.json",
        "dictionary_learning/trainer_1/ae.pt",
    ] {
        assert!(dir.path().join(file).exists(), "{file}");
    }
}

#[test]
fn a_folder_that_holds_something_else_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let folder = export(&golden(), dir.path(), Format::SaeLens).unwrap();
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    let error = write_all(&golden(), place(dir.path())).unwrap_err();
    assert_eq!(error.code, Code::RunExists);
    assert!(error.about.ends_with("saelens/notes.txt"), "{error}");
    assert_eq!(fs::read(folder.join("notes.txt")).unwrap(), b"mine");
    assert!(folder.join("cfg.json").exists());
}

#[test]
fn what_cannot_be_expressed_is_skipped_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    for sae in folded() {
        for outcome in write_all(&sae, place(dir.path())).unwrap() {
            if let Outcome::Skipped(format, reason) = outcome {
                assert!(!reason.is_empty());
                let name = match format {
                    Format::SaeLens => "SAELens",
                    other => other.as_str(),
                };
                assert!(reason.contains(name), "{reason}");
            }
        }
    }
}

/// behaviour: engine-13
#[test]
fn a_bad_saelens_folder_is_refused_by_file_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let error = saelens::load(dir.path()).unwrap_err();
    assert_eq!(error.code, Code::ModelMissing);
    assert!(error.about.ends_with("cfg.json"));

    let folder = export(&golden(), dir.path(), Format::SaeLens).unwrap();
    let path = folder.join("cfg.json");
    let sound = read_json(&path);
    let cases = [
        (
            "/architecture",
            json!("temporal"),
            Code::ModelUnsupported,
            "`temporal`",
        ),
        (
            "/architecture",
            json!("jumprelu"),
            Code::ModelTensorMismatch,
            "missing",
        ),
        (
            "/metadata/sae_lens_version",
            json!("5.9.1"),
            Code::ModelUnsupported,
            "5.9.1",
        ),
        (
            "/normalize_activations",
            json!("layer_norm"),
            Code::ModelUnsupported,
            "layer_norm",
        ),
        ("/d_sae", json!(4), Code::ModelTensorMismatch, "[4]"),
        ("/k", json!(9), Code::ModelConfigInvalid, "k: 9 of 3"),
        ("/d_in", json!("two"), Code::ModelConfigInvalid, "string"),
    ];
    for (key, value, code, words) in cases {
        let mut config = sound.clone();
        *config.pointer_mut(key).unwrap() = value;
        fs::write(&path, config.to_string()).unwrap();
        let error = saelens::load(&folder).unwrap_err();
        assert_eq!(error.code, code, "{key}: {error}");
        assert!(error.to_string().contains(words), "{key}: {error}");
    }
    fs::write(&path, "{").unwrap();
    assert_eq!(
        saelens::load(&folder).unwrap_err().code,
        Code::ModelConfigInvalid
    );
    fs::write(&path, sound.to_string()).unwrap();
    fs::write(folder.join("sae_weights.safetensors"), [0xff; 64]).unwrap();
    assert_eq!(
        saelens::load(&folder).unwrap_err().code,
        Code::ModelFileCorrupt
    );
}

#[test]
fn an_export_into_an_unwritable_place_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("export");
    fs::write(&file, "not a folder").unwrap();
    let error = write_all(&golden(), place(&file)).unwrap_err();
    assert_eq!(error.code, Code::IoWrite);
    assert!(error.about.contains("export"), "{error}");
}

#[test]
fn a_topk_sae_of_saelens_with_rows_of_any_length_is_read_as_saelens_runs_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut sae = golden();
    sae.w_dec = vec![3.0, 0.0, 0.0, 0.25, -1.0, 0.0];
    let folder = export(&sae, dir.path(), Format::SaeLens).unwrap();
    let back = saelens::load(&folder).unwrap();
    // The two largest of p·‖w_dec‖, not of p (its TopKSAE.encode).
    let x = [0.0, -7.0];
    let xc = [-0.125, 1.0];
    let p = [xc[0] + 2.0 * xc[1] + 0.5, 3.0 * xc[0] + 4.0 * xc[1] - 0.5];
    let last = 5.0 * xc[0] + 6.0 * xc[1] + 0.25;
    let (a, y) = apply(&back, &x);
    close(&a, &[3.0 * p[0], 0.0, last], 1e-6, "a");
    assert!(p[1] > p[0] && 0.25 * p[1] < 3.0 * p[0]);
    close(&y, &[3.0 * p[0] - last + 0.125, -8.0], 1e-6, "y");
}

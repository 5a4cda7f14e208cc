use super::*;
use crate::domain::Code;
use crate::tensorfile::TensorOut;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::path::Path;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct State {
    cursor: u64,
    rng: [u64; 4],
    loss: f64,
    rate: f32,
}

fn state(step: u64) -> State {
    State {
        cursor: u64::MAX - step,
        rng: [step, 1 << 63, 3, 4],
        loss: 0.1 + step as f64 / 3.0,
        rate: 0.1 * step as f32,
    }
}

fn last(keep_last: usize) -> Retention {
    Retention {
        keep_last,
        best: None,
    }
}

fn save_with(store: &mut Store, step: u64, metric: Option<f64>, protected: bool) -> Saved {
    let weights = vec![step as f32; 300];
    let snapshot = Snapshot {
        step,
        tensors: &[TensorOut::f32("w", &[3, 100], &weights)],
        metric,
        protected,
    };
    let saved = store.save(&snapshot, &state(step)).unwrap();
    assert!(saved.warnings.is_empty(), "{:?}", saved.warnings);
    saved
}

fn save(store: &mut Store, step: u64) -> Saved {
    save_with(store, step, None, false)
}

fn folders(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// behaviour: engine-03
#[test]
fn every_bit_of_tensors_and_state_comes_back() {
    let f32s = [f32::from_bits(0x7fc0_1234), -0.0, f32::from_bits(1), 0.1];
    let f64s = [f64::from_bits(0x7ff8_0000_dead_beef), 1.0 / 3.0];
    let u32s = [u32::MAX, 7, 0];
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(&dir.path().join("run/checkpoints"), last(1)).unwrap();
    let tensors = [
        TensorOut::f32("moments", &[2, 2], &f32s),
        TensorOut::new("fired", Dtype::U32, &[3], bytemuck::cast_slice(&u32s)),
        TensorOut::new("threshold", Dtype::F64, &[2], bytemuck::cast_slice(&f64s)),
        TensorOut::new("tokens", Dtype::U64, &[], bytemuck::bytes_of(&u64::MAX)),
        TensorOut::f32("empty", &[0, 5], &[]),
    ];
    let snapshot = Snapshot {
        step: 12,
        tensors: &tensors,
        metric: None,
        protected: false,
    };
    store.save(&snapshot, &state(12)).unwrap();

    let found = store.newest_valid().unwrap();
    assert_eq!(found.skipped, []);
    assert_eq!(found.checkpoint.step(), 12);
    assert_eq!(found.checkpoint.state::<State>().unwrap(), state(12));
    let file = found.checkpoint.tensors().unwrap();
    assert_eq!(file.names().count(), tensors.len());
    for tensor in &tensors {
        let read = file.tensor(&tensor.name).unwrap();
        assert_eq!(read.shape(), tensor.shape, "{}", tensor.name);
        assert_eq!(read.bytes(), tensor.bytes, "{}", tensor.name);
    }
    // In place, so that a resume need not copy: the header and order keep the alignment.
    assert!(matches!(
        file.tensor("moments").unwrap().f32().unwrap(),
        std::borrow::Cow::Borrowed(_)
    ));
}

/// behaviour: train-09
#[test]
fn rotation_keeps_the_last_the_best_and_the_protected() {
    let dir = tempfile::tempdir().unwrap();
    let retention = Retention {
        keep_last: 2,
        best: Some(Best {
            metric: "fvu".to_owned(),
            goal: Goal::Min,
        }),
    };
    let mut store = Store::open(dir.path(), retention).unwrap();
    let measured = [0.9, 0.2, f64::NAN, 0.2, 0.5, 0.6];
    let mut best = Vec::new();
    for (i, value) in measured.into_iter().enumerate() {
        let saved = save_with(&mut store, 10 * (i as u64 + 1), Some(value), i == 0);
        best.push(saved.checkpoint.manifest().best);
    }
    assert_eq!(best, [true, true, false, false, false, false]);
    // 10 is protected, 20 the best (the earlier of two), 50 and 60 the last.
    assert_eq!(
        folders(dir.path()),
        [
            "step-00000010",
            "step-00000020",
            "step-00000050",
            "step-00000060"
        ]
    );
    let saved = save_with(&mut store, 70, Some(0.1), false);
    assert!(saved.checkpoint.manifest().best);
    let mut pruned: Vec<_> = saved.pruned.iter().filter_map(|p| p.file_name()).collect();
    pruned.sort();
    assert_eq!(pruned, ["step-00000020", "step-00000050"]);
}

#[test]
fn the_newest_is_the_one_saved_last_not_the_highest_step() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), last(9)).unwrap();
    save(&mut store, 10);
    save(&mut store, 20);
    // A run that went on from step 10 with other settings.
    let mut store = Store::open(dir.path(), last(9)).unwrap();
    save(&mut store, 15);
    assert_eq!(store.newest_valid().unwrap().checkpoint.step(), 15);
    // The step of an existing checkpoint: both stay.
    let again = save(&mut store, 20);
    assert!(again.checkpoint.path().ends_with("step-00000020.2"));
    let newest = store.newest_valid().unwrap().checkpoint;
    assert_eq!(newest, again.checkpoint);
    assert_eq!(folders(dir.path()).len(), 4);
}

#[test]
fn damage_is_named_skipped_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), last(99)).unwrap();
    save(&mut store, 1);
    type Harm<'a> = &'a dyn Fn(&Path);
    let damage: [(&str, Harm<'_>); 6] = [
        ("tensors.safetensors fails its checksum", &|dir| {
            let path = dir.join("tensors.safetensors");
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[200] ^= 16;
            std::fs::write(path, bytes).unwrap();
        }),
        ("state.json is missing", &|dir| {
            std::fs::remove_file(dir.join("state.json")).unwrap();
        }),
        ("state.json holds 3 of", &|dir| {
            let file = std::fs::File::options()
                .write(true)
                .open(dir.join("state.json"));
            file.unwrap().set_len(3).unwrap();
        }),
        ("state.json holds more than", &|dir| {
            let mut bytes = std::fs::read(dir.join("state.json")).unwrap();
            bytes.push(b' ');
            std::fs::write(dir.join("state.json"), bytes).unwrap();
        }),
        ("manifest.json is missing", &|dir| {
            std::fs::remove_file(dir.join("manifest.json")).unwrap();
        }),
        ("manifest.json fails its own checksum", &|dir| {
            let text = std::fs::read_to_string(dir.join("manifest.json")).unwrap();
            std::fs::write(dir.join("manifest.json"), text.replace("false", "true")).unwrap();
        }),
    ];
    for (i, (_, harm)) in damage.iter().enumerate() {
        let saved = save(&mut store, 10 + i as u64);
        harm(saved.checkpoint.path());
    }
    let found = store.newest_valid().unwrap();
    assert_eq!(found.checkpoint.step(), 1);
    for (i, (reason, _)) in damage.iter().enumerate() {
        let folder = format!("step-{:08}", 10 + i);
        let skipped = found.skipped.iter().find(|s| s.path.ends_with(&folder));
        let skipped = skipped.unwrap_or_else(|| panic!("{folder} is not named"));
        assert!(skipped.reason.contains(reason), "{}", skipped.reason);
    }
    assert_eq!(folders(dir.path()).len(), 1 + damage.len());

    // Without the sound one, the error names them all, in one line.
    std::fs::remove_dir_all(found.checkpoint.path()).unwrap();
    let error = store.newest_valid().unwrap_err();
    assert_eq!(error.code, Code::CheckpointCorrupt);
    let text = error.to_string();
    assert!(!text.contains('\n'));
    assert!(
        damage.iter().all(|(reason, _)| text.contains(reason)),
        "{text}"
    );
}

/// behaviour: engine-13
#[test]
fn a_missing_checkpoint_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("checkpoints"), last(1)).unwrap();
    let error = store.newest_valid().unwrap_err();
    assert_eq!(error.code, Code::CheckpointMissing);
    assert!(error.about.ends_with("checkpoints"), "{error}");

    let error = Checkpoint::open(&dir.path().join("step-00000007")).unwrap_err();
    assert_eq!(error.code, Code::CheckpointMissing);
    assert!(error.about.ends_with("step-00000007"), "{error}");
}

#[test]
fn leftovers_of_killed_saves_go_at_the_next_start_and_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    save(&mut Store::open(dir.path(), last(3)).unwrap(), 5);
    for name in [
        ".tmp-step-00000010",
        ".trash-step-00000001",
        "notes",
        "step-odd",
    ] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join("file"), "x").unwrap();
    }
    Store::open(dir.path(), last(3)).unwrap();
    assert_eq!(folders(dir.path()), ["notes", "step-00000005", "step-odd"]);
}

#[test]
fn a_state_that_json_cannot_hold_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), last(1)).unwrap();
    let snapshot = Snapshot {
        step: 1,
        tensors: &[],
        metric: None,
        protected: false,
    };
    let mut infinite = state(1);
    infinite.loss = f64::INFINITY;
    let error = store.save(&snapshot, &infinite).unwrap_err();
    assert_eq!(error.code, Code::Internal);
    assert!(error.message.contains("infinity"), "{error}");

    let twice = [
        TensorOut::f32("w", &[1], &[1.0]),
        TensorOut::f32("w", &[1], &[2.0]),
    ];
    let snapshot = Snapshot {
        tensors: &twice,
        ..snapshot
    };
    let error = store.save(&snapshot, &state(1)).unwrap_err();
    assert!(error.message.contains("two tensors `w`"), "{error}");
    assert!(folders(dir.path()).is_empty());
}

#[test]
fn a_state_of_another_shape_is_a_mismatch() {
    let dir = tempfile::tempdir().unwrap();
    let saved = save(&mut Store::open(dir.path(), last(1)).unwrap(), 1);
    let error = saved.checkpoint.state::<Vec<u32>>().unwrap_err();
    assert_eq!(error.code, Code::CheckpointMismatch);
    assert!(error.about.ends_with("state.json"), "{error}");
}

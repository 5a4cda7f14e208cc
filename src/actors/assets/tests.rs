//! The actor of the models over a worker that is a stub, and its records.

use super::record::{begin, progress, register, settle};
use super::{Delete, delete, refer};
use crate::actors::models::{AddModel, Models, OfModel, VerifyModel};
use crate::actors::store::{StoreActor, live, read};
use crate::actors::worker::Limits;
use crate::config::RunConfig;
use crate::domain::asset::{AssetKind, AssetName, AssetState, ModelFacts, Work};
use crate::domain::{Code, Error};
use crate::protocol::asset::{AssetRecord, NewModel, Outcome, WorkProgress, WorkStage};
use crate::store::{Asset, Store};
use crate::supervise::{Child, Supervisor};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMITS: Limits = Limits {
    hang: Duration::from_secs(20),
    stop: Duration::from_secs(5),
};

/// A program that speaks as a worker does and knows one model, of 12 layers, 768 wide.
fn stub(dir: &Path) -> PathBuf {
    let hooks: Vec<String> = (0..12)
        .map(|layer| format!("\"blocks.{layer}.hook_resid_post\""))
        .collect();
    let description = format!(
        r#"{{"family":"stub","architecture":null,"parameters":85000000,"layers":12,
        "hidden_size":768,"heads":12,"kv_heads":12,"intermediate_size":3072,"vocab_size":100,
        "context":64,"context_is_limit":true,"hook_points":[{}],"memory":{{"load":1,"capture":2,
        "training":3,"assumed":{{"d_sae":1,"k":1,"batch_size":1,"context_size":1,"lm_batch":1}}}},
        "disk_bytes":null}}"#,
        hooks.join(",")
    )
    .replace('\n', "");
    let script = format!(
        r#"#!/bin/sh
read -r line
case "$line" in
*describe*) echo '{{"kind":"done","outcome":{{"described":{description}}},"peak_memory":null}}' ;;
*broken*) echo nonsense; sleep 60 ;;
*crash*) echo dying >&2; kill -SEGV $$ ;;
*) echo '{{"kind":"progress","stage":"loading","done":1,"total":2,"per_second":null,"eta_seconds":null}}'
   echo '{{"heartbeat":7}}'
   echo '{{"kind":"done","outcome":{{"verified":{{"tensors":3,"dtypes":["F32"],"special_tokens":0,"seconds":0.1}}}},"peak_memory":null}}' ;;
esac
"#
    );
    let path = dir.join("stub");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn name(text: &str) -> AssetName {
    text.parse().unwrap()
}

/// behaviour: engine-10, double-10
#[test]
fn a_loader_is_an_actor_of_its_own_and_can_be_replaced_by_one_that_knows_a_stub() {
    let dir = tempfile::tempdir().unwrap();
    let (state, program) = (dir.path().to_owned(), stub(dir.path()));
    actix::System::new().block_on(async move {
        let mut tree = Supervisor::new("test");
        let folder = state.clone();
        let store = move || StoreActor::new(folder.clone(), None, live());
        let store = tree.add(Child::new("store", store));
        let parts = (store.clone(), state.clone(), program);
        let models =
            move || Models::new(parts.0.clone(), &parts.1, LIMITS).of_program(parts.2.clone());
        let models = tree.add(Child::new("models", models));
        let tree = tree.start().await.unwrap();
        models.up().await.unwrap();
        let add = |text: &str, path: &str| {
            models.send(AddModel(NewModel {
                name: name(text),
                path: path.into(),
            }))
        };
        let ends = |text: &str| {
            let (store, name) = (store.clone(), name(text));
            async move {
                loop {
                    let which = name.clone();
                    let found = read(&store, move |view| {
                        view.asset(AssetKind::Model, which.as_str())
                    });
                    let asset = found.await.unwrap();
                    if !asset.state.is_at_work() {
                        return asset;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        };
        let added = add("stub", "/stub").await.unwrap().unwrap();
        assert_eq!(added.state, AssetState::Verifying);
        let ready = ends("stub").await;
        assert_eq!(ready.state, AssetState::Ready);
        let record: AssetRecord<ModelFacts> = serde_json::from_value(ready.description).unwrap();
        let known = record.facts.description.unwrap();
        assert_eq!(
            (known.layers, known.hidden_size, known.heads),
            (12, 768, 12)
        );
        assert_eq!(record.facts.check.unwrap().tensors, 3);

        // A trainer is given what the loader knows.
        let run = |hook: &str| {
            let toml = format!(
                "name = \"r\"\nmodel = {{ path = \"model:stub\", hooks = [\"{hook}\"] }}\n\
                 data = {{ path = \"/t.txt\", context_size = 32 }}\n\
                 sae = {{ variant = \"topk\", d_sae = 8, k = 2 }}\ntraining = {{ steps = 1 }}"
            );
            RunConfig::parse("run.toml", &toml, Path::new("/"), &[]).unwrap()
        };
        let resolved = |mut config: RunConfig| {
            read(&store, move |view| {
                refer::resolve(view, &mut config).map(|()| config.model.path)
            })
        };
        let path = resolved(run("blocks.11.hook_resid_post")).await.unwrap();
        assert_eq!(path, Path::new("/stub"));
        let refused = resolved(run("blocks.12.hook_resid_post"))
            .await
            .unwrap_err();
        assert_eq!(refused.code, Code::HookUnknown);

        // Whatever the worker does costs that model and nothing else.
        add("broken", "/broken").await.unwrap().unwrap();
        add("crash", "/crash").await.unwrap().unwrap();
        for (text, part) in [("broken", "signal 9"), ("crash", "dying")] {
            let failed = ends(text).await;
            assert_eq!(failed.state, AssetState::Error);
            let error = failed.description["error"].to_string();
            assert!(
                error.contains("worker-lost") && error.contains(part),
                "{error}"
            );
        }
        let again = models
            .send(VerifyModel(name("stub")))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(again.state, AssetState::Verifying);
        assert_eq!(ends("stub").await.state, AssetState::Ready);
        let delete = Delete {
            name: name("stub"),
            files: false,
        };
        models.send(delete).await.unwrap().unwrap();
        tree.shut_down().await.unwrap();
    });
}

fn stored(store: &Store) -> Asset {
    store.view().asset(AssetKind::Model, "m").unwrap()
}

fn store_with_work() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(dir.path(), 0).unwrap();
    store
        .write(|tx| {
            register::<OfModel>(tx, &name("m"), Path::new("/m"))?;
            begin::<OfModel>(tx, &name("m"), Work::Verify, |_| {}).map(|_| ())
        })
        .unwrap();
    (dir, store)
}

/// As of what is fetched, so of what is read: the last word stands.
#[test]
fn late_progress_changes_nothing() {
    let told = WorkProgress {
        stage: WorkStage::Loading,
        done: 1,
        total: Some(2),
        per_second: None,
        eta_seconds: None,
    };
    let check = serde_json::json!({
        "verified": { "tensors": 1, "dtypes": [], "special_tokens": 0, "seconds": 0.0 }
    });
    let check: Outcome = serde_json::from_value(check).unwrap();
    let failed = Err(Error::new(Code::ModelNonFinite, "m", "is NaN"));
    for (result, state) in [(Ok(check), AssetState::Ready), (failed, AssetState::Error)] {
        let (_dir, mut store) = store_with_work();
        store
            .write(|tx| progress::<OfModel>(tx, &name("m"), told))
            .unwrap();
        assert_eq!(stored(&store).description["progress"]["done"], 1);
        store
            .write(|tx| settle::<OfModel>(tx, &name("m"), result))
            .unwrap();
        let settled = stored(&store);
        assert_eq!(settled.state, state);
        assert!(settled.description["progress"].is_null());
        let newest = store.view().newest_event().unwrap();
        store
            .write(|tx| progress::<OfModel>(tx, &name("m"), told))
            .unwrap();
        assert_eq!(stored(&store), settled);
        assert_eq!(store.view().newest_event().unwrap(), newest);
    }
}

/// behaviour: model-11
#[test]
fn what_cannot_be_removed_keeps_the_record() {
    let (_dir, mut store) = store_with_work();
    let error = Error::new(
        Code::IoWrite,
        "m",
        "1 files and folders cannot be removed (/m/a: …)",
    );
    let given_up = Err(Error::new(Code::Cancelled, "m", "was cancelled"));
    store
        .write(|tx| settle::<OfModel>(tx, &name("m"), given_up))
        .unwrap();
    store
        .write(|tx| delete::condemn::<OfModel>(tx, &name("m")))
        .unwrap();
    assert_eq!(stored(&store).state, AssetState::Deleting);
    let result = store
        .write(|tx| delete::conclude::<OfModel>(tx, &name("m"), Err(error.clone())))
        .unwrap();
    assert_eq!(result.unwrap_err(), error);
    let kept = stored(&store);
    assert_eq!(kept.state, AssetState::Error);
    assert!(
        kept.description["error"]["detail"]
            .as_str()
            .unwrap()
            .contains("/m/a")
    );
    // A retry finds it.
    store
        .write(|tx| delete::condemn::<OfModel>(tx, &name("m")))
        .unwrap();
    let gone =
        store.write(|tx| delete::conclude::<OfModel>(tx, &name("m"), Ok(Default::default())));
    gone.unwrap().unwrap();
    assert_eq!(store.view().assets(AssetKind::Model).unwrap(), []);
}

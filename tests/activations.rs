//! Text through a real language model to batches, live and from a cache.

use backpropd::activations::cache::{Identity, open_or_build};
use backpropd::activations::{
    ActivationSource, BatchInfo, CacheDtype, Capture, Keep, Live, LmCapture, Order, Scripted, Site,
    model_hash,
};
use backpropd::config::RunConfig;
use backpropd::data::{Context, ModelTokens, TokenSet, TokenSettings};
use backpropd::device::{Device, cpu::Cpu, sae::Rows};
use backpropd::domain::Code;
use backpropd::lm::{Lm, Tokens};
use backpropd::sae::spec::Variant;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const HOOKS: [&str; 2] = ["blocks.2.hook_resid_post", "blocks.1.hook_mlp_out"];
const ORDER: Order = Order {
    seed: 3,
    batch: 48,
    window_batches: 3,
    lm_batch: 4,
    keep: Keep::Device,
};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart/model")
}

fn hooks() -> Vec<String> {
    HOOKS.map(str::to_owned).to_vec()
}

/// The first pages of the novels, in contexts of 24.
fn token_set(dir: &Path) -> Arc<TokenSet> {
    let text = std::fs::read_to_string(model().join("../austen.txt")).unwrap();
    let path = dir.join("text.txt");
    std::fs::write(&path, &text[..4000]).unwrap();
    let settings = TokenSettings {
        context_size: 24,
        holdout: 0.1,
        ..TokenSettings::new(path)
    };
    let ids = ModelTokens {
        vocab_size: 2048,
        bos: Some(0),
        eos: Some(0),
        pad: None,
    };
    let tokenizer = model().join("tokenizer.json");
    TokenSet::open_or_build(&settings, &tokenizer, &ids, dir, &mut |_| Ok(()))
        .unwrap()
        .into()
}

type Batches = Vec<(BatchInfo, Vec<Vec<f32>>)>;

fn batches(source: &mut dyn ActivationSource<Cpu>, count: usize) -> Batches {
    let mut out = vec![Vec::new(); source.sites().len()];
    let next = |_| (source.next_batch(&mut out).unwrap(), out.clone());
    (0..count).map(next).collect()
}

/// The activations of one context as the model gives them on its own.
fn alone(device: &Cpu, lm: &mut Lm<Cpu>, context: &Context) -> Vec<Vec<f32>> {
    let tokens = Tokens::new(&context.ids[..context.len], 1, context.len).unwrap();
    let hooks = HOOKS.map(|name| lm.spec().hook(name).unwrap());
    let mut into = [0, 1].map(|_| device.zeros(context.len * 128).unwrap());
    lm.capture(device, &tokens, &hooks, &mut into).unwrap();
    into.iter()
        .map(|buf| device.download(buf).unwrap())
        .collect()
}

/// behaviour: engine-04
#[test]
fn an_epoch_is_every_token_that_is_trained_on_with_the_models_own_activations() {
    let dir = tempfile::tempdir().unwrap();
    let set = token_set(dir.path());
    let device = Cpu::new(2);
    let lm = Mutex::new(Lm::load(&device, &model()).unwrap());
    let rows = |all: Vec<Vec<Vec<f32>>>| {
        let mut rows: Vec<Vec<u32>> = all
            .iter()
            .flat_map(|sites| sites[0].chunks(128).zip(sites[1].chunks(128)))
            .map(|(a, b)| a.iter().chain(b).map(|v| v.to_bits()).collect())
            .collect();
        rows.sort_unstable();
        rows
    };
    let mut expected = Vec::new();
    for rank in 0..set.training_contexts() {
        let context = set.training_context(rank);
        let values = alone(&device, &mut lm.lock().unwrap(), &context);
        for position in context.valid_positions() {
            let row = |site: &Vec<f32>| site[position * 128..][..128].to_vec();
            expected.push(values.iter().map(row).collect());
        }
    }
    let epoch = Order {
        batch: expected.len(),
        window_batches: 1,
        ..ORDER
    };
    let capture = LmCapture::new(&device, &lm, &hooks()).unwrap();
    let mut source = Live::new(&device, set, capture, epoch).unwrap();
    assert_eq!(source.rows_per_epoch(), expected.len() as u64);
    let found = batches(&mut source, 1).remove(0).1;
    assert!(rows(vec![found]) == rows(expected));

    let unknown = LmCapture::new(&device, &lm, &["blocks.9.hook_resid_post".into()]);
    assert_eq!(unknown.err().unwrap().code, Code::HookUnknown);
}

/// behaviour: engine-03
#[test]
fn batches_are_the_same_for_any_threads_resumed_anywhere_and_from_a_cache() {
    let dir = tempfile::tempdir().unwrap();
    let set = token_set(dir.path());
    let run = |threads, lm_batch, skip: usize| {
        let device = Cpu::new(threads);
        let lm = Mutex::new(Lm::load(&device, &model()).unwrap());
        let order = Order { lm_batch, ..ORDER };
        let source = || {
            let capture = LmCapture::new(&device, &lm, &hooks()).unwrap();
            Live::new(&device, set.clone(), capture, order).unwrap()
        };
        let mut first = source();
        let mut all = batches(&mut first, skip);
        let mut second = source();
        second.seek(&first.cursor()).unwrap();
        all.extend(batches(&mut second, 40 - skip));
        all
    };
    let all = run(2, 4, 0);
    assert!(all.iter().any(|(info, _)| info.ended == 1), "an epoch ends");
    assert!(all == run(1, 4, 7));
    assert!(all == run(3, 5, 31));

    let cache = dir.path().join("cache");
    let identity = Identity {
        model: model_hash(&model()).unwrap(),
        precision: backpropd::domain::Precision::F32,
        data: set.key().to_owned(),
        seed: 3,
        window_rows: ORDER.window_rows() as u64,
        dtype: CacheDtype::F32,
        sites: hooks()
            .into_iter()
            .map(|hook| Site { hook, d_in: 128 })
            .collect(),
    };
    let device = Cpu::new(2);
    let lm = Mutex::new(Lm::load(&device, &model()).unwrap());
    let source = || {
        let capture = LmCapture::new(&device, &lm, &hooks())?;
        Live::new(&device, set.clone(), capture, ORDER)
    };
    let mut cached =
        open_or_build(&cache, &identity, 40 * 48, 48, source, &mut |_, _| Ok(())).unwrap();
    assert!(batches(&mut cached, 40) == all);
}

/// The common run: TransformerLens' small GPT-2 in size, without any weights.
///
/// behaviour: double-04, double-08
#[test]
fn the_common_run_is_read_as_written_and_its_model_can_be_a_stub() {
    let dir = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12,
        "n_positions": 1024, "vocab_size": 50257, "activation_function": "gelu_new",
    });
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let spec = backpropd::lm::config::load(dir.path()).unwrap();
    assert_eq!((spec.layers(), spec.d_model, spec.heads), (12, 768, 12));

    let run = RunConfig::parse(
        "run.toml",
        r#"
        name = "common"
        model = { path = ".", hooks = ["blocks.8.hook_resid_post"] }
        data.path = "text.txt"
        sae = { variant = "standard", d_sae = 16384, l1_coefficient = 0.001 }
        optimizer.lr = 1e-4
        training = { batch_size = 64, steps = 10_000 }
        "#,
        dir.path(),
        &[],
    )
    .unwrap();
    let l1 = |variant: &Variant| match variant {
        Variant::Standard { l1_coefficient } => Some(*l1_coefficient),
        _ => None,
    };
    assert_eq!((run.sae.d_sae, l1(&run.sae.variant)), (16384, Some(0.001)));
    assert_eq!((run.optimizer.lr, run.training.batch_size), (1e-4, 64));
    assert_eq!(run.training.total_steps(1), 10_000);

    let sites = || {
        let site = |hook: &String| Site {
            hook: hook.clone(),
            d_in: spec.d_model,
        };
        run.model.hooks.iter().map(site).collect()
    };
    let ids: Vec<u32> = (0..48).collect();
    let contexts: Vec<_> = (0..)
        .zip(ids.chunks_exact(24))
        .map(|(index, ids)| Context::new(index, ids.to_vec(), &[true; 24]))
        .collect();
    let rows = |seed| {
        let mut rows = Vec::new();
        let mut take = |_: usize, values: Rows<'_, Vec<f32>>| {
            rows.extend_from_slice(values.buf);
            Ok(())
        };
        let mut stub = Scripted::new(seed, sites());
        Capture::<Cpu>::capture(&mut stub, &contexts, &mut take).unwrap();
        rows
    };
    let first = rows(5);
    assert_eq!(first.len(), 2 * 24 * 768);
    assert_eq!(rows(5), first);
    assert_ne!(rows(6), first);
}

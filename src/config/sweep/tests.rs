use super::*;

const RUN: &str = r#"
name = "tiny"
[model]
path = "model"
hooks = ["blocks.1.hook_resid_post"]
[data]
path = "text.txt"
[sae]
variant = "topk"
d_sae = 96
k = 8
[training]
steps = 100
"#;

fn source(file: &str, text: &str) -> Source {
    Source {
        file: file.into(),
        text: text.into(),
        base: "/base".into(),
    }
}

fn parse(text: &str) -> Result<SweepConfig> {
    let text = format!("run = \"run.toml\"\n{text}");
    SweepConfig::parse(&source("sweep.toml", &text), &source("run.toml", RUN), &[])
}

fn values(config: &SweepConfig, key: &str) -> Vec<String> {
    let value = |run: &BTreeMap<String, String>| run.get(key).cloned().unwrap_or_default();
    config.overrides.iter().map(value).collect()
}

#[test]
fn a_grid_makes_every_combination_and_runs_have_names_and_folders_of_their_own() {
    let config =
        parse("name = \"g\"\noutput = \"out\"\n[grid]\nsae.k = [4, 8]\nseed = [0, 1, 2]\n");
    let config = config.unwrap();
    assert_eq!(config.plan.runs, 6);
    assert_eq!(values(&config, "sae.k"), ["4", "4", "4", "8", "8", "8"]);
    assert_eq!(values(&config, "seed"), ["0", "1", "2", "0", "1", "2"]);
    let run = config.run(6).unwrap();
    assert_eq!((run.name.as_str(), run.seed), ("g-6", 2));
    assert_eq!(run.sae.k(), Some(8.0));
    assert_eq!(run.model.path, PathBuf::from("/base/model"));
    assert_eq!(config.folder(6), PathBuf::from("/base/out/run-6"));
    // Both ways to write a key are one.
    let quoted =
        parse("name = \"g\"\noutput = \"out\"\n[grid]\n\"sae.k\" = [4, 8]\nseed = [0, 1, 2]\n");
    assert_eq!(quoted.unwrap(), config);
}

#[test]
fn a_list_names_each_run_and_set_holds_for_all() {
    let text = "[set]\noptimizer.lr = 0.01\n[[runs]]\nname = \"small\"\n[[runs]]\n\
                sae = { variant = \"standard\", l1_coefficient = 2, k = 0 }\n";
    let error = parse(text).unwrap_err();
    assert!(
        error.message.contains("run") || error.about.contains("runs"),
        "{error}"
    );
    let text = "[set]\noptimizer.lr = 0.01\n[[runs]]\nname = \"small\"\n[[runs]]\n\
                training.steps = 7\n";
    let config = parse(text).unwrap();
    let (first, second) = (config.run(1).unwrap(), config.run(2).unwrap());
    assert_eq!(
        (first.name.as_str(), second.name.as_str()),
        ("small", "tiny-2")
    );
    assert_eq!((first.optimizer.lr, second.optimizer.lr), (0.01, 0.01));
    assert_eq!(second.training.steps, Some(7));
}

#[test]
fn random_draws_are_those_of_the_seed_and_within_their_ranges() {
    let draws = |more: &str| {
        let text = format!(
            "samples = 40\nseed = 3\n[random]\nsae.k = {{ int = [4, 6] }}\n\
             optimizer.lr = {{ log_uniform = [1e-4, 1e-2] }}\n\
             schedule.lr_end = {{ uniform = [0, 1] }}\n{more}"
        );
        parse(&text).unwrap()
    };
    let config = draws("");
    assert_eq!(config.plan.runs, 40);
    let numbers = |key: &str| -> Vec<f64> {
        let values = values(&config, key);
        values.iter().map(|value| value.parse().unwrap()).collect()
    };
    let k = numbers("sae.k");
    assert!(
        [4.0, 5.0, 6.0].iter().all(|value| k.contains(value)),
        "{k:?}"
    );
    assert!(k.iter().all(|k| (4.0..=6.0).contains(k)));
    let lr = numbers("optimizer.lr");
    assert!(lr.iter().all(|lr| (1e-4..1e-2).contains(lr)), "{lr:?}");
    let low = lr.iter().filter(|lr| **lr < 1e-3).count();
    assert!(
        (10..30).contains(&low),
        "each order is as likely: {low} of 40"
    );
    // A key more changes none of the others.
    let more = draws("data.context_size = { choice = [64, 128] }\n");
    assert_eq!(values(&more, "sae.k"), values(&config, "sae.k"));
    assert_eq!(draws(""), config);
}

#[test]
fn what_cannot_work_is_refused_by_file_line_and_key() {
    let grid = "[grid]\nsae.k = [4]\n";
    let cases = [
        ("", "sweep.toml: runs", "says not which runs"),
        ("[grid]\n", "sweep.toml:2: grid", "names no key"),
        ("[grid]\nsae.k = 4\n", "sweep.toml:3: grid.sae.k", "no list"),
        (
            "[grid]\nsae.k = []\n",
            "sweep.toml:3: grid.sae.k",
            "is empty",
        ),
        (
            "[grid]\nsae.k = [4, 1000]\n",
            "sweep.toml:3: grid.sae.k",
            "exceeds d_sae",
        ),
        (
            "[grid]\nsae.kk = [4]\n",
            "sweep.toml:3: grid.sae.kk",
            "unknown field",
        ),
        (
            "[grid]\noutput = [\"a\"]\n",
            "sweep.toml:3: grid.output",
            "a folder of its own",
        ),
        (
            "[set]\nsae.k = 1000\n[grid]\nseed = [1]\n",
            "sweep.toml:3: set.sae.k",
            "exceeds",
        ),
        (
            "max_temperature = 500\n[grid]\nseed = [1]\n",
            "sweep.toml:2: max_temperature",
            "not within",
        ),
        (
            "parallel = 0\n[grid]\nseed = [1]\n",
            "sweep.toml:2: parallel",
            "0 runs",
        ),
        (
            "shuffle = 1\n[grid]\nseed = [1]\n",
            "sweep.toml:2: shuffle",
            "unknown field",
        ),
        (
            "samples = 2\n[grid]\nseed = [1]\n",
            "sweep.toml:2: samples",
            "needs [random]",
        ),
        (
            "[random]\nseed = [1]\n",
            "sweep.toml: samples",
            "is missing",
        ),
        (
            "samples = 0\n[random]\nseed = [1]\n",
            "sweep.toml:2: samples",
            "0 draws",
        ),
        (
            "samples = 2\n[random]\nseed = { int = [3, 3] }\n",
            "sweep.toml:4: random.seed",
            "no range",
        ),
        (
            "samples = 2\n[random]\nseed = { log_uniform = [0, 3] }\n",
            "sweep.toml:4: random.seed",
            "no range",
        ),
        (
            "samples = 2\n[random]\nseed = { int = [1, 2], choice = [1] }\n",
            "sweep.toml:4: random.seed",
            "",
        ),
        (
            "samples = 2\n[random]\nseed = 4\n",
            "sweep.toml:4: random.seed",
            "none of choice",
        ),
        (
            "carry_over = true\nparallel = 2\n[grid]\nseed = [1]\n",
            "sweep.toml:2: carry_over",
            "one after another",
        ),
        (
            "carry_over = true\n[grid]\nsae.d_sae = [96, 48]\n",
            "sweep.toml:2: carry_over",
            "sae.d_sae differs",
        ),
        (
            "[grid]\nseed = [1]\n[halving]\nmetric = \"ce_sae\"\nrungs = [100]\n",
            "sweep.toml:6: halving.rungs",
            "100 steps",
        ),
        (
            "[grid]\nseed = [1]\n[halving]\nmetric = \"ce_sae\"\nrungs = [5, 5]\n",
            "sweep.toml:6: halving.rungs",
            "ascend",
        ),
        (
            "[grid]\nseed = [1]\n[early_stopping]\nmetric = \"beauty\"\n",
            "sweep.toml:5: early_stopping.metric",
            "unknown variant",
        ),
        (
            "[grid]\nseed = [1]\n[early_stopping]\nmetric = \"ce_sae\"\npatience = 0\n",
            "sweep.toml:6: early_stopping.patience",
            "0 would stop",
        ),
        (
            "name = \"a/b\"\n[grid]\nseed = [1]\n",
            "sweep.toml:2: name",
            "is no name",
        ),
        (
            "[set]\ndata.holdout = 0\n[grid]\nseed = [1]\n[early_stopping]\nmetric = \"ce_sae\"\n",
            "sweep.toml:7: early_stopping.metric",
            "data.holdout is 0",
        ),
    ];
    for (text, about, message) in cases {
        let error = parse(text).unwrap_err();
        assert_eq!(error.about, about, "{text}: {error}");
        assert!(error.message.contains(message), "{text}: {error}");
        assert_eq!(error.code, Code::ConfigInvalid);
    }
    let both = parse(&format!("{grid}[[runs]]\nseed = 1\n")).unwrap_err();
    assert!(both.message.contains("give only one"), "{both}");
}

#[test]
fn absurd_sizes_are_refused_without_being_made() {
    let axis = |key: &str| {
        let values: Vec<String> = (1..=90).map(|n| n.to_string()).collect();
        format!("{key} = [{}]\n", values.join(","))
    };
    let keys = [
        "seed",
        "sae.k",
        "training.steps",
        "eval.contexts",
        "eval.every",
    ];
    let twelve: String = (0..7).map(|n| axis(&format!("sae.x{n}"))).collect();
    let cases = [
        format!("[grid]\n{}", keys.map(axis).concat()),
        format!("[grid]\n{}{twelve}", keys.map(axis).concat()),
        format!("samples = {}\n[random]\nseed = [1]\n", u64::MAX / 2),
        "[[runs]]\nseed = 1\n".repeat(1001),
    ];
    for text in cases {
        let began = std::time::Instant::now();
        let error = parse(&text).unwrap_err();
        assert!(error.message.contains("1000 is the most"), "{error}");
        assert!(began.elapsed().as_secs() < 2);
    }
}

#[test]
fn the_example_can_be_run() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let read = |file: &str| {
        let path = folder.join(file);
        Source {
            file: file.into(),
            text: std::fs::read_to_string(&path).unwrap(),
            base: path.parent().unwrap().into(),
        }
    };
    let (sweep, run) = (read("sweep/sweep.toml"), read("quickstart/run.toml"));
    let config = SweepConfig::parse(&sweep, &run, &[]).unwrap();
    assert_eq!(values(&config, "sae.k"), ["8", "16", "32", "64"]);
}

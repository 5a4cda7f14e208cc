//! Whole runs on a GPU, emulated or real (`BACKPROPD_TEST_GPU`), through the real binary.

mod common;
mod cuda_double;

use common::Fixture;
use common::daemon::Daemon;
use rustix::process::Signal;
use serde_json::Value;
use std::process::Output;

/// The run on the real GPU, or on an emulated one whose stand-ins are in `state`; `None` without
/// either, and where `state` is one that no real GPU can be put into.
fn run(fixture: &Fixture, out: &str, state: &str, args: &[&str]) -> Option<Output> {
    let breaks = !state.is_empty() && !state.contains("schedule");
    if let (Some(gpu), false) = (cuda_double::real(), breaks) {
        let mut command = fixture.command(out, &["--device", &format!("cuda:{gpu}")]);
        return Some(command.args(args).output().unwrap());
    }
    let folder = cuda_double::double()?.folder();
    let mut command = fixture.command(out, &["--device", "cuda"]);
    command.args(args).env("CUDA_DOUBLE", state);
    Some(command.env("LD_LIBRARY_PATH", folder).output().unwrap())
}

fn events(output: &Output) -> Vec<Value> {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    common::lines(&output.stdout)
}

/// A number of the one site, step by step.
fn numbers(events: &[Value], key: &str) -> Vec<f64> {
    let steps = common::of_kind(events, "step");
    let numbers = steps.iter().map(|step| step["sites"][0][key].as_f64());
    numbers.map(Option::unwrap).collect()
}

/// Both compute in f32 and sum in other orders. What little that is grows with every step; 20 of
/// them leave less than this.
fn agree(got: &[Value], expected: &[Value]) {
    for key in ["loss", "l0", "fvu", "grad_norm"] {
        let (got, expected) = (numbers(got, key), numbers(expected, key));
        assert_eq!(got.len(), expected.len());
        for (step, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let error = (got - expected).abs() / expected.abs().max(1e-3);
            assert!(
                error < 1e-3,
                "{key} of step {step}: {got}, expected {expected}"
            );
        }
    }
}

#[test]
fn a_run_on_the_gpu_is_that_of_the_cpu() {
    let fixture = Fixture::new(20);
    let Some(output) = run(&fixture, "cuda", "", &[]) else {
        return;
    };
    let got = events(&output);
    let expected = fixture.events("cpu", &["--device", "cpu"]);
    let started = common::of_kind(&got, "run_started");
    let device = started[0]["device"].as_str().unwrap();
    match cuda_double::real() {
        Some(gpu) => assert!(device.starts_with(&format!("cuda:{gpu} (")), "{device}"),
        None => assert_eq!(device, "cuda:0 (emulated GPU, sm_90a)"),
    }
    agree(&got, &expected);
}

#[test]
fn a_run_on_the_gpu_is_repeated_to_the_bit() {
    let fixture = Fixture::new(12);
    let Some(first) = run(&fixture, "first", "", &[]) else {
        return;
    };
    events(&first);
    // Another order of threads and blocks, and a run that is cut in two.
    let state = "0.schedule=77";
    events(&run(&fixture, "second", state, &["--set", "training.stop_at=10"]).unwrap());
    events(&run(&fixture, "second", state, &["--resume"]).unwrap());
    assert_eq!(fixture.result("second"), fixture.result("first"));
}

#[test]
fn memory_that_runs_out_once_makes_micro_batches_smaller_and_changes_nothing_else() {
    let fixture = Fixture::new(6);
    // In the first step.
    let Some(output) = run(&fixture, "run", "0.fail_alloc_at=120", &[]) else {
        return;
    };
    let all = events(&output);
    let oom = common::of_kind(&all, "oom");
    assert_eq!(oom.len(), 1, "{all:#?}");
    assert_eq!(
        (&oom[0]["step"], &oom[0]["micro_batch"]),
        (&1.into(), &32.into())
    );
    agree(&all, &fixture.events("cpu", &["--device", "cpu"]));
}

#[test]
fn a_gpu_that_breaks_down_ends_the_run_which_goes_on_from_its_checkpoint() {
    if cuda_double::double().is_none() {
        return;
    }
    let fixture = Fixture::new(12);
    events(&run(&fixture, "whole", "", &[]).unwrap());
    // Well behind the first checkpoint.
    let broken = run(&fixture, "broken", "0.fail_launch_at=900", &[]).unwrap();
    let said = String::from_utf8_lossy(&broken.stderr);
    assert_eq!(broken.status.code(), Some(64), "{said}");
    assert!(said.contains("device-poisoned"), "{said}");
    events(&run(&fixture, "broken", "", &["--resume"]).unwrap());
    assert_eq!(fixture.result("broken"), fixture.result("whole"));
}

/// behaviour: engine-09
#[test]
fn a_run_that_gets_no_gpu_says_why_in_a_line_with_its_exit_status() {
    for (state, visible, args, status, said) in [
        (
            "devices=1",
            None,
            &["--device", "cuda:3"][..],
            63,
            "cuda:3: there is one GPU",
        ),
        ("", Some(""), &[], 63, "CUDA_VISIBLE_DEVICES is empty"),
        ("0.mode=2", None, &[], 63, "compute mode is prohibited"),
        ("0.major=7", None, &[], 63, "compute capability 7.0"),
        ("driver=11080", None, &[], 63, "CUDA 11.8"),
        ("init=999", None, &[], 65, "does not start"),
    ] {
        let fixture = Fixture::new(6);
        let Some(double) = cuda_double::double() else {
            return;
        };
        let mut command = fixture.command("run", &["--device", "cuda"]);
        command.env("LD_LIBRARY_PATH", double.folder());
        command.env("CUDA_DOUBLE", state).args(args);
        command.envs(visible.map(|visible| ("CUDA_VISIBLE_DEVICES", visible)));
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(errors.starts_with("error: device-"), "{errors}");
        assert!(errors.contains(said), "{errors}");
        assert!(!fixture.path("run").exists(), "nothing was begun");
    }
}

#[test]
fn two_runs_do_not_share_a_gpu_unless_they_are_told_to() {
    let Some(double) = cuda_double::double() else {
        return;
    };
    let fixture = Fixture::new(50_000);
    // The same device, which is number 1 for one of them.
    let state = format!("0.uuid={}", std::process::id());
    let command = |out: &str, args: &[&str], visible: &str| {
        let mut command = fixture.command(out, args);
        command.env("LD_LIBRARY_PATH", double.folder());
        command.env("CUDA_DOUBLE", &state);
        command.env("CUDA_VISIBLE_DEVICES", visible);
        command
    };
    let first = fixture.start_with(command("first", &["--device", "cuda"], "0"), 1);
    let few = ["--set", "training.steps=1"];
    let refused = command("second", &["--device", "cuda:1"], "1,0")
        .args(few)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(63), "{said}");
    let holder = format!(
        "device-unavailable: cuda:1: process {} of backpropd trains on it",
        first.child.id()
    );
    assert!(said.contains(&holder), "{said}");
    for (out, args) in [
        ("other", &["--device", "cuda:0"][..]),
        ("beside", &["--device", "cuda:1", "--share-gpu"]),
    ] {
        events(&command(out, args, "1,0").args(few).output().unwrap());
    }
    // A daemon's run waits for it, and says so.
    let daemon = Daemon::start_with(
        &fixture,
        &[
            ("BACKPROPD_WORKERS__DEVICE", "cuda"),
            ("LD_LIBRARY_PATH", double.folder().to_str().unwrap()),
            ("CUDA_DOUBLE", &state),
        ],
    );
    let id = daemon.submit("queued", &few);
    common::until("it says that it waits", || {
        let log = daemon.ctl(&["logs", &id.to_string()]);
        let log = String::from_utf8_lossy(&log.stdout).into_owned();
        (log.contains("trains on it: waiting")).then_some(())
    });
    assert_eq!(first.signal(Signal::TERM), 143);
    daemon.reaches(id, "completed");
}

#[test]
fn a_gpu_that_falls_off_the_bus_is_an_end_of_its_own() {
    let fixture = Fixture::new(12);
    let state = "0.fail_launch_at=900 0.fail_launch_code=999";
    let Some(output) = run(&fixture, "run", state, &[]) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(65), "{said}");
    assert!(said.contains("device-lost: cuda:0"), "{said}");
    events(&run(&fixture, "run", "", &["--resume"]).unwrap());
}

#[test]
fn kept_kernels_that_were_damaged_are_made_again_with_a_warning() {
    let fixture = Fixture::new(2);
    let Some(output) = run(&fixture, "first", "", &[]) else {
        return;
    };
    events(&output);
    let kernels = fixture.path("token-cache/kernels");
    for file in std::fs::read_dir(&kernels).unwrap() {
        std::fs::write(file.unwrap().path(), "not a kernel").unwrap();
    }
    let all = events(&run(&fixture, "second", "", &[]).unwrap());
    let warnings = common::of_kind(&all, "warning");
    let about: Vec<_> = warnings
        .iter()
        .filter(|w| w["message"].as_str().unwrap().contains("made again"))
        .collect();
    assert_eq!(about.len(), 1, "{warnings:?}");
}

#[test]
fn a_daemon_starts_another_worker_where_a_gpu_broke_down() {
    let Some(double) = cuda_double::double() else {
        return;
    };
    let folder = double.folder();
    let fixture = Fixture::new(12);
    events(&run(&fixture, "whole", "", &[]).unwrap());
    // Every worker breaks down in its ninth step or so: two of them do twelve.
    let daemon = Daemon::start_with(
        &fixture,
        &[
            ("BACKPROPD_WORKERS__DEVICE", "cuda"),
            ("LD_LIBRARY_PATH", folder.to_str().unwrap()),
            ("CUDA_DOUBLE", "0.fail_launch_at=900"),
        ],
    );
    let id = daemon.submit("broken", &[]);
    daemon.trains(id, 1, None);
    let first = daemon.show(id)["pid"].as_i64().unwrap();
    daemon.trains(id, 6, Some(i32::try_from(first).unwrap()));
    daemon.reaches(id, "completed");
    assert_eq!(fixture.result("broken"), fixture.result("whole"));
}

/// Factors have 8 bits: here and there another latent is chosen, and runs drift apart. With so many
/// latents most are selected out of the encoder's product.
#[test]
fn a_run_in_bf16_learns_what_a_run_in_f32_learns() {
    let jumprelu = "sae={ variant = \"jumprelu\", d_sae = 1280, l0_coefficient = 0.01 }";
    let batch_topk = "sae={ variant = \"batch_topk\", d_sae = 1280, k = 8 }";
    let fixture = Fixture::new(20);
    for (name, sae) in [
        ("topk", "sae.d_sae=96"),
        ("batch_topk", batch_topk),
        ("jumprelu", jumprelu),
    ] {
        let set = ["--set", sae, "--set", "training.steps=10"];
        let bf16 = &[&set[..], &["--set", "training.amp=bf16"]].concat();
        let Some(output) = run(&fixture, name, "", bf16) else {
            return;
        };
        let got = numbers(&events(&output), "loss");
        let cpu = [&["--device", "cpu"], &set[..]].concat();
        let cpu = fixture.events(&format!("{name}-cpu"), &cpu);
        let expected = numbers(&cpu, "loss");
        assert_ne!(got, expected);
        for (step, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let far = 0.005 + 0.005 * step as f64;
            assert!(
                (got - expected).abs() < far * expected,
                "{name}, step {step}: {got}, expected {expected}"
            );
        }
    }
}

/// Gradients of four tokens are large: the scale falls at once.
///
/// behaviour: engine-05
#[test]
fn a_run_in_fp16_halves_its_scale_and_is_resumed_to_the_bit() {
    let fixture = Fixture::new(14);
    let with = |more: &[&'static str]| {
        let fp16 = [
            "--set",
            "training.amp=fp16",
            "--set",
            "training.batch_size=4",
        ];
        // So many latents that rows are gathered, edge by edge.
        let wide = ["--set", "checkpoints.every=2", "--set", "sae.d_sae=1024"];
        [&fp16[..], &wide, more].concat()
    };
    let Some(whole) = run(&fixture, "whole", "", &with(&[])) else {
        return;
    };
    let whole = events(&whole);
    let scales = |events: &[Value]| -> Vec<f64> {
        let scaled = common::of_kind(events, "loss_scaled");
        let scales = scaled.iter().map(|event| event["loss_scale"].as_f64());
        scales.map(Option::unwrap).collect()
    };
    let fallen = scales(&whole);
    assert!(!fallen.is_empty(), "{whole:#?}");
    let halves = (0..).map(|n| 32768.0 / f64::from(1 << n));
    assert!(fallen.iter().copied().eq(halves.take(fallen.len())));
    let steps = common::of_kind(&whole, "step");
    assert_eq!(steps.len() + fallen.len(), 14);
    // No step that was left out counts as one that the policy skips.
    assert_eq!(common::of_kind(&whole, "run_completed")[0]["skipped"], 0);
    let log = std::fs::read(fixture.path("whole").join("metrics.jsonl")).unwrap();
    let last = common::lines(&log).pop().unwrap();
    assert_eq!(last["loss_scale"].as_f64(), fallen.last().copied());

    // Ended by a GPU that breaks down, which saves nothing.
    if cuda_double::real().is_none() {
        let broken = run(&fixture, "cut", "0.fail_launch_at=250", &with(&[])).unwrap();
        assert_eq!(broken.status.code(), Some(64), "{broken:?}");
    } else {
        let stop = with(&["--set", "training.stop_at=10"]);
        events(&run(&fixture, "cut", "", &stop).unwrap());
    }
    let resumed = events(&run(&fixture, "cut", "", &with(&["--resume"])).unwrap());
    assert!(common::of_kind(&resumed, "run_started")[0]["step"].as_u64() > Some(0));
    assert_eq!(fixture.result("cut"), fixture.result("whole"));
}

#[test]
fn a_cpu_computes_in_f32_alone() {
    let fixture = Fixture::new(6);
    let mut command = fixture.command("run", &["--device", "cpu"]);
    let output = command
        .args(["--set", "training.amp=bf16"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(10), "{said}");
    assert!(said.contains("training.amp: bf16 is for GPUs"), "{said}");
}

/// How far the estimate of the GPU's memory may be off.
const SHARE: std::ops::RangeInclusive<f64> = 0.75..=1.4;

/// behaviour: engine-08
#[test]
fn the_estimate_of_the_gpus_memory_stands_against_its_measured_peak() {
    let dead = "sae.dead_after=64";
    let standard = "sae={ variant = \"standard\", d_sae = 2048 }";
    for (what, settings) in [
        ("wide", &["sae.d_sae=8192"][..]),
        (
            "filter",
            &[
                "sae.d_sae=2048",
                "sae.k=64",
                "sae.aux_coefficient=0",
                "training.batch_size=512",
            ],
        ),
        ("auxk", &["sae.d_sae=4096", "training.batch_size=256", dead]),
        ("bf16", &["sae.d_sae=4096", "training.amp=bf16"]),
        ("dense", &[standard]),
        ("micro", &["sae.d_sae=4096", "training.micro_batch_size=16"]),
        (
            "model",
            &["activations.lm_batch=64", "activations.window_batches=16"],
        ),
        ("int8", &["model.precision=int8"]),
        ("f16", &["model.precision=f16"]),
    ] {
        let fixture = Fixture::new(3);
        let set: Vec<&str> = settings.iter().flat_map(|s| ["--set", s]).collect();
        let Some(output) = run(&fixture, what, "", &set) else {
            return;
        };
        let all = events(&output);
        let estimate = &common::of_kind(&all, "estimate")[0]["gpu"];
        let peak = all.last().unwrap()["peak_gpu_memory"].as_f64().unwrap();
        let share = estimate["bytes"].as_f64().unwrap() / peak;
        println!("{what}: {share:.2} of {peak}");
        assert!(
            SHARE.contains(&share),
            "{what}: {share:.2} of {peak}: {estimate}"
        );
        let summary = std::fs::read_to_string(fixture.path(what).join("summary.json")).unwrap();
        let summary: Value = serde_json::from_str(&summary).unwrap();
        assert_eq!(summary["estimated_gpu_memory"], *estimate);
        assert_eq!(summary["peak_gpu_memory"].as_f64(), Some(peak));
    }
}

/// Rows stay on the GPU while the autoencoder is trained on them, where there is room for that.
#[test]
fn a_window_that_does_not_fit_on_the_gpu_is_on_the_host_and_the_result_is_the_same() {
    let fixture = Fixture::new(6);
    let large = &["--set", "activations.window_batches=64"];
    let Some(output) = run(&fixture, "there", "", large) else {
        return;
    };
    let estimate = |all: &[Value]| common::of_kind(all, "estimate")[0].clone();
    let there = estimate(&events(&output));
    let window = there["gpu"]["parts"]["activations"].as_u64().unwrap();
    assert!(there["parts"]["activations"].is_null(), "{there}");
    if cuda_double::real().is_none() {
        let memory = there["gpu"]["bytes"].as_u64().unwrap() - window / 2;
        let all = events(&run(&fixture, "here", &format!("0.memory={memory}"), large).unwrap());
        let here = estimate(&all);
        assert!(here["gpu"]["parts"]["activations"].is_null(), "{here}");
        assert!(here["parts"]["activations"].as_u64() > Some(window));
        assert_eq!(common::of_kind(&all, "oom").len(), 0, "{all:#?}");
        assert_eq!(fixture.result("here"), fixture.result("there"));
    }
}

#[test]
fn a_run_that_cannot_fit_on_the_gpu_is_refused_before_it_begins() {
    let fixture = Fixture::new(3);
    let Some(output) = run(&fixture, "run", "0.memory=300000", &[]) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(62), "{said}");
    assert!(said.contains("MiB of the GPU's memory"), "{said}");
    assert!(said.contains("language model"), "{said}");
    assert!(!fixture.path("run").exists());
}

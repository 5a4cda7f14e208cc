//! Whether the tests see bugs: each of these changes to a kernel must make them fail. Takes
//! minutes, so it waits for `BACKPROPD_FULL=1`.

use super::cuda_double::build::{Sanitizer, Variant, build};
use super::planted::Mutant;
use super::{
    planted, planted_above, planted_batch, planted_codes, planted_dense, planted_filter,
    planted_gather, planted_halves,
};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn full() -> bool {
    std::env::var_os("BACKPROPD_FULL").is_some_and(|v| v == "1")
}

/// The tests of operations, the quickest first.
const TESTS: &[&str] = &[
    "operations::factors_are",
    "operations::rows_are_gathered_and",
    "operations::nan_is",
    "dense::a_matrix_of_chosen",
    "dense::a_matrix_on",
    "operations::where_more",
    "operations::a_later_latent",
    "above::latents",
    "batch::what_is_guessed",
    "batch::a_guess",
    "batch::of_equal",
    "filter::what_rounding",
    "filter::what_the_order",
    "filter::where_too_many",
    "filter::what_is_no_number",
    "filter::the_filter",
    "operations::bits_do_not",
    "operations::rows_are",
    "shadow::whatever",
    "operations::the_largest",
    "operations::latents_of",
    "lm::products_of",
    "lm::an_embedding",
    "lm::a_norm",
    "lm::the_mlp",
    "attention::a_context",
    "attention::tiles_of",
    "attention::tiles_in",
    "operations::a_sort_of",
    "operations::every_operation",
    "operations::selections_agree",
    "operations::the_encoder",
];

/// Tests in a process with other stand-ins, up to the first that fails: which it is, and its output.
fn failing(
    tests: &[&'static str],
    folder: &Path,
    before: &[&str],
    variables: &[(&str, &str)],
) -> Option<(&'static str, Output)> {
    let own = std::env::current_exe().unwrap();
    tests.iter().find_map(|test| {
        let mut command = match before {
            [] => Command::new(&own),
            [first, others @ ..] => {
                let mut command = Command::new(first);
                command.args(others).arg(&own);
                command
            }
        };
        command.arg(test);
        command
            .env("CUDA_DOUBLE_FOLDER", folder)
            .env_remove("BACKPROPD_FULL");
        let output = command.envs(variables.iter().copied()).output().unwrap();
        (!output.status.success()).then_some((*test, output))
    })
}

/// The tests, those first that have the name of this file or have seen bugs in it, the last first.
fn ordered(file: &str, seen: &[(&str, &'static str)]) -> Vec<&'static str> {
    let stem = file.split('.').next().unwrap();
    let rank = |test: &str| {
        let before = seen.iter().rposition(|(f, t)| (*f, *t) == (file, test));
        let named = test.split("::").next() == Some(stem);
        std::cmp::Reverse((before, named))
    };
    let mut tests = TESTS.to_vec();
    tests.sort_by_key(|test| rank(test));
    tests
}

fn copy_kernels(to: &Path) {
    for entry in std::fs::read_dir(Variant::default().kernels).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// All bugs, those of a file together.
fn planted() -> Vec<Mutant> {
    let mut all = [
        planted::MUTANTS,
        planted_above::MUTANTS,
        planted_batch::MUTANTS,
        planted_codes::MUTANTS,
        planted_dense::MUTANTS,
        planted_filter::MUTANTS,
        planted_gather::MUTANTS,
        planted_halves::MUTANTS,
    ]
    .concat();
    all.sort_by_key(|(_, file, ..)| *file);
    all
}

/// What is no longer said cannot be planted: a kernel was changed, and its bugs were not.
#[test]
fn every_bug_can_be_planted() {
    let mut stale = planted();
    stale.retain(|(_, file, old, _)| {
        let text = std::fs::read_to_string(Variant::default().kernels.join(file));
        !text.is_ok_and(|text| text.contains(old))
    });
    assert!(stale.is_empty(), "{stale:#?}");
}

#[test]
fn every_planted_bug_is_seen() {
    if !full() {
        return;
    }
    let Some(whole) = build(&Variant::default()) else {
        return;
    };
    assert!(failing(TESTS, &whole, &[], &[]).is_none());
    let (mut missed, mut seen) = (Vec::new(), Vec::new());
    // One of its words picks some, while a kernel is worked on.
    let word = std::env::var("BACKPROPD_PLANTED").unwrap_or_default();
    for (what, file, old, new) in planted()
        .into_iter()
        .filter(|(what, file, ..)| format!("{file} {what}").contains(&word))
    {
        let folder = tempfile::tempdir().unwrap();
        copy_kernels(folder.path());
        let path = folder.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen(old, new, 1)).unwrap();
        let variant = Variant {
            kernels: folder.path().to_owned(),
            ..Variant::default()
        };
        let built = build(&variant).unwrap();
        if let Some((test, _)) = failing(&ordered(file, &seen), &built, &[], &[]) {
            println!("{file}: {what}: seen by {test}");
            seen.push((file, test));
        } else {
            println!("{file}: {what}: NOT SEEN");
            missed.push(what);
        }
    }
    assert!(missed.is_empty(), "not seen: {missed:#?}");
}

/// The library that a sanitizer wants in front of all others.
fn runtime(name: &str) -> Option<PathBuf> {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let output = Command::new(compiler)
        .arg(format!("-print-file-name={name}"))
        .output()
        .ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_absolute().then_some(path)
}

/// The stand-ins with a sanitizer, and the library it wants; `None` where the compiler has none.
fn sanitized(
    sanitizer: Sanitizer,
    library: &str,
    kernels: Option<&Path>,
) -> Option<(PathBuf, PathBuf)> {
    let runtime = runtime(library)?;
    let mut variant = Variant {
        sanitizer,
        ..Variant::default()
    };
    if let Some(kernels) = kernels {
        kernels.clone_into(&mut variant.kernels);
    }
    Some((build(&variant)?, runtime))
}

#[test]
fn no_kernel_leaves_its_memory() {
    if !full() {
        return;
    }
    let Some((folder, runtime)) = sanitized(Sanitizer::Address, "libasan.so", None) else {
        return;
    };
    let variables = [
        ("LD_PRELOAD", runtime.to_str().unwrap()),
        ("ASAN_OPTIONS", "detect_leaks=0"),
    ];
    let output = failing(&TESTS[..25], &folder, &[], &variables);
    assert!(output.is_none(), "{}", said(&output.unwrap().1));
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What the race detector says about the quick tests of these kernels; "" where nothing.
fn races(kernels: Option<&Path>) -> Option<String> {
    let (folder, runtime) = sanitized(Sanitizer::Thread, "libtsan.so", kernels)?;
    let scratch = tempfile::tempdir().unwrap();
    // This program itself is not built for the detector.
    let own = std::env::current_exe().unwrap();
    let ignored = scratch.path().join("ignored");
    let name = own.file_name().unwrap().to_string_lossy();
    std::fs::write(&ignored, format!("race:/{name}\n")).unwrap();
    let options = format!("suppressions={} exitcode=66", ignored.display());
    let variables = [
        ("LD_PRELOAD", runtime.to_str().unwrap()),
        ("TSAN_OPTIONS", options.as_str()),
    ];
    // It wants its addresses where they always are.
    let output = failing(&TESTS[..7], &folder, &["setarch", "-R"], &variables);
    Some(output.map_or_else(String::new, |(_, output)| said(&output)))
}

#[test]
fn no_two_threads_race() {
    if !full() {
        return;
    }
    let Some(found) = races(None) else {
        return;
    };
    assert_eq!(found, "");
    // … and it would be seen.
    let folder = tempfile::tempdir().unwrap();
    copy_kernels(folder.path());
    let file = folder.path().join("tensor.cu");
    let text = std::fs::read_to_string(&file).unwrap();
    let barrier = "    __syncthreads();\n    if (t + STAGES";
    assert!(text.contains(barrier));
    std::fs::write(&file, text.replacen(barrier, "    if (t + STAGES", 1)).unwrap();
    let found = races(Some(folder.path())).unwrap();
    assert!(
        found.contains("data race") && found.contains("product_bf16"),
        "{found}"
    );
}

//! Whether the tests see bugs: each of these changes to a kernel must make them fail. Takes
//! minutes, so it waits for `BACKPROPD_FULL=1`.

use super::cuda_double::build::{Sanitizer, Variant, build};
use super::{planted, planted_dense, planted_filter, planted_halves};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn full() -> bool {
    std::env::var_os("BACKPROPD_FULL").is_some_and(|v| v == "1")
}

/// The tests of operations, the quickest first.
const TESTS: [&str; 24] = [
    "operations::factors_are",
    "operations::nan_is",
    "dense::a_matrix_of_chosen",
    "dense::a_matrix_on",
    "operations::where_more",
    "operations::a_later_latent",
    "filter::what_rounding",
    "filter::what_the_order",
    "filter::where_too_many",
    "filter::what_is_no_number",
    "filter::the_filter",
    "operations::bits_do_not",
    "operations::rows_are",
    "operations::the_largest",
    "operations::latents_of",
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

/// Tests in a process with other stand-ins, up to the first that fails, of which the output is.
fn failing(
    tests: &[&str],
    folder: &Path,
    before: &[&str],
    variables: &[(&str, &str)],
) -> Option<Output> {
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
        (!output.status.success()).then_some(output)
    })
}

fn copy_kernels(to: &Path) {
    for entry in std::fs::read_dir(Variant::default().kernels).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn every_planted_bug_is_seen() {
    if !full() {
        return;
    }
    let Some(whole) = build(&Variant::default()) else {
        return;
    };
    assert!(failing(&TESTS, &whole, &[], &[]).is_none());
    let mut missed = Vec::new();
    // One of its words picks some, while a kernel is worked on.
    let word = std::env::var("BACKPROPD_PLANTED").unwrap_or_default();
    let all = [
        planted::MUTANTS,
        planted_dense::MUTANTS,
        planted_filter::MUTANTS,
        planted_halves::MUTANTS,
    ]
    .concat();
    for (what, file, old, new) in all
        .into_iter()
        .filter(|(what, file, ..)| format!("{file} {what}").contains(&word))
    {
        let folder = tempfile::tempdir().unwrap();
        copy_kernels(folder.path());
        let path = folder.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(old), "{file} no longer says {old:?}");
        std::fs::write(&path, text.replacen(old, new, 1)).unwrap();
        let variant = Variant {
            kernels: folder.path().to_owned(),
            ..Variant::default()
        };
        if failing(&TESTS, &build(&variant).unwrap(), &[], &[]).is_none() {
            println!("{what}: not seen");
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
    let output = failing(&TESTS[..21], &folder, &[], &variables);
    assert!(output.is_none(), "{}", said(&output.unwrap()));
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
    Some(output.as_ref().map_or_else(String::new, said))
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

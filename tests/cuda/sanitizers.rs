//! All kernels under AddressSanitizer and under ThreadSanitizer.

use super::cuda_double::build::{Sanitizer, Variant, build};
use super::mutants::{copy_kernels, failing, full};
use backpropd::device::cuda::kernels::SOURCES;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Tests that run every kernel, and take minutes where every access is looked up.
const QUICK: &[&str] = &[
    "operations::factors_are",
    "operations::rows_are_gathered_and",
    "operations::nan_is",
    "operations::a_later_latent",
    "operations::where_more",
    "operations::bits_do_not",
    "operations::the_largest",
    "dense::a_matrix_of_chosen",
    "filter::what_rounding",
    "filter::the_filter",
    "lm::",
    "attention::a_context",
    "attention::tiles_of",
    "attention::tiles_in",
    "attention::padding_rows",
    "profile::floors_are",
    "arrival::",
    "batch::",
    "above::",
    "shadow::",
    "wrappers",
    "operations::rows_are_gathered_as",
    "profile::a_step_of",
];

/// More of them, where that is cheaper.
const MORE: &[&str] = &[
    "operations::rows_are",
    "operations::a_sort_of",
    "dense::a_matrix_on",
    "filter::what_the_order",
    "filter::where_too_many",
    "filter::what_is_no_number",
];

/// Kernels of `kernels/` that are not among those in the file.
fn never_run(ran: &Path) -> Vec<String> {
    let ran = std::fs::read_to_string(ran).unwrap_or_default();
    let names = SOURCES.iter().flat_map(|source| source.text.lines());
    let names = names.filter_map(|line| {
        let rest = line.strip_prefix("KERNEL")?;
        let (_, rest) = rest.split_once('(')?;
        rest.split([',', ')']).next().map(str::to_owned)
    });
    names
        .filter(|name| ran.lines().all(|line| line != name))
        .collect()
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
    let scratch = tempfile::tempdir().unwrap();
    let ran = scratch.path().join("ran");
    let variables = [
        ("LD_PRELOAD", runtime.to_str().unwrap()),
        ("ASAN_OPTIONS", "detect_leaks=0"),
        ("CUDA_DOUBLE_RAN", ran.to_str().unwrap()),
    ];
    let output = failing(&[QUICK, MORE].concat(), &folder, &[], &variables);
    assert!(output.is_none(), "{}", said(&output.unwrap().1));
    assert_eq!(never_run(&ran), [""; 0]);
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What the race detector says about these tests of these kernels; "" where nothing. Names of
/// those that ran go to a file.
fn races(tests: &[&'static str], kernels: Option<&Path>, ran: &Path) -> Option<String> {
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
        ("CUDA_DOUBLE_RAN", ran.to_str().unwrap()),
        // What threads of this program do together it does not see.
        ("RUST_TEST_THREADS", "1"),
    ];
    // It wants its addresses where they always are.
    let output = failing(tests, &folder, &["setarch", "-R"], &variables);
    Some(output.map_or_else(String::new, |(_, output)| said(&output)))
}

#[test]
fn no_two_threads_race() {
    if !full() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let ran = scratch.path().join("ran");
    let Some(found) = races(QUICK, None, &ran) else {
        return;
    };
    assert_eq!(found, "");
    assert_eq!(never_run(&ran), [""; 0]);
    // … and it would be seen.
    let folder = tempfile::tempdir().unwrap();
    copy_kernels(folder.path());
    let file = folder.path().join("tensor.cu");
    let text = std::fs::read_to_string(&file).unwrap();
    let barrier = "    __syncthreads();\n    if (t + STAGES";
    assert!(text.contains(barrier));
    std::fs::write(&file, text.replacen(barrier, "    if (t + STAGES", 1)).unwrap();
    let found = races(&QUICK[..1], Some(folder.path()), &ran).unwrap();
    assert!(
        found.contains("data race") && found.contains("product_bf16"),
        "{found}"
    );
}

//! Whether the tests see bugs: each of these changes to a kernel must make them fail. Takes
//! minutes, so it waits for `BACKPROPD_FULL=1`.

use super::cuda_double::build::{Variant, build};
use super::planted::Mutant;
use super::{
    planted, planted_above, planted_batch, planted_codes, planted_dense, planted_filter,
    planted_gather, planted_halves,
};
use std::path::Path;
use std::process::{Command, Output};

/// Whether there is time.
pub fn full() -> bool {
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
pub fn failing(
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

/// All of them, to be changed.
pub fn copy_kernels(to: &Path) {
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

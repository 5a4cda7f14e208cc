//! Disks that are really full: a file system of two megabytes, and a limit on the size of
//! files. Each needs a process of its own; both are this test binary.

use super::open;
use backpropd::domain::{Code, Error};
use backpropd::store::Store;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::path::{Path, PathBuf};
use std::process::Command;

const FOLDER: &str = "BACKPROPD_TEST_FULL_FOLDER";
const KIND: &str = "BACKPROPD_TEST_FULL_KIND";

/// Runs `script` with this binary as `$0`, asked for [`child`] alone.
fn run(dir: &Path, kind: &str, script: &str, wrap: &[&str]) -> Option<String> {
    let shell = ["sh", "-c", script];
    let mut words = wrap.iter().chain(&shell);
    let output = Command::new(words.next().unwrap())
        .args(words)
        .arg(std::env::current_exe().unwrap())
        .env(FOLDER, dir)
        .env(KIND, kind)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    if !text.contains("the child runs") {
        println!("cannot be set up here: {errors}");
        return None;
    }
    assert!(output.status.success(), "{text}{errors}");
    Some(text)
}

const SELF: &str = r#"exec "$0" --exact full_disk::child --nocapture --test-threads=1"#;

#[test]
fn a_full_file_system_is_a_typed_error_and_the_store_works_once_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    // A mount of a process of its own, which goes with it. Not every system allows that.
    let script = format!("mount -t tmpfs -o size=2m tmpfs \"${FOLDER}\" && {SELF}");
    let wrap = ["unshare", "--user", "--map-root-user", "--mount"];
    run(dir.path(), "mount", &script, &wrap);
}

#[test]
fn a_limit_on_the_size_of_files_is_a_typed_error_and_the_store_works_once_it_is_lifted() {
    let dir = tempfile::tempdir().unwrap();
    // A signal that is ignored stays so in the process that follows.
    let script = format!("trap '' XFSZ; ulimit -S -f 2048; {SELF}");
    let ran = run(dir.path(), "limit", &script, &["env"]);
    assert!(ran.is_some());
}

/// Not a test of its own: without the variables it does nothing.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    println!("the child runs");
    let kind = std::env::var(KIND).unwrap();
    let ballast = dir.join("ballast");
    if kind == "mount" {
        std::fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    }
    let mut store = open(&dir);
    let (mut stored, error) = fill(&mut store);
    let expected = match kind.as_str() {
        "mount" => Code::DiskFull,
        // SQLite tells a full disk from other failures of a write, but not this one.
        _ => Code::IoWrite,
    };
    assert_eq!(error.code, expected, "{error}");
    assert!(error.about.contains(dir.to_str().unwrap()), "{error}");
    // Still full, still readable, nothing by half.
    for _ in 0..3 {
        let (more, error) = fill(&mut store);
        stored += more;
        assert_eq!(error.code, expected, "{error}");
        assert_eq!(store.view().newest_event().unwrap(), stored);
    }

    if kind == "mount" {
        std::fs::remove_file(&ballast).unwrap();
    } else {
        let mut limit = getrlimit(Resource::Fsize);
        limit.current = limit.maximum;
        setrlimit(Resource::Fsize, limit).unwrap();
    }
    for _ in 0..10 {
        append(&mut store).unwrap();
    }
    drop(store);
    let store = open(&dir);
    assert_eq!(store.view().newest_event().unwrap(), stored + 10);
}

fn append(store: &mut Store) -> Result<(), Error> {
    let payload = "x".repeat(2_000);
    store.write(|tx| tx.append(None, "x", &payload, 1).map(|_| ()))
}

/// Stores until there is an error; how many were stored before it.
fn fill(store: &mut Store) -> (u64, Error) {
    for stored in 0..100_000 {
        if let Err(error) = append(store) {
            return (stored, error);
        }
    }
    panic!("the disk is never full");
}

//! Compiles the emulator with the kernels, each file once for each content.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What else is to be watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sanitizer {
    /// Nothing.
    #[default]
    None,
    /// Accesses outside of memory.
    Address,
    /// Accesses that no barrier orders.
    Thread,
    /// What kernels move and multiply, which is counted: see `traffic.h`.
    Traffic,
}

/// A way to build.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Folder of the kernels.
    pub kernels: PathBuf,
    /// What is watched.
    pub sanitizer: Sanitizer,
}

impl Default for Variant {
    fn default() -> Self {
        Self {
            kernels: Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels"),
            sanitizer: Sanitizer::None,
        }
    }
}

fn compiler() -> std::ffi::OsString {
    std::env::var_os("CXX").unwrap_or_else(|| "c++".into())
}

/// Whether the compiler is GCC: what a kernel's accesses are is up to the compiler.
pub fn is_gcc() -> bool {
    let version = Command::new(compiler()).arg("--version").output();
    version.is_ok_and(|v| String::from_utf8_lossy(&v.stdout).contains("Free Software Foundation"))
}

/// Past the capture of tests: it is to be seen.
pub fn say(line: &str) {
    let line = format!("{line}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Builds both libraries and gives their folder. `None`, with a line that says so, where there is
/// no C++ compiler, or the machine is none that the emulator runs on.
pub fn build(variant: &Variant) -> Option<PathBuf> {
    let version = Command::new(compiler()).arg("--version").output();
    let version = match version {
        Ok(output) if output.status.success() && cfg!(target_arch = "x86_64") => output.stdout,
        _ => {
            say("SKIPPED: no CUDA kernel runs here: that needs x86-64 and a C++ compiler");
            return None;
        }
    };
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_double");
    let mut units = Vec::new();
    for (folder, end) in [(&own, "cpp"), (&own, "cu"), (&variant.kernels, "cu")] {
        let entries = std::fs::read_dir(folder).unwrap();
        units.extend(
            entries
                .map(|entry| entry.unwrap().path())
                .filter(|p| is(p, end)),
        );
    }
    units.sort();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda_double");
    std::fs::create_dir_all(&folder).unwrap();
    let (nvrtc, units): (Vec<_>, Vec<_>) =
        units.into_iter().partition(|p| p.ends_with("nvrtc.cpp"));
    let mut seed = blake3::Hasher::new();
    seed.update(&version);
    for folder in [&own, &variant.kernels] {
        for end in ["h", "cuh"] {
            let mut headers: Vec<_> = std::fs::read_dir(folder)
                .unwrap()
                .map(|e| e.unwrap().path())
                .collect();
            headers.retain(|path| is(path, end));
            headers.sort();
            headers.iter().for_each(|path| update(&mut seed, path));
        }
    }
    let objects: Vec<PathBuf> = std::thread::scope(|scope| {
        let object = |unit: &PathBuf| object(&folder, unit, variant, &seed);
        let half = units.len() / 2;
        let (first, second) = units.split_at(half);
        let other = scope.spawn(move || second.iter().map(object).collect::<Vec<_>>());
        let mut objects: Vec<_> = first.iter().map(object).collect();
        objects.extend(other.join().unwrap());
        objects
    });
    let mut hash = seed;
    for path in objects.iter().chain(&nvrtc) {
        hash.update(path.as_os_str().as_encoded_bytes());
        update(&mut hash, path);
    }
    let done = folder.join(&hash.finalize().to_hex()[..24]);
    if done.exists() {
        return Some(done);
    }
    let draft = tempfile::TempDir::new_in(&folder).unwrap();
    let link = |name: &str, inputs: &[PathBuf], more: &[&str]| {
        let mut command = Command::new(compiler());
        command.args(["-shared", "-fPIC", "-std=c++17", "-pthread", "-O1"]);
        command.arg(format!("-Wl,-soname,{name}")).args(more);
        run(command.arg("-o").arg(draft.path().join(name)).args(inputs));
    };
    link("libcuda.so", &objects, flags_of(variant.sanitizer));
    link("libnvrtc.so", &nvrtc, &[]);
    // Another test program may have been faster.
    if std::fs::rename(draft.path(), &done).is_ok() {
        let _ = draft.keep();
    }
    assert!(done.join("libcuda.so").exists());
    Some(done)
}

fn is(path: &Path, end: &str) -> bool {
    path.extension().is_some_and(|e| e == end)
}

fn update(hash: &mut blake3::Hasher, path: &Path) {
    hash.update(&std::fs::read(path).unwrap());
}

fn flags_of(sanitizer: Sanitizer) -> &'static [&'static str] {
    match sanitizer {
        Sanitizer::None | Sanitizer::Traffic => &[],
        Sanitizer::Address => &["-fsanitize=address", "-g"],
        Sanitizer::Thread => &["-fsanitize=thread", "-g"],
    }
}

/// The compiled unit, which is made where it is not there yet.
fn object(folder: &Path, unit: &Path, variant: &Variant, seed: &blake3::Hasher) -> PathBuf {
    let kernel = is(unit, "cu");
    let mut flags = vec![
        "-std=c++17",
        "-O2",
        "-march=native",
        "-fPIC",
        "-ftls-model=initial-exec",
        "-DEMULATED",
        "-Wall",
        "-Wextra",
    ];
    flags.extend(["-Wno-unknown-pragmas", "-c"]);
    // A planted bug may leave something unused.
    if variant.kernels == Variant::default().kernels {
        flags.push("-Werror");
    }
    if kernel {
        flags.push("-fvisibility=hidden");
    }
    match variant.sanitizer {
        // The scheduler itself is what the race detector is told by.
        Sanitizer::Thread if !kernel => flags.extend(["-g", "-DWATCH_RACES"]),
        Sanitizer::Traffic => flags.push("-DCOUNT_TRAFFIC"),
        sanitizer => flags.extend(flags_of(sanitizer)),
    }
    // What moves as one is to be seen as one.
    if kernel && variant.sanitizer == Sanitizer::Traffic {
        flags.extend(["-O1", "-fsanitize=thread", "-fno-tree-sra"]);
    }
    let mut hash = seed.clone();
    hash.update(flags.join(" ").as_bytes());
    update(&mut hash, unit);
    let stem = unit.file_stem().unwrap().to_string_lossy();
    let object = folder.join(format!("{stem}-{}.o", &hash.finalize().to_hex()[..24]));
    if !object.exists() {
        let draft = tempfile::NamedTempFile::new_in(folder).unwrap();
        let mut command = Command::new(compiler());
        command
            .args(flags)
            .arg("-I")
            .arg(&variant.kernels)
            .arg("-I");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_double"));
        run(command
            .args(["-x", "c++"])
            .arg(unit)
            .arg("-o")
            .arg(draft.path()));
        draft.persist(&object).unwrap();
    }
    object
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{said}");
}

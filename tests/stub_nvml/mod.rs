//! Builds the stand-in for the driver's library, and writes its script.
//!
//! Every [`StubNvml`] is a copy in a folder of its own: a library is loaded once per file,
//! so tests of one process do not share its state.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A library with a script.
pub struct StubNvml {
    folder: tempfile::TempDir,
}

impl StubNvml {
    /// A library that behaves as `script` says; `nvml.c` tells the language.
    pub fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(built(), folder.path().join("libnvidia-ml.so")).unwrap();
        std::fs::write(folder.path().join("script"), script).unwrap();
        Self { folder }
    }

    /// … that lacks a function.
    pub fn lacking(function: &str, script: &str) -> Self {
        let stub = Self::new(script);
        // Under another name.
        compile(&stub.library(), &[&format!("-D{function}=absent")]);
        stub
    }

    /// The library.
    pub fn library(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so")
    }

    /// Whether a call hangs, or has.
    pub fn is_hanging(&self) -> bool {
        self.folder.path().join("hanging").exists()
    }

    /// Lets calls go on that hang.
    pub fn release(&self) {
        std::fs::write(self.folder.path().join("release"), "").unwrap();
    }

    /// Raises an error of a GPU.
    pub fn raise_xid(&self, gpu: u32, xid: u64) {
        self.write("xid", &format!("{gpu} {xid}"));
    }

    /// Says what a GPU's `key` is from now on, whatever the script says.
    pub fn set(&self, key: &str, gpu: u32, value: &str) {
        self.write(&format!("{key}.{gpu}"), value);
    }

    /// Renamed into place, so that it is read whole.
    fn write(&self, name: &str, text: &str) {
        let draft = self.folder.path().join(format!("{name}.draft"));
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(draft, self.folder.path().join(name)).unwrap();
    }
}

/// The library, compiled once by each test program.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let draft = tempfile::NamedTempFile::new_in(folder).unwrap();
        compile(draft.path(), &[]);
        // Renamed into place: another test program may do the same at the same time.
        let library = folder.join("libnvidia-ml.so");
        draft.persist(&library).unwrap();
        library
    })
}

fn compile(library: &Path, flags: &[&str]) {
    let output = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args(["-shared", "-fPIC", "-pthread", "-O1", "-o"])
        .arg(library)
        .args(flags)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stub_nvml/nvml.c"))
        .arg("-ldl")
        .output()
        .expect("the tests need a C compiler");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

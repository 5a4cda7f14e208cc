//! Builds the stand-ins for the driver and for NVRTC out of the emulator and the kernels
//! themselves, and loads them into the test program.
//!
//! The code under test is the unmodified one: it finds the stand-ins where it looks for the
//! libraries. Where `BACKPROPD_TEST_GPU` has the number of a real GPU there are no stand-ins: what
//! needs no errors on demand runs on that GPU, and the rest says that it is skipped.
#![allow(dead_code)]

pub mod build;

use backpropd::device::cuda::Cuda;
use std::ffi::{CString, c_char, c_int, c_longlong};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Both libraries, loaded.
pub struct Double {
    folder: PathBuf,
    driver: libloading::Library,
}

/// Number of the real GPU that the tests are to run on.
pub fn real() -> Option<usize> {
    let number = std::env::var("BACKPROPD_TEST_GPU").ok()?;
    Some(number.parse().expect("BACKPROPD_TEST_GPU is a number"))
}

/// The stand-ins of this test program; `None` where there is no compiler for them, or a real GPU
/// in their place, which is said once. `CUDA_DOUBLE_FOLDER` names others.
pub fn double() -> Option<&'static Double> {
    static DOUBLE: OnceLock<Option<Double>> = OnceLock::new();
    let load = || {
        if real().is_some() {
            build::say("SKIPPED: what breaks down on demand is for the emulated GPU");
            return None;
        }
        let folder = match std::env::var_os("CUDA_DOUBLE_FOLDER") {
            Some(folder) => PathBuf::from(folder),
            None => build::build(&build::Variant::default())?,
        };
        Some(Double::load(&folder))
    };
    DOUBLE.get_or_init(load).as_ref()
}

/// A device: an emulated one that no other test of this program has, or the real one.
pub struct Gpu {
    double: Option<&'static Double>,
    /// Its number.
    pub ordinal: usize,
}

/// The real GPU, or the next emulated one; `None` where there is neither.
pub fn gpu() -> Option<Gpu> {
    match real() {
        Some(ordinal) => Some(Gpu {
            double: None,
            ordinal,
        }),
        None => emulated(),
    }
}

/// The next emulated device, for tests of errors.
pub fn emulated() -> Option<Gpu> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let double = Some(double()?);
    let ordinal = NEXT.fetch_add(1, Ordering::Relaxed);
    Some(Gpu { double, ordinal })
}

impl Gpu {
    fn emulation(&self) -> &'static Double {
        self.double.expect("a test of the emulated GPU")
    }

    /// Runs threads and blocks in the order of this number, where that can be chosen.
    pub fn schedule(&self, order: i64) {
        if self.double.is_some() {
            self.set("schedule", order);
        }
    }

    /// Sets a number; `devices.h` says which there are.
    pub fn set(&self, key: &str, value: i64) {
        self.emulation()
            .set(i32::try_from(self.ordinal).unwrap(), key, value);
    }

    /// Reads a number.
    pub fn get(&self, key: &str) -> i64 {
        type Get = unsafe extern "C" fn(c_int, *const c_char) -> c_longlong;
        let key = CString::new(key).unwrap();
        // SAFETY: the type is that of `devices.h`.
        unsafe {
            let get = self
                .emulation()
                .driver
                .get::<Get>(b"cuda_double_get")
                .unwrap();
            get(i32::try_from(self.ordinal).unwrap(), key.as_ptr())
        }
    }

    /// The backend on this device, with kernels out of the program's own cache.
    pub fn open(&self) -> Cuda {
        let cache = match self.double {
            Some(double) => double.folder.join("cache"),
            None => std::env::temp_dir().join("backpropd-test-kernels"),
        };
        self.try_open(Some(&cache)).unwrap()
    }

    /// … with a cache of its own, or none.
    pub fn try_open(&self, cache: Option<&Path>) -> backpropd::domain::Result<Cuda> {
        Cuda::open(self.ordinal, cache)
    }
}

impl Double {
    fn load(folder: &Path) -> Self {
        // The loader knows a library that is loaded by the name it gives itself, so cudarc gets
        // these.
        // SAFETY: the libraries were built for this.
        let [driver, nvrtc] = ["libcuda.so", "libnvrtc.so"]
            .map(|name| unsafe { libloading::Library::new(folder.join(name)) }.unwrap());
        std::mem::forget(nvrtc);
        Self {
            folder: folder.to_owned(),
            driver,
        }
    }

    /// The folder with both, for `LD_LIBRARY_PATH` of another program.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn set(&self, device: i32, key: &str, value: i64) {
        type Set = unsafe extern "C" fn(c_int, *const c_char, c_longlong);
        let key = CString::new(key).unwrap();
        // SAFETY: the type is that of `devices.h`.
        unsafe {
            let set = self.driver.get::<Set>(b"cuda_double_set").unwrap();
            set(device, key.as_ptr(), value);
        }
    }
}

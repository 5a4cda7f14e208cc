//! Builds the stand-ins for the driver and for NVRTC out of the emulator and the kernels
//! themselves, and loads them into the test program.
//!
//! The code under test is the unmodified one: it finds the stand-ins where it looks for the
//! libraries. What runs here has run emulated, and nothing more.
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

/// The stand-ins of this test program; `None` where there is no compiler for them, which is said
/// once. `CUDA_DOUBLE_FOLDER` names others.
pub fn double() -> Option<&'static Double> {
    static DOUBLE: OnceLock<Option<Double>> = OnceLock::new();
    let load = || {
        let folder = match std::env::var_os("CUDA_DOUBLE_FOLDER") {
            Some(folder) => PathBuf::from(folder),
            None => build::build(&build::Variant::default())?,
        };
        Some(Double::load(&folder))
    };
    DOUBLE.get_or_init(load).as_ref()
}

/// A device that no other test of this program has.
pub struct Gpu {
    double: &'static Double,
    /// Its number.
    pub ordinal: usize,
}

/// The next device, or `None` where there is no emulator.
pub fn gpu() -> Option<Gpu> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let double = double()?;
    let ordinal = NEXT.fetch_add(1, Ordering::Relaxed);
    Some(Gpu { double, ordinal })
}

impl Gpu {
    /// Sets a number; `devices.h` says which there are.
    pub fn set(&self, key: &str, value: i64) {
        self.double
            .set(i32::try_from(self.ordinal).unwrap(), key, value);
    }

    /// Reads a number.
    pub fn get(&self, key: &str) -> i64 {
        type Get = unsafe extern "C" fn(c_int, *const c_char) -> c_longlong;
        let key = CString::new(key).unwrap();
        // SAFETY: the type is that of `devices.h`.
        unsafe {
            let get = self.double.driver.get::<Get>(b"cuda_double_get").unwrap();
            get(i32::try_from(self.ordinal).unwrap(), key.as_ptr())
        }
    }

    /// The backend on this device, with kernels out of the program's own cache.
    pub fn open(&self) -> Cuda {
        self.try_open(Some(&self.double.folder.join("cache")))
            .unwrap()
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

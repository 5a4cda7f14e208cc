//! What there is to compute on. Nothing here panics where there is no driver.

use super::fault;
use crate::domain::{Code, Error, Result};
use cudarc::driver::{result, sys};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

/// The oldest API that this backend speaks: CUDA 12.
const OLDEST: i32 = 12_000;

/// A version of the CUDA API, as `13.0`.
pub fn version_text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn unavailable(message: impl std::fmt::Display, hint: &str) -> Error {
    Error::new(Code::DeviceUnavailable, "cuda", message).hint(hint)
}

/// Loads the driver once and says which version of the API it has.
///
/// # Errors
/// `device-unavailable` where there is no driver, or none that serves.
pub fn driver() -> Result<i32> {
    static DRIVER: OnceLock<Result<i32>> = OnceLock::new();
    DRIVER.get_or_init(start).clone()
}

fn start() -> Result<i32> {
    // SAFETY: loads a library of the system and runs its constructors, as any use of it would.
    if !unsafe { sys::is_culib_present() } {
        return Err(unavailable(
            "no NVIDIA driver: libcuda.so.1 was not found",
            "install the driver, or use --device cpu",
        ));
    }
    let version = caught(|| {
        let mut version = 0;
        // SAFETY: the pointer is valid for the call.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
        Ok(version)
    })?;
    if version < OLDEST {
        let (found, oldest) = (version_text(version), version_text(OLDEST));
        return Err(unavailable(
            format_args!("the driver speaks CUDA {found}, and {oldest} is the oldest that serves"),
            "install a newer driver, or use --device cpu",
        ));
    }
    caught(result::init)?;
    Ok(version)
}

/// Number of GPUs.
///
/// # Errors
/// As [`driver`].
pub fn count() -> Result<usize> {
    driver()?;
    let count = caught(result::device::get_count)?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// cudarc panics where a library lacks a symbol.
fn caught<T>(call: impl FnOnce() -> std::result::Result<T, result::DriverError>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(outcome) => outcome.map_err(|e| fault::error("cuda", "the driver does not start", e)),
        Err(_) => Err(unavailable(
            "the driver lacks a function that CUDA 12 has",
            "install a newer driver, or use --device cpu",
        )),
    }
}

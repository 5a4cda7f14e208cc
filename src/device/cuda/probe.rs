//! What there is to compute on. Nothing here panics where there is no driver.

use super::fault;
use crate::domain::{Code, Error, Result};
use cudarc::driver::sys::cudaError_enum::CUDA_ERROR_NO_DEVICE as NO_DEVICE;
use cudarc::driver::{DriverError, result, sys};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

/// Compute modes in which no process may use a GPU, and in which one at a time may.
const PROHIBITED: i32 = sys::CUcomputemode_enum::CU_COMPUTEMODE_PROHIBITED as i32;
const EXCLUSIVE: i32 = sys::CUcomputemode_enum::CU_COMPUTEMODE_EXCLUSIVE_PROCESS as i32;
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

/// A GPU that is there, before anything is taken of it.
#[derive(Clone, Debug)]
pub struct Found {
    /// `cuda:0`.
    pub name: String,
    /// The driver's number for it.
    pub device: sys::CUdevice,
    /// What it is called wherever it is counted from, in hexadecimal; that of the instance where
    /// a GPU is divided (MIG). `None` where the driver does not say.
    pub uuid: Option<String>,
}

/// GPU number `ordinal`, as CUDA_VISIBLE_DEVICES leaves them.
///
/// # Errors
/// As [`driver`], and where there is no such GPU.
pub fn find(ordinal: usize) -> Result<Found> {
    driver()?;
    let count = caught(result::device::get_count)?;
    let name = format!("cuda:{ordinal}");
    let number = i32::try_from(ordinal).ok().filter(|n| *n < count);
    let Some(number) = number else {
        return Err(absent(name, count));
    };
    let device = caught(|| result::device::get(number))?;
    let uuid = caught(|| {
        let mut uuid = sys::CUuuid { bytes: [0; 16] };
        // SAFETY: the pointer is valid for the call.
        unsafe { sys::cuDeviceGetUuid_v2(&raw mut uuid, device) }.result()?;
        Ok(uuid)
    });
    let hex = |uuid: sys::CUuuid| {
        let bytes = uuid
            .bytes
            .map(|byte| format!("{:02x}", byte.cast_unsigned()));
        [0..4, 4..6, 6..8, 8..10, 10..16]
            .map(|part| bytes[part].concat())
            .join("-")
    };
    Ok(Found {
        name,
        device,
        uuid: uuid.ok().map(hex),
    })
}

/// What CUDA_VISIBLE_DEVICES says.
fn visible() -> Option<String> {
    std::env::var_os("CUDA_VISIBLE_DEVICES").map(|value| value.to_string_lossy().into_owned())
}

/// There are only `count` GPUs.
fn absent(name: String, count: i32) -> Error {
    let last = count - 1;
    let visible = visible();
    let found = match (count, visible.as_deref()) {
        (0, None) => "there is no GPU".to_owned(),
        (1, None) => "there is one GPU, cuda:0".to_owned(),
        (_, None) => format!("there are {count} GPUs, cuda:0 to cuda:{last}"),
        (0, Some("")) => "CUDA_VISIBLE_DEVICES is empty, which hides every GPU".to_owned(),
        (0, Some(value)) => format!("CUDA_VISIBLE_DEVICES={value} leaves no GPU"),
        (1, Some(value)) => format!("CUDA_VISIBLE_DEVICES={value} leaves one GPU, cuda:0"),
        (_, Some(value)) => {
            format!("CUDA_VISIBLE_DEVICES={value} leaves {count} GPUs, cuda:0 to cuda:{last}")
        }
    };
    let hint = match visible {
        None => "`nvidia-smi -L` lists the GPUs; --device cpu needs none",
        Some(_) => {
            "unset it, or name GPUs in it by index or uuid as `nvidia-smi -L` lists them; the \
             first entry that names none ends the list"
        }
    };
    Error::new(Code::DeviceUnavailable, name, found).hint(hint)
}

/// Expects that contexts may be made on a GPU, and says why one could not be.
pub fn expect_access(found: &Found, failure: Option<DriverError>) -> Result<()> {
    let attribute = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_COMPUTE_MODE;
    // SAFETY: the device is one that the driver named.
    let mode = unsafe { result::device::get_attribute(found.device, attribute) };
    let unavailable = |message: &str, hint: &str| {
        Err(Error::new(Code::DeviceUnavailable, &found.name, message).hint(hint))
    };
    match (mode, failure) {
        (Ok(PROHIBITED), _) => unavailable(
            "its compute mode is prohibited",
            "`nvidia-smi -c DEFAULT` allows it again, or use another GPU",
        ),
        (Ok(EXCLUSIVE), Some(e)) if e.0 == sys::cudaError_enum::CUDA_ERROR_DEVICE_UNAVAILABLE => {
            unavailable(
                "its compute mode lets one process in, and another one has it",
                "wait for that process, which `nvidia-smi` names; `nvidia-smi -c DEFAULT` lets \
                 several in",
            )
        }
        (_, Some(e)) => Err(fault::error(&found.name, "its context", e)),
        (_, None) => Ok(()),
    }
}

/// cudarc panics where a library lacks a symbol.
fn caught<T>(call: impl FnOnce() -> std::result::Result<T, result::DriverError>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Err(DriverError(NO_DEVICE))) if visible().is_some() => Err(absent("cuda".into(), 0)),
        Ok(outcome) => outcome.map_err(|e| fault::error("cuda", "the driver does not start", e)),
        Err(_) => Err(unavailable(
            "the driver lacks a function that CUDA 12 has",
            "install a newer driver, or use --device cpu",
        )),
    }
}

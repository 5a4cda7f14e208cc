//! From sources to machine code, by NVRTC on the GPU's own host.

use super::kernels::HEADERS;
use super::probe::version_text;
use crate::domain::{Code, Error, Result};
use cudarc::nvrtc::{result, sys};
use std::ffi::{CStr, CString, c_char};
use std::sync::OnceLock;

/// A file of kernels.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Its name below `kernels/`.
    pub name: &'static str,
    /// What it says.
    pub text: &'static str,
}

/// What code is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `sm_90a`.
    pub arch: String,
    /// Bytes of shared memory that a block can have.
    pub shared: usize,
}

/// The architecture of a compute capability. Code for `sm_90a` has what only 9.0 has.
pub fn arch(major: i32, minor: i32) -> String {
    match (major, minor) {
        (9, 0) => "sm_90a".to_owned(),
        _ => format!("sm_{major}{minor}"),
    }
}

/// The options that every kernel is compiled with, but the architecture.
pub const OPTIONS: [&str; 1] = ["--std=c++17"];

fn unavailable(message: impl std::fmt::Display, hint: &str) -> Error {
    Error::new(Code::DeviceUnavailable, "nvrtc", message).hint(hint)
}

/// The version of NVRTC, as that of the API.
///
/// # Errors
/// `device-unavailable` where there is none.
pub fn version() -> Result<i32> {
    static VERSION: OnceLock<Result<i32>> = OnceLock::new();
    let find = || {
        // SAFETY: loads a library of the system, as any use of it would.
        if !unsafe { sys::is_culib_present() } {
            return Err(unavailable(
                "libnvrtc, which compiles the kernels for the GPU, was not found",
                "install CUDA's NVRTC (for example `pip install nvidia-cuda-nvrtc`) and put its \
                 folder on LD_LIBRARY_PATH",
            ));
        }
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the pointers are valid for the call; every NVRTC has this function.
        let status = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
        status
            .result()
            .map_err(|e| unavailable(format_args!("does not say its version: {e}"), ""))?;
        Ok(major * 1000 + minor * 10)
    };
    VERSION.get_or_init(find).clone()
}

/// Expects that the driver takes what this NVRTC makes.
///
/// # Errors
/// `device-unavailable` where it is of a newer generation.
pub fn expect_fit(driver: i32) -> Result<()> {
    let nvrtc = version()?;
    if nvrtc / 1000 <= driver / 1000 {
        return Ok(());
    }
    let (nvrtc, driver) = (version_text(nvrtc), version_text(driver));
    Err(unavailable(
        format_args!("NVRTC {nvrtc} is newer than the driver, which speaks CUDA {driver}"),
        "install a newer driver, or an NVRTC of the driver's generation",
    ))
}

/// A program that goes away by itself.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program was created and is destroyed once.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

impl Program {
    fn new(source: &Source) -> Result<Self> {
        let text = |of: &str| CString::new(of).expect("sources without 0");
        let (code, name) = (text(source.text), text(source.name));
        let texts: Vec<CString> = HEADERS.iter().map(|h| text(h.text)).collect();
        let names: Vec<CString> = HEADERS.iter().map(|h| text(h.name)).collect();
        let pointers = |of: &[CString]| -> Vec<*const c_char> {
            of.iter().map(|s| s.as_ptr().cast()).collect()
        };
        let (texts_at, names_at) = (pointers(&texts), pointers(&names));
        let mut program = std::ptr::null_mut();
        // SAFETY: all pointers are valid for the call, which copies what they point to.
        let status = unsafe {
            sys::nvrtcCreateProgram(
                &raw mut program,
                code.as_ptr(),
                name.as_ptr(),
                i32::try_from(HEADERS.len()).expect("few headers"),
                texts_at.as_ptr(),
                names_at.as_ptr(),
            )
        };
        status
            .result()
            .map_err(|e| Error::new(Code::Internal, source.name, format_args!("NVRTC: {e}")))?;
        Ok(Self(program))
    }

    /// What the compiler had to say.
    fn log(&self) -> String {
        // SAFETY: the program is there.
        let log = unsafe { result::get_program_log(self.0) }.unwrap_or_default();
        let bytes: Vec<u8> = log.iter().map(|c| c.cast_unsigned()).collect();
        let text =
            CStr::from_bytes_until_nul(&bytes).map_or_else(|_| "".into(), CStr::to_string_lossy);
        text.trim().to_owned()
    }

    fn code(&self) -> std::result::Result<Vec<u8>, result::NvrtcError> {
        let mut bytes = 0;
        // SAFETY: the program is there and compiled; the buffer is as long as NVRTC says.
        unsafe {
            sys::nvrtcGetCUBINSize(self.0, &raw mut bytes).result()?;
            let mut code = vec![0u8; bytes];
            sys::nvrtcGetCUBIN(self.0, code.as_mut_ptr().cast()).result()?;
            Ok(code)
        }
    }
}

/// Machine code and the compiler's log.
///
/// # Errors
/// `device-unavailable` where NVRTC does not know the architecture, and `internal` with the log
/// where the source is wrong.
pub fn compile(source: &Source, arch: &str, more: &[&str]) -> Result<(Vec<u8>, String)> {
    version()?;
    let program = Program::new(source)?;
    let architecture = format!("--gpu-architecture={arch}");
    let mut options = vec![architecture.as_str()];
    options.extend(OPTIONS);
    options.extend(more);
    // SAFETY: the program is there.
    let compiled = unsafe { result::compile_program(program.0, &options) };
    let failed = |e: result::NvrtcError| match e.0 {
        sys::nvrtcResult::NVRTC_ERROR_INVALID_OPTION => unavailable(
            format_args!("this NVRTC makes no code for {arch}"),
            "install an NVRTC that is as new as the GPU",
        ),
        _ => Error::new(
            Code::Internal,
            source.name,
            format_args!("does not compile for {arch}: {e}: {}", program.log()),
        ),
    };
    compiled
        .and_then(|()| program.code())
        .map_err(failed)
        .map(|code| (code, program.log()))
}

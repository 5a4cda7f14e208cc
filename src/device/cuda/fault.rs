//! What an error of the driver means for the worker.

use crate::domain::{Code, Error};
use cudarc::driver::DriverError;

/// Kinds of errors, by what can be done about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Less memory may do: smaller micro-batches.
    OutOfMemory,
    /// The context is of no use any more; another process may succeed.
    Sticky,
    /// The GPU is gone, or needs a reset.
    Lost,
    /// Not now: another process holds the GPU, or it is still starting.
    Transient,
    /// There is no such GPU, or the driver cannot serve it.
    Absent,
    /// Machine code that the driver does not take.
    Compile,
    /// Anything else is a mistake of this program.
    Defect,
}

/// The kind of an error, by its number in the driver's API.
pub const fn classify(code: u32) -> Fault {
    match code {
        2 => Fault::OutOfMemory,
        // Illegal address, time limit, assertion, hardware stack, illegal instruction,
        // misaligned address, address space, program counter, launch failure, leaked tensor
        // memory; an uncorrectable error of memory or of a link; a context that was destroyed.
        700 | 702 | 709 | 710 | 714..=719 | 721 | 214 | 220 | 226 | 227 => Fault::Sticky,
        // After a start that went well, "unknown" is what a GPU says that fell off the bus.
        999 => Fault::Lost,
        46 | 802 => Fault::Transient,
        // Not initialised, a stub, no device, no such device, no licence, MPS, and drivers and
        // kernels that do not fit each other.
        3 | 34 | 100..=102 | 803..=809 => Fault::Absent,
        200 | 209 | 218 | 221..=223 => Fault::Compile,
        _ => Fault::Defect,
    }
}

impl Fault {
    /// The stable code that says the same.
    pub const fn code(self) -> Code {
        match self {
            Self::OutOfMemory => Code::OutOfMemory,
            Self::Sticky => Code::DevicePoisoned,
            Self::Lost => Code::DeviceLost,
            Self::Transient | Self::Absent | Self::Compile => Code::DeviceUnavailable,
            Self::Defect => Code::Internal,
        }
    }

    const fn hint(self) -> &'static str {
        match self {
            Self::OutOfMemory | Self::Defect => "",
            Self::Sticky => "a new process can go on from the last checkpoint",
            Self::Lost => "look at `nvidia-smi` and the kernel's log; the GPU may need a reset",
            Self::Transient => "another process may hold the GPU; try again",
            Self::Absent => "`nvidia-smi` lists the GPUs; CUDA_VISIBLE_DEVICES hides some of them",
            Self::Compile => "install a driver that is as new as NVRTC, or an older NVRTC",
        }
    }
}

/// An error of the driver, of device `about`, while it did `what`.
pub fn error(about: &str, what: &str, source: DriverError) -> Error {
    let number = source.0 as u32;
    let name = source.error_name().ok();
    let name = name.map_or_else(String::new, |name| format!("{} ", name.to_string_lossy()));
    let fault = classify(number);
    Error::new(
        fault.code(),
        about,
        format_args!("{what}: {name}(error {number} of the driver)"),
    )
    .hint(fault.hint())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_classed_by_what_can_be_done() {
        for (code, fault) in [
            (2, Fault::OutOfMemory),
            (46, Fault::Transient),
            (100, Fault::Absent),
            (101, Fault::Absent),
            (200, Fault::Compile),
            (209, Fault::Compile),
            (214, Fault::Sticky),
            (700, Fault::Sticky),
            (701, Fault::Defect),
            (713, Fault::Defect),
            (719, Fault::Sticky),
            (720, Fault::Defect),
            (803, Fault::Absent),
            (999, Fault::Lost),
            (1, Fault::Defect),
        ] {
            assert_eq!(classify(code), fault, "{code}");
        }
        assert!(Fault::Sticky.code().is_of_the_process());
        assert!(Fault::Lost.code().is_of_the_process());
        assert!(!Fault::OutOfMemory.code().is_of_the_process());
    }
}

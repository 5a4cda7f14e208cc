//! What the wrapper has no safe function for.

use nvml_wrapper::error::nvml_try;
use nvml_wrapper::{Device, Nvml};

/// What tells one device from another for as long as the library is open. Works for a GPU
/// that is lost, when neither its uuid nor its index can be asked for any more.
pub(super) fn address(device: &Device<'_>) -> usize {
    // SAFETY: the handle is turned into a number at once; nothing is called with it.
    unsafe { device.handle() }.addr()
}

/// Degrees that are left until the card switches itself off, on cards that tell margins
/// instead of temperatures (Ada and newer).
pub(super) fn degrees_to_shutdown(nvml: &Nvml, device: &Device<'_>) -> Option<f64> {
    // Both count from the temperature at which the card begins to slow down: one the way
    // to it, the other (below 0) the way on from there.
    Some(f64::from(margin(nvml, device)?) - f64::from(shutdown_margin(nvml, device)?))
}

/// `nvmlMarginTemperature_v1_t` of the library's header.
#[repr(C)]
struct Margin {
    version: u32,
    margin: i32,
}

fn margin(nvml: &Nvml, device: &Device<'_>) -> Option<i32> {
    let function = *nvml.lib().nvmlDeviceGetMarginTemperature.as_ref().ok()?;
    let mut answer = Margin {
        // The library's rule: the size of the structure, and its version in the top byte.
        version: u32::try_from(size_of::<Margin>()).ok()? | 1 << 24,
        margin: 0,
    };
    // SAFETY: the function was looked up in the open library under its own name; the
    // handle belongs to that library; the structure has the layout that the header
    // declares, lives through the call, and says its size.
    let code = unsafe { function(device.handle(), (&raw mut answer).cast()) };
    nvml_try(code).ok().map(|()| answer.margin)
}

/// `nvmlFieldValue_t` of the library's header, its union taken as the largest member.
#[repr(C)]
#[derive(Default)]
struct Field {
    id: u32,
    scope: u32,
    timestamp: i64,
    latency: i64,
    kind: u32,
    code: u32,
    value: [u8; 8],
}

/// `NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT`
const SHUTDOWN_TLIMIT: u32 = 193;
/// `NVML_VALUE_TYPE_SIGNED_INT`
const SIGNED_INT: u32 = 5;

fn shutdown_margin(nvml: &Nvml, device: &Device<'_>) -> Option<i32> {
    let function = *nvml.lib().nvmlDeviceGetFieldValues.as_ref().ok()?;
    let mut field = Field {
        id: SHUTDOWN_TLIMIT,
        ..Field::default()
    };
    // SAFETY: as above; one structure is announced and one is there.
    let code = unsafe { function(device.handle(), 1, (&raw mut field).cast()) };
    nvml_try(code).ok()?;
    nvml_try(field.code).ok()?;
    let [a, b, c, d, ..] = field.value;
    (field.kind == SIGNED_INT).then(|| i32::from_ne_bytes([a, b, c, d]))
}

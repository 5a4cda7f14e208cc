//! The driver's library: opened while running, asked for everything, believed in nothing.

use super::raw;
use super::reader::Inbox;
use super::xids::XidWatch;
use crate::domain::gpu::{Health, MigInstance, Reading, Throttle};
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{
    EccCounter, MemoryError, TemperatureSensor, TemperatureThreshold,
};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Names the driver's library where it is not found by its usual name. Beats the settings.
pub const LIBRARY_VARIABLE: &str = "BACKPROPD_NVML";

const LIBRARY: &str = "libnvidia-ml.so.1";

/// Highest temperature that is believed, °C: what is gone reads as all bits set.
const HOTTEST: u32 = 200;

/// A library that cannot be closed, so that it is opened once and not every minute.
static NEVER_CLOSED: OnceLock<OsString> = OnceLock::new();

/// One look at all GPUs.
#[derive(Debug)]
pub(super) struct Look {
    pub version: Option<String>,
    pub gpus: Vec<GpuLook>,
}

/// One look at one GPU.
#[derive(Debug)]
pub(super) enum GpuLook {
    Read(Box<Reading>, Health),
    Lost { index: u32, reason: String },
}

/// There is no driver to ask; why, in one line.
#[derive(Debug)]
pub(super) struct NoDriver(pub String);

/// An open library.
pub(super) struct Session {
    nvml: Arc<Nvml>,
    version: Option<String>,
    /// Ends the watch for errors with the session.
    _xids: Option<XidWatch>,
}

impl Session {
    /// Opens the library: the environment's, else `configured`, else the usual one.
    /// Errors of GPUs go to `inbox` from then on, with `generation`.
    pub fn open(
        configured: Option<&Path>,
        generation: u64,
        inbox: &Inbox,
    ) -> Result<Self, NoDriver> {
        let library = std::env::var_os(LIBRARY_VARIABLE)
            .filter(|name| !name.is_empty())
            .or_else(|| configured.map(|path| path.as_os_str().to_owned()))
            .unwrap_or_else(|| OsString::from(LIBRARY));
        if let Some(known) = NEVER_CLOSED.get().filter(|known| **known == library) {
            return Err(no_library(known));
        }
        let nvml = Nvml::builder()
            .lib_path(&library)
            .init()
            .map_err(|error| NoDriver(explain(&library, &error)))?;
        // The wrapper panics where it misses one of these when it closes: such a library
        // stays open for good.
        if nvml.lib().nvmlShutdown.is_err() || nvml.lib().nvmlEventSetFree.is_err() {
            std::mem::forget(nvml);
            return Err(no_library(NEVER_CLOSED.get_or_init(|| library)));
        }
        let nvml = Arc::new(nvml);
        Ok(Self {
            version: nvml.sys_driver_version().ok(),
            _xids: XidWatch::start(Arc::clone(&nvml), generation, inbox.clone()),
            nvml,
        })
    }

    /// Reads every GPU. A value that cannot be read is unknown; an error is about the
    /// driver as a whole, and ends the session.
    pub fn look(&self) -> Result<Look, NoDriver> {
        let count = self
            .nvml
            .device_count()
            .map_err(|error| NoDriver(format!("the NVIDIA driver failed: {error}")))?;
        Ok(Look {
            version: self.version.clone(),
            gpus: (0..count).map(|index| self.look_at(index)).collect(),
        })
    }

    fn look_at(&self, index: u32) -> GpuLook {
        let lost = |error: &NvmlError| GpuLook::Lost {
            index,
            reason: format!("GPU {index} cannot be read: {error}"),
        };
        let device = match self.nvml.device_by_index(index) {
            Ok(device) => device,
            Err(error) => return lost(&error),
        };
        // Asked first and alone: it tells a lost GPU from one without a sensor.
        let temperature = match device.temperature(TemperatureSensor::Gpu) {
            Err(error @ (NvmlError::GpuLost | NvmlError::ResetRequired)) => return lost(&error),
            answer => answer.ok().filter(|t| *t <= HOTTEST).map(f64::from),
        };
        let memory = device.memory_info().ok();
        let reading = Reading {
            index,
            name: device.name().ok(),
            uuid: device.uuid().ok(),
            temperature_c: temperature,
            shutdown_c: self.shutdown_c(&device, temperature),
            memory_total: memory.as_ref().map(|m| m.total),
            memory_used: memory.as_ref().map(|m| m.used),
            memory_free: memory.as_ref().map(|m| m.free),
            power_draw_w: device.power_usage().ok().map(watts),
            power_limit_w: device.enforced_power_limit().ok().map(watts),
            utilisation_percent: device.utilization_rates().ok().map(|u| f64::from(u.gpu)),
            mig: mig(&device),
            timestamp_ms: 0,
        };
        GpuLook::Read(Box::new(reading), health(&device))
    }

    fn shutdown_c(&self, device: &Device<'_>, temperature: Option<f64>) -> Option<f64> {
        match device.temperature_threshold(TemperatureThreshold::Shutdown) {
            // 0 is what some drivers say for cards that do not tell.
            Ok(limit) => (1..=HOTTEST).contains(&limit).then(|| f64::from(limit)),
            Err(_) => Some(temperature? + raw::degrees_to_shutdown(&self.nvml, device)?),
        }
    }
}

fn watts(milliwatts: u32) -> f64 {
    f64::from(milliwatts) / 1000.0
}

/// The instances of a GPU that is divided.
fn mig(device: &Device<'_>) -> Option<Vec<MigInstance>> {
    if device.mig_mode().ok()?.current == 0 {
        return None;
    }
    // A count of places, of which some may be empty.
    let places = device.mig_device_count().ok()?;
    let instances = (0..places).filter_map(|place| device.mig_device_by_index(place).ok());
    let known = instances.map(|instance| {
        let memory = instance.memory_info().ok();
        MigInstance {
            uuid: instance.uuid().ok(),
            memory_total: memory.as_ref().map(|m| m.total),
            memory_used: memory.as_ref().map(|m| m.used),
        }
    });
    Some(known.collect())
}

fn health(device: &Device<'_>) -> Health {
    let errors = |kind| device.total_ecc_errors(kind, EccCounter::Volatile).ok();
    Health {
        ecc_corrected: errors(MemoryError::Corrected),
        ecc_uncorrected: errors(MemoryError::Uncorrected),
        throttle: device.current_throttle_reasons().ok().map(throttle),
    }
}

fn throttle(reasons: ThrottleReasons) -> BTreeSet<Throttle> {
    [
        (ThrottleReasons::SW_POWER_CAP, Throttle::PowerCap),
        (ThrottleReasons::SYNC_BOOST, Throttle::SyncBoost),
        (
            ThrottleReasons::SW_THERMAL_SLOWDOWN,
            Throttle::SoftwareThermal,
        ),
        (
            ThrottleReasons::HW_THERMAL_SLOWDOWN,
            Throttle::HardwareThermal,
        ),
        (
            ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN,
            Throttle::PowerBrake,
        ),
        (ThrottleReasons::HW_SLOWDOWN, Throttle::HardwareSlowdown),
    ]
    .into_iter()
    .filter(|(flag, _)| reasons.contains(*flag))
    .map(|(_, reason)| reason)
    .collect()
}

fn no_library(library: &OsStr) -> NoDriver {
    NoDriver(format!(
        "the NVIDIA driver cannot be used: {} is not a driver's library",
        library.display()
    ))
}

/// Why the library does not open, in one line, with what to do where that is known.
fn explain(library: &OsStr, error: &NvmlError) -> String {
    let library = library.display();
    let text = match error {
        NvmlError::LibloadingError(source) => {
            let (why, name) = (source.to_string(), format!("{library}: "));
            let why = why.strip_prefix(&name).unwrap_or(&why);
            format!("no NVIDIA driver: {library}: {why}")
        }
        NvmlError::DriverNotLoaded => {
            "the NVIDIA driver is installed but not loaded: modprobe nvidia".to_owned()
        }
        NvmlError::LibRmVersionMismatch => {
            "the NVIDIA driver was updated while loaded: reboot, or reload its modules".to_owned()
        }
        NvmlError::NoPermission => {
            "this user may not use the NVIDIA driver: give it access to /dev/nvidia*".to_owned()
        }
        other => format!("the NVIDIA driver cannot be used: {library}: {other}"),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

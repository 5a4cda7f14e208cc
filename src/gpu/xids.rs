//! Waits for the driver's errors, on a thread of its own: they must not be told late, and
//! the driver remembers the latest only.

use super::core::Input;
use super::raw;
use super::reader::Inbox;
use crate::domain::gpu::{GpuName, Xid};
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, EventSet, Nvml};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

/// How long the driver waits at once. The thread outlives its session by this at most.
const SLICE_MS: u32 = 500;

/// After an error, and where no GPU can report errors: when to try again.
const REST: Duration = Duration::from_secs(10);

/// The watch. Dropping it ends the thread, without waiting for it.
pub(super) struct XidWatch {
    _alive: SyncSender<()>,
}

impl XidWatch {
    /// Starts the thread; `None` where the system has no thread left, which costs the
    /// errors and nothing else.
    pub fn start(nvml: Arc<Nvml>, generation: u64, inbox: Inbox) -> Option<Self> {
        // Nothing is ever sent: only its end is of interest.
        let (alive, ended) = sync_channel(0);
        std::thread::Builder::new()
            .name("nvml-events".into())
            .spawn(move || {
                loop {
                    // Ends when the driver refuses to wait, or with the watch.
                    let _ = watch(&nvml, generation, &inbox, &ended);
                    match ended.recv_timeout(REST) {
                        Err(RecvTimeoutError::Timeout) => {}
                        Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            })
            .ok()?;
        Some(Self { _alive: alive })
    }
}

fn has_ended(ended: &Receiver<()>) -> bool {
    matches!(ended.try_recv(), Err(TryRecvError::Disconnected))
}

/// Reports errors until the driver refuses to wait any longer, or the watch ends.
fn watch(nvml: &Nvml, generation: u64, inbox: &Inbox, ended: &Receiver<()>) -> Option<()> {
    let mut gpus: Vec<(Device<'_>, GpuName)> = (0..nvml.device_count().ok()?)
        .filter_map(|index| {
            let device = nvml.device_by_index(index).ok()?;
            let uuid = device.uuid().ok();
            Some((device, GpuName { index, uuid }))
        })
        .filter(|(device, _)| {
            device
                .supported_event_types()
                .is_ok_and(|types| types.contains(EventTypes::CRITICAL_XID_ERROR))
        })
        .collect();
    let set = register(nvml, &mut gpus)?;
    while !has_ended(ended) {
        let event = match set.wait(SLICE_MS) {
            Ok(event) => event,
            Err(NvmlError::Timeout) => continue,
            Err(_) => return None,
        };
        let Some(error) = event.event_data else {
            continue;
        };
        let address = raw::address(&event.device);
        let Some((_, gpu)) = gpus.iter().find(|(d, _)| raw::address(d) == address) else {
            continue;
        };
        let number = match error {
            XidError::Value(number) => Some(number),
            XidError::Unknown => None,
        };
        inbox.send(Input::Xid {
            generation,
            gpu: gpu.clone(),
            xid: Xid::new(number),
        });
    }
    Some(())
}

/// A set of all GPUs that can be registered. A refusal frees the whole set, so it is built
/// anew without the GPU that refused.
fn register<'n>(nvml: &'n Nvml, gpus: &mut Vec<(Device<'n>, GpuName)>) -> Option<EventSet<'n>> {
    'anew: while !gpus.is_empty() {
        let mut set = nvml.create_event_set().ok()?;
        for at in 0..gpus.len() {
            set = match gpus[at]
                .0
                .register_events(EventTypes::CRITICAL_XID_ERROR, set)
            {
                Ok(set) => set,
                Err(_) => {
                    gpus.remove(at);
                    continue 'anew;
                }
            };
        }
        return Some(set);
    }
    None
}

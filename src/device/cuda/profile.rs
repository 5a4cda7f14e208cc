//! What the GPU's time goes into, where somebody asks: everything that is given to the stream
//! then stands between two events, and the host's waits and allocations are counted.
//!
//! An event costs the GPU about a microsecond, and a bracket around work that the GPU waited for
//! also holds the wait: what is timed is timed without a profile, and this says what it consists
//! of.

use super::Cuda;
use super::memory::Gpu;
use crate::domain::Result;
use cudarc::driver::{CudaEvent, sys};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What was done from [`Cuda::start_profile`] to [`Cuda::take_profile`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// What the stream was given, by descending time.
    pub work: Vec<Work>,
    /// Times that the host waited for numbers from the GPU.
    pub waits: u64,
    /// Seconds that it spent so.
    pub waited: f64,
    /// Allocations of the GPU's memory.
    pub allocations: u64,
    /// Bytes of all of them.
    pub allocated: u64,
}

/// All launches of a kernel, or all copies of a kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// Name of the kernel; of a copy, what it is, in brackets.
    pub name: &'static str,
    /// How many.
    pub launches: u64,
    /// Milliseconds of all together.
    pub milliseconds: f64,
}

/// Takes profiles; while none is taken each use is a branch.
#[derive(Default)]
pub struct Recorder {
    on: AtomicBool,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    spans: Vec<(&'static str, [CudaEvent; 2])>,
    /// Events of earlier profiles.
    free: Vec<CudaEvent>,
    waits: u64,
    waited: Duration,
    allocations: u64,
    allocated: u64,
}

impl Recorder {
    fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An allocation of `bytes`.
    pub fn allocated(&self, bytes: usize) {
        if self.is_on() {
            let mut notes = self.notes();
            notes.allocations += 1;
            notes.allocated += bytes as u64;
        }
    }

    /// Runs `wait`, which waits for what was copied to the host.
    pub fn waited<T>(&self, wait: impl FnOnce() -> T) -> T {
        if !self.is_on() {
            return wait();
        }
        let start = Instant::now();
        let outcome = wait();
        let mut notes = self.notes();
        notes.waits += 1;
        notes.waited += start.elapsed();
        outcome
    }
}

impl Gpu {
    /// Runs `give`, which gives work to the stream.
    pub fn recorded<T>(&self, name: &'static str, give: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.recorder.is_on() {
            return give();
        }
        let start = self.event()?;
        let outcome = give()?;
        let end = self.event()?;
        self.recorder.notes().spans.push((name, [start, end]));
        Ok(outcome)
    }

    /// An event that stands behind the work that was given so far.
    fn event(&self) -> Result<CudaEvent> {
        let kept = self.recorder.notes().free.pop();
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let event = match kept {
            Some(event) => event,
            None => self.check("an event", self.context.new_event(flags))?,
        };
        self.check("an event", event.record(&self.stream))?;
        Ok(event)
    }

    /// Milliseconds between two events that have come to pass.
    fn between(&self, [start, end]: &[CudaEvent; 2]) -> Result<f64> {
        type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;
        let mut milliseconds = 0.0;
        // By its name: cudarc only has what CUDA 12.8 put in its place.
        // SAFETY: the type is that of the driver's API; both events are there and were recorded.
        let status = unsafe {
            match sys::culib().get::<Elapsed>(b"cuEventElapsedTime") {
                Ok(elapsed) => elapsed(&raw mut milliseconds, start.cu_event(), end.cu_event()),
                Err(_) => sys::CUresult::CUDA_ERROR_NOT_SUPPORTED,
            }
        };
        self.check("the time between events", status.result())?;
        Ok(f64::from(milliseconds))
    }

    /// Milliseconds that the stream spends on what `give` gives it. Waits for it.
    pub fn milliseconds(&self, give: impl FnOnce() -> Result<()>) -> Result<f64> {
        let start = self.event()?;
        give()?;
        let events = [start, self.event()?];
        self.wait()?;
        let milliseconds = self.between(&events);
        self.recorder.notes().free.extend(events);
        milliseconds
    }
}

impl Cuda {
    /// Begins a profile, and drops what an earlier one that nobody took has noted.
    pub fn start_profile(&self) {
        let mut notes = self.gpu.recorder.notes();
        let mut free = std::mem::take(&mut notes.free);
        free.extend(notes.spans.drain(..).flat_map(|(_, events)| events));
        *notes = Notes {
            free,
            ..Notes::default()
        };
        self.gpu.recorder.on.store(true, Ordering::Relaxed);
    }

    /// Ends the profile, waits for the work in it, and says what it was.
    ///
    /// # Errors
    /// Those of the work.
    pub fn take_profile(&self) -> Result<Profile> {
        self.gpu.recorder.on.store(false, Ordering::Relaxed);
        self.gpu.wait()?;
        let mut notes = std::mem::take(&mut *self.gpu.recorder.notes());
        let mut all: BTreeMap<&'static str, (u64, f64)> = BTreeMap::new();
        for (name, events) in &notes.spans {
            let (launches, milliseconds) = all.entry(name).or_default();
            *launches += 1;
            *milliseconds += self.gpu.between(events)?;
        }
        let spans = notes.spans.drain(..);
        notes.free.extend(spans.flat_map(|(_, events)| events));
        self.gpu.recorder.notes().free = notes.free;
        let mut work: Vec<Work> = all
            .into_iter()
            .map(|(name, (launches, milliseconds))| Work {
                name,
                launches,
                milliseconds,
            })
            .collect();
        work.sort_by(|a, b| b.milliseconds.total_cmp(&a.milliseconds));
        Ok(Profile {
            work,
            waits: notes.waits,
            waited: notes.waited.as_secs_f64(),
            allocations: notes.allocations,
            allocated: notes.allocated,
        })
    }

    /// Waits for all work that was given.
    ///
    /// # Errors
    /// Those of the work.
    pub fn wait(&self) -> Result<()> {
        self.gpu.enter()?;
        self.gpu.wait()
    }
}

//! Batches that come to the GPU while it computes.
//!
//! A batch is copied out of pinned memory on a stream of its own. Two events keep the order: the
//! copy waits for the work that read what stood there before, and the work that reads the batch
//! waits for the copy. The host waits only before it fills memory that is still being copied. A
//! batch that the GPU's own work fills needs none of it, and no memory of the host.

use super::memory::{Gpu, Memory};
use super::pinned::PinnedReals;
use crate::device::Slot;
use crate::domain::Result;
use cudarc::driver::CudaEvent;
use std::sync::Arc;

/// A place for batches, on the host and on the GPU.
pub struct Arrival {
    /// Where batches come from, once one did.
    host: Option<PinnedReals>,
    buf: Memory<f32>,
    /// When the batch has been copied.
    copied: CudaEvent,
    /// When the work that reads it is done.
    read: CudaEvent,
    gpu: Arc<Gpu>,
}

impl Arrival {
    /// Room for `len` numbers.
    pub fn new(gpu: &Arc<Gpu>, len: usize) -> Result<Self> {
        let event = || gpu.check("an event", gpu.context.new_event(None));
        let mut arrival = Self {
            host: None,
            buf: Memory::zeros(gpu, len)?,
            copied: event()?,
            read: event()?,
            gpu: gpu.clone(),
        };
        // Memory is there when the stream that asked for it comes to that.
        arrival.release()?;
        Ok(arrival)
    }
}

impl Slot<f32, Memory<f32>> for Arrival {
    fn host(&mut self) -> Result<&mut [f32]> {
        // One that was never recorded has come to pass.
        self.gpu
            .check("a copy to the GPU", self.copied.synchronize())?;
        Ok(match &mut self.host {
            Some(host) => host,
            none => none.insert(PinnedReals::new(&self.gpu, self.buf.len())?),
        })
    }

    fn send(&mut self) -> Result<()> {
        let (gpu, copies) = (&self.gpu, &self.gpu.copies);
        let Some(host) = &self.host else {
            return Ok(());
        };
        gpu.check("the order of copies", copies.wait(&self.read))?;
        // SAFETY: the host's side is pinned, and it is neither given out before `copied` has come
        // to pass nor freed before the stream is done; the copy waits for `read`, and work that
        // reads the batch waits for `copied`.
        unsafe { self.buf.write_aside(host)? };
        gpu.check("the order of copies", self.copied.record(copies))
    }

    fn arrived(&mut self) -> Result<&Memory<f32>> {
        let waits = self.gpu.stream.wait(&self.copied);
        self.gpu.check("the order of copies", waits)?;
        Ok(&self.buf)
    }

    fn here(&mut self) -> &mut Memory<f32> {
        &mut self.buf
    }

    fn release(&mut self) -> Result<()> {
        let recorded = self.read.record(&self.gpu.stream);
        self.gpu.check("the order of copies", recorded)
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        // A copy may be under way. An error stays with the context, and the next call tells it.
        let _ = self.gpu.copies.synchronize();
    }
}

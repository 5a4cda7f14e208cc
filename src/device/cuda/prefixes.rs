//! Widths and scales of prefixes on the GPU. They hardly change from step to step: the last few
//! are kept, so that a step does not stop for their copies.

use super::launch::count;
use super::memory::{Gpu, Memory};
use crate::device::sae::Prefix;
use crate::domain::Result;
use std::sync::{Arc, Mutex, PoisonError};

/// Sets that are kept.
const KEPT: usize = 8;

/// Prefixes on the GPU, and what they are.
pub struct OnGpu {
    of: Vec<Prefix>,
    /// The width of each.
    pub widths: Memory<u32>,
    /// The scale of each.
    pub scales: Memory<f32>,
}

/// Those that were asked for last, the latest at the end.
#[derive(Default)]
pub struct Prefixes(Mutex<Vec<Arc<OnGpu>>>);

impl Prefixes {
    pub fn get(&self, gpu: &Arc<Gpu>, prefixes: &[Prefix]) -> Result<Arc<OnGpu>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().position(|on_gpu| on_gpu.of == prefixes);
        let on_gpu = match found {
            Some(at) => kept.remove(at),
            None => {
                let widths: Vec<u32> = prefixes.iter().map(|p| count(p.width)).collect();
                let scales: Vec<f32> = prefixes.iter().map(|p| p.scale as f32).collect();
                Arc::new(OnGpu {
                    of: prefixes.to_vec(),
                    widths: Memory::of(gpu, &widths)?,
                    scales: Memory::of(gpu, &scales)?,
                })
            }
        };
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push(on_gpu.clone());
        Ok(on_gpu)
    }
}

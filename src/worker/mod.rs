//! The run loop: builds the pipeline, answers commands, emits facts.
//!
//! [`run`] is the whole of a worker, in the foreground or in a process of its own. It
//! speaks through a [`link::WorkerLink`] and through the run's folder, and nothing else.

pub mod assets;
mod context;
mod estimate;
mod export;
mod feed;
mod finish;
mod folder;
mod gpu;
mod gpu_estimate;
pub mod link;
mod metrics;
mod pipeline;
mod prepare;
mod same_run;
mod site;
mod state;
mod train;

use crate::config::RunConfig;
use crate::device::cpu::Cpu;
use crate::device::cuda::{Cuda, probe};
use crate::domain::{Amp, Code, DeviceName, Error, Result};
use crate::protocol::Fact;
use crate::system::files;
use context::Context;
pub use gpu::Sharing;
use link::WorkerLink;

/// What a worker is to do.
pub struct Job {
    /// The run, validated.
    pub config: RunConfig,
    /// Where to compute.
    pub device: DeviceName,
    /// Threads of the CPU device; 0 means one a core.
    pub threads: usize,
    /// With whom it shares its GPU.
    pub sharing: Sharing,
    /// What to do with the checkpoints in the run folder.
    pub resume: Resume,
}

/// What a run does with the checkpoints that its folder already holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// There must be none.
    No,
    /// Goes on from the newest valid one, which must be there.
    Yes,
    /// Goes on from the newest valid one, or begins where none was ever saved.
    IfAny,
}

/// Runs `job` to its end. The last fact says how it ended, also where this returns an
/// error.
///
/// # Errors
/// Whatever ended the run; see the codes in the README.
pub fn run(job: Job, link: &WorkerLink) -> Result<()> {
    let mut context = Context::new(link);
    let result = match job.device {
        DeviceName::Auto | DeviceName::Cpu => on_cpu(&job, &mut context),
        DeviceName::Cuda(ordinal) => on_gpu(ordinal, &job, &mut context),
    };
    if let Err(error) = &result {
        link.send(Fact::failed(context.step, error));
    }
    result
}

fn on_cpu(job: &Job, context: &mut Context<'_>) -> Result<()> {
    let amp = job.config.training.amp;
    if amp != Amp::Off {
        let message = format!("{amp} is for GPUs, and this run is on the CPU");
        return Err(Error::new(Code::ConfigInvalid, "training.amp", message)
            .hint("set it to off, or run with --device cuda"));
    }
    train::train(&Cpu::new(job.threads), job, context)
}

fn on_gpu(ordinal: u16, job: &Job, context: &mut Context<'_>) -> Result<()> {
    let compiled = files::cache_folder(&job.config.output)?.join("kernels");
    let ordinal = usize::from(ordinal);
    let _claim = gpu::claim(&probe::find(ordinal)?, job.sharing, context)?;
    let device = Cuda::open(ordinal, Some(&compiled))?.with_amp(job.config.training.amp);
    for warning in device.warnings() {
        context.warn(warning);
    }
    train::train(&device, job, context)
}

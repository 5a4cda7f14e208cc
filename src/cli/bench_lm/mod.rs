//! `backpropd bench lm`: how fast a language model runs forward.

mod passes;

use super::bench_gpu::{self, Breakdown};
use crate::device::cpu::{Cpu, peak};
use crate::device::cuda::floors::Floors;
use crate::device::lm::LmOps;
use crate::domain::{Code, DeviceName, Error, Precision, Result};
use passes::Passes;
use std::path::PathBuf;
use std::time::Instant;

/// Measures the forward pass of a language model over random tokens.
#[derive(clap::Args)]
pub struct LmArgs {
    /// Model folder in Hugging Face layout.
    #[arg(long)]
    model: PathBuf,
    /// Where to compute: cpu, or cuda[:N] for an NVIDIA GPU.
    #[arg(long, default_value_t = DeviceName::Cpu)]
    device: DeviceName,
    /// How the weights are held: f32, bf16, f16, int8 or int4.
    #[arg(long, default_value_t)]
    precision: Precision,
    /// Contexts in a batch.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Tokens in a context.
    #[arg(long, default_value_t = 128)]
    context: usize,
    /// Stop after this block's residual stream, as a run that hooks it does; without it,
    /// after the last block.
    #[arg(long, conflicts_with = "logits")]
    stop_at_layer: Option<usize>,
    /// Go on to the logits and the cross-entropy of every next token.
    #[arg(long)]
    logits: bool,
    /// Threads of the CPU; 0 means one for each core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Measured passes, after one that is not.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(serde::Serialize)]
struct Measured {
    device: String,
    model: String,
    precision: Precision,
    parameters: usize,
    batch: usize,
    context: usize,
    blocks: usize,
    logits: bool,
    /// Median of the passes.
    seconds: f64,
    seconds_best: f64,
    tokens_per_second: f64,
    gflops: f64,
    #[serde(flatten)]
    ceiling: Ceiling,
}

/// What it is compared with, measured in the same minute.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum Ceiling {
    Cpu {
        /// Fused multiply-adds in registers.
        peak_gflops: f64,
        share_of_peak: f64,
    },
    Gpu {
        #[serde(flatten)]
        floors: Floors,
        /// Of the process on the GPU, with the weights; absent where the GPU does not count it.
        peak_memory_mib: Option<f64>,
        /// Of passes that are not in the median.
        profile: Breakdown,
    },
}

/// Profiled passes.
const PROFILED: usize = 3;

/// Runs the benchmark and prints its result.
///
/// # Errors
/// What loading and running the model gives; `hook-unknown` for a block that is not there;
/// `device-unavailable`.
pub fn lm(args: LmArgs) -> Result<()> {
    match args.device {
        DeviceName::Cuda(ordinal) => on_gpu(&args, ordinal),
        DeviceName::Auto | DeviceName::Cpu => on_cpu(&args),
    }
}

fn on_cpu(args: &LmArgs) -> Result<()> {
    let device = Cpu::new(args.threads);
    let mut passes = Passes::new(args, &device)?;
    passes.pass()?;
    let mut seconds = Vec::new();
    for _ in 0..args.repeats.max(1) {
        let start = Instant::now();
        passes.pass()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    let peak_gflops = peak::gflops(device.pool(), 3);
    let measured = measured(args, &device, &passes, seconds, |gflops| Ceiling::Cpu {
        peak_gflops,
        share_of_peak: gflops / peak_gflops,
    });
    report(&measured, args.json)
}

fn on_gpu(args: &LmArgs, ordinal: u16) -> Result<()> {
    let device = bench_gpu::open(ordinal)?;
    let floors = device.floors()?;
    device.take_peak_memory()?;
    let mut passes = Passes::new(args, &device)?;
    passes.pass()?;
    let peak = device.take_peak_memory()?;
    let once = bench_gpu::seconds(&device, 1, || passes.pass())?;
    let calls = bench_gpu::calls(once);
    let mut seconds = Vec::new();
    for _ in 0..args.repeats.max(1) {
        seconds.push(bench_gpu::seconds(&device, calls, || passes.pass())?);
    }
    let profile = bench_gpu::breakdown(&device, PROFILED, || passes.pass())?;
    let measured = measured(args, &device, &passes, seconds, |_| Ceiling::Gpu {
        floors,
        peak_memory_mib: peak.map(|bytes| bytes as f64 / f64::from(1 << 20)),
        profile,
    });
    report(&measured, args.json)
}

/// `ceiling` is told how many GFLOP/s there were.
fn measured<D: LmOps>(
    args: &LmArgs,
    device: &D,
    passes: &Passes<'_, D>,
    mut seconds: Vec<f64>,
    ceiling: impl FnOnce(f64) -> Ceiling,
) -> Measured {
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let gflops = passes.flops(args.context) / median / 1e9;
    Measured {
        device: device.describe(),
        model: args.model.display().to_string(),
        precision: passes.lm.precision(),
        parameters: passes.lm.spec().parameters(),
        batch: args.batch,
        context: args.context,
        blocks: passes.blocks(),
        logits: args.logits,
        seconds: median,
        seconds_best: seconds[0],
        tokens_per_second: passes.tokens() / median,
        gflops,
        ceiling: ceiling(gflops),
    }
}

fn report(m: &Measured, json: bool) -> Result<()> {
    if json {
        let text =
            serde_json::to_string(m).map_err(|e| Error::new(Code::Internal, "bench lm", e))?;
        println!("{text}");
        return Ok(());
    }
    let end = if m.logits { ", logits and losses" } else { "" };
    let rows = [
        ("device", m.device.clone()),
        (
            "model",
            format!(
                "{} ({} parameters in {})",
                m.model, m.parameters, m.precision
            ),
        ),
        ("batch", format!("{} × {} tokens", m.batch, m.context)),
        ("computed", format!("{} blocks{end}", m.blocks)),
        (
            "pass",
            format!("{:.4} s median, {:.4} s best", m.seconds, m.seconds_best),
        ),
        ("tokens/s", format!("{:.0}", m.tokens_per_second)),
    ];
    for (name, value) in rows {
        println!("{name:9} {value}");
    }
    match &m.ceiling {
        Ceiling::Cpu {
            peak_gflops,
            share_of_peak,
        } => println!(
            "{:9} {:.1} of {peak_gflops:.1} ({:.0} % of the FMA peak)",
            "GFLOP/s",
            m.gflops,
            100.0 * share_of_peak
        ),
        Ceiling::Gpu {
            floors,
            peak_memory_mib,
            profile,
        } => {
            println!(
                "{:9} {:.1}; floors: bf16 {:.1} (mma.sync {:.1}), f32 {:.1}, copy {:.1} GB/s",
                "TFLOP/s",
                m.gflops / 1e3,
                floors.bf16_tflops,
                floors.mma_sync_tflops,
                floors.f32_tflops,
                floors.copy_gb_per_second
            );
            if let Some(mib) = peak_memory_mib {
                println!("{:9} {mib:.0} MiB at the peak", "memory");
            }
            println!("\n{}", profile.table("pass"));
        }
    }
    Ok(())
}

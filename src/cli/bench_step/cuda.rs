//! A GPU's step, beside the floors that the same GPU has in the same minute.

use super::StepArgs;
use super::work::{Work, spec};
use crate::cli::bench_gpu::{self, Breakdown, median, ms};
use crate::device::Device;
use crate::device::cuda::Cuda;
use crate::device::cuda::floors::Floors;
use crate::domain::random::Stream;
use crate::domain::{Amp, Result};
use crate::sae::params::{Dims, Name};
use crate::sae::{OptimSpec, SaeTrainer};
use std::time::Instant;

/// What was measured: medians over the rounds.
#[derive(Clone, Debug, serde::Serialize)]
struct Figures {
    device: String,
    d_in: usize,
    d_sae: usize,
    k: usize,
    batch: usize,
    auxk: bool,
    amp: Amp,
    steps: usize,
    #[serde(flatten)]
    floors: Floors,
    /// x·W_encᵀ, a stretch of latents at a time, with the rounding of x.
    product_seconds: f64,
    product_tflops: f64,
    /// The product with its selection.
    encode_seconds: f64,
    encode_over_product: f64,
    step_seconds: f64,
    step_over_product: f64,
    tokens_per_second: f64,
    /// See [`floor`], and what share of the step it is.
    floor_seconds: f64,
    floor_share: f64,
    /// Of the process on the GPU while it trained; absent where the GPU does not count it.
    peak_memory_mib: Option<f64>,
    /// Until the first step: parameters, moments, activations.
    set_up_seconds: f64,
    /// Of steps that are not in the medians.
    profile: Breakdown,
}

/// Profiled steps.
const PROFILED: usize = 5;

/// Measures and prints each of `all`.
pub fn measure(all: &[StepArgs], ordinal: u16) -> Result<()> {
    let mut device = bench_gpu::open(ordinal)?;
    for args in all {
        device = device.with_amp(args.amp);
        let figures = figures(args, &device)?;
        match args.json {
            true => println!("{}", serde_json::json!(figures)),
            false => println!("{}\n", text(&figures)),
        }
    }
    Ok(())
}

fn figures(args: &StepArgs, device: &Cuda) -> Result<Figures> {
    let floors = device.floors()?;
    device.take_peak_memory()?;
    let start = Instant::now();
    let trainer = trainer(args, device)?;
    let mut work = Work::new(args, device, trainer)?;
    device.wait()?;
    let set_up_seconds = start.elapsed().as_secs_f64();
    // Everything is allocated by the second step; the third says how long one takes.
    for _ in 0..2 {
        work.step()?;
    }
    let memory = device.take_peak_memory()?;
    device.encoder_product(&work.product())?;
    work.encode()?;
    let product = bench_gpu::seconds(device, 1, || device.encoder_product(&work.product()))?;
    let encode = bench_gpu::seconds(device, 1, || work.encode())?;
    let step = bench_gpu::seconds(device, 1, || work.step())?;
    let calls = [product, encode, step].map(bench_gpu::calls);
    let mut rounds: [Vec<f64>; 3] = Default::default();
    for _ in 0..args.steps {
        let product = || device.encoder_product(&work.product());
        rounds[0].push(bench_gpu::seconds(device, calls[0], product)?);
        rounds[1].push(bench_gpu::seconds(device, calls[1], || work.encode())?);
        rounds[2].push(bench_gpu::seconds(device, calls[2], || work.step())?);
    }
    let profile = bench_gpu::breakdown(device, PROFILED, || work.step())?;
    let [product, encode, step] = rounds.map(median);
    let floor = floor(args, &floors);
    Ok(Figures {
        device: device.describe(),
        d_in: args.d_in,
        d_sae: args.d_sae,
        k: args.k,
        batch: args.batch,
        auxk: args.auxk,
        amp: args.amp,
        steps: args.steps,
        floors,
        product_seconds: product,
        product_tflops: 1e-12 * args.flops() / product,
        encode_seconds: encode,
        encode_over_product: encode / product,
        step_seconds: step,
        step_over_product: step / product,
        tokens_per_second: args.batch as f64 / step,
        floor_seconds: floor,
        floor_share: floor / step,
        peak_memory_mib: memory.map(|bytes| bytes as f64 / f64::from(1 << 20)),
        set_up_seconds,
        profile,
    })
}

/// Seconds below which a TopK step hardly gets, at the rates that were measured: B tokens of
/// 2·d·F operations for the encoder at the bf16 rate; 8·k·d bytes a token for what is sparse (a row
/// of f32 for each edge, to reconstruct it and for its gradient; the other two passes find theirs
/// in caches); and Adam, fused with the gradients, which moves 26 bytes for each of the 2·d·F
/// weights (weight, both moments read and written in f32, a bf16 copy written):
///
/// B·2·d·F / bf16 rate + (B·8·k·d + 26·2·d·F) / copy rate
fn floor(args: &StepArgs, floors: &Floors) -> f64 {
    let [b, d, f, k] = [args.batch, args.d_in, args.d_sae, args.k].map(|n| n as f64);
    let flops = b * 2.0 * d * f;
    let bytes = b * 8.0 * k * d + 26.0 * 2.0 * d * f;
    flops / (1e12 * floors.bf16_tflops) + bytes / (1e9 * floors.copy_gb_per_second)
}

/// A trainer whose matrices are filled faster than those of a run, which gives each latent its
/// exact length: half a billion numbers in a second or so.
fn trainer(args: &StepArgs, device: &Cuda) -> Result<SaeTrainer<Cuda>> {
    let (d, spec) = (args.d_in, spec(args));
    let dims = Dims {
        d_in: d,
        d_out: d,
        d_sae: args.d_sae,
    };
    let random = Stream::new(0, "bench weights");
    // Uniform in ±1, a row would have the length √(d/3).
    let scale = (spec.decoder_norm / (d as f64 / 3.0).sqrt()) as f32;
    let optim = OptimSpec::default();
    SaeTrainer::with_start(device, &spec, &optim, dims, 0, [1.0; 2], |name| {
        let len = dims.len(name);
        let mut buf = device.zeros(len)?;
        if matches!(name, Name::WEnc | Name::WDec) {
            let mut part = vec![0.0f32; len.min(8 << 20)];
            for first in (0..len).step_by(part.len()) {
                let part = &mut part[..(8 << 20).min(len - first)];
                fill(part, random.child(first as u64), scale);
                device.write(&mut buf, first, part)?;
            }
        }
        Ok(buf)
    })
}

/// Uniform in ±`scale`.
fn fill(out: &mut [f32], random: Stream, scale: f32) {
    let unit = |bits: u32| (bits.cast_signed() as f32) * (scale / (1u32 << 31) as f32);
    for (i, pair) in (0..).zip(out.chunks_mut(2)) {
        let bits = random.at(i);
        let both = [unit((bits >> 32) as u32), unit(bits as u32)];
        pair.copy_from_slice(&both[..pair.len()]);
    }
}

fn text(f: &Figures) -> String {
    let mut table = bench_gpu::plain_table(["", "time", "TFLOP/s", "of product"]);
    let step = if f.auxk { "step with AuxK" } else { "step" };
    for (name, seconds) in [
        ("encoder product", f.product_seconds),
        ("fused encode", f.encode_seconds),
        (step, f.step_seconds),
    ] {
        let over = seconds / f.product_seconds;
        table.add_row([
            name.to_owned(),
            ms(seconds),
            format!("{:.1}", f.product_tflops / over),
            format!("{over:.3}"),
        ]);
    }
    let memory = match f.peak_memory_mib {
        Some(mib) => format!("{mib:.0} MiB"),
        None => "not known".to_owned(),
    };
    let amp = f.amp;
    let floors = &f.floors;
    format!(
        "{}: d_in {}, d_sae {}, k {}, batch {}, amp {amp}; medians of {} rounds\n{table}\n\
         {:.0} tokens/s; peak memory of the GPU {memory}; set up in {:.1} s\n\
         floors: copy {:.1} GB/s, bf16 {:.1} TFLOP/s (mma.sync {:.1}), f32 {:.1} TFLOP/s; of the \
         step {}, which is {:.1} % of it\n\n{}",
        f.device,
        f.d_in,
        f.d_sae,
        f.k,
        f.batch,
        f.steps,
        f.tokens_per_second,
        f.set_up_seconds,
        floors.copy_gb_per_second,
        floors.bf16_tflops,
        floors.mma_sync_tflops,
        floors.f32_tflops,
        ms(f.floor_seconds),
        100.0 * f.floor_share,
        f.profile.table("step"),
    )
}

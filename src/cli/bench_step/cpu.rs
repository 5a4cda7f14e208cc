//! The CPU's step, beside the fused multiply-adds that its registers allow.

use super::StepArgs;
use super::work::{Work, spec};
use crate::cli::bench_gpu::median;
use crate::device::Device;
use crate::device::cpu::pack::View;
use crate::device::cpu::{Cpu, gemm, peak};
use crate::domain::Result;
use crate::sae::{OptimSpec, SaeTrainer, Sample};
use crate::system::memory;
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
    steps: usize,
    /// Fused multiply-adds in registers.
    peak_gflops: f64,
    /// Products of bf16 tiles, whose factors lie in L1; absent where the CPU has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    tile_peak_gflops: Option<f64>,
    /// x·W_encᵀ with its [B, F] result written to memory.
    product_seconds: f64,
    product_gflops: f64,
    product_share_of_peak: f64,
    /// The product with its selection, without the [B, F] result.
    encode_seconds: f64,
    encode_over_product: f64,
    step_seconds: f64,
    step_over_product: f64,
    /// Of the encoder product's operations, over the time of the whole step.
    step_share_of_peak: f64,
    tokens_per_second: f64,
    /// Of the whole process while it trained; absent where the system does not say.
    peak_memory_mib: Option<f64>,
}

/// Measures and prints.
pub fn measure(args: &StepArgs) -> Result<()> {
    let device = Cpu::new(args.threads);
    let (d, optim) = (args.d_in, OptimSpec::default());
    let trainer = SaeTrainer::new(&device, &spec(args), &optim, d, d, 0, Sample::EMPTY)?;
    let figures = figures(Work::new(args, &device, trainer)?)?;
    match args.json {
        true => println!("{}", serde_json::json!(figures)),
        false => println!("{}", table(&figures)),
    }
    Ok(())
}

fn figures(mut work: Work<'_, Cpu>) -> Result<Figures> {
    let (args, device) = (work.args, work.device);
    // Everything is allocated by the second step.
    memory::reset_peak();
    for _ in 0..2 {
        work.step()?;
    }
    let memory = memory::peak();
    let mut out = device.zeros(args.batch * args.d_sae)?;
    let mut rounds: [Vec<f64>; 4] = Default::default();
    let mut tiles = Vec::new();
    for _ in 0..args.steps {
        rounds[0].push(peak::gflops(device.pool(), 3));
        tiles.extend(peak::tile_gflops(device.pool(), 3));
        rounds[1].push(timed(|| {
            product(&work, &mut out);
            Ok(())
        })?);
        rounds[2].push(timed(|| work.encode())?);
        rounds[3].push(timed(|| work.step())?);
    }
    // A peak is the most that was seen; what a round of it lacks, a neighbour took.
    let peak = rounds[0].iter().copied().fold(0.0, f64::max);
    let tile_peak_gflops = tiles.into_iter().reduce(f64::max);
    let [_, product, encode, step] = rounds.map(median);
    let gflop = 1e-9 * args.flops();
    Ok(Figures {
        device: device.describe(),
        d_in: args.d_in,
        d_sae: args.d_sae,
        k: args.k,
        batch: args.batch,
        auxk: args.auxk,
        steps: args.steps,
        peak_gflops: peak,
        tile_peak_gflops,
        product_seconds: product,
        product_gflops: gflop / product,
        product_share_of_peak: gflop / product / peak,
        encode_seconds: encode,
        encode_over_product: encode / product,
        step_seconds: step,
        step_over_product: step / product,
        step_share_of_peak: gflop / step / peak,
        tokens_per_second: args.batch as f64 / step,
        peak_memory_mib: memory.map(|bytes| bytes as f64 / f64::from(1 << 20)),
    })
}

/// The product alone, written to memory.
fn product(work: &Work<'_, Cpu>, out: &mut [f32]) {
    let (args, params) = (work.args, work.trainer.params());
    let shape = (args.batch, args.d_sae, args.d_in);
    let x = View::rows(&work.x, args.d_in);
    let w = View::rows(&params.w_enc, args.d_in);
    let bias = Some(&params.b_enc[..]);
    gemm::product(work.device.pool(), x, w, shape, bias, false, out);
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

fn table(f: &Figures) -> String {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["", "time", "GFLOP/s", "of peak", "of product"]);
    let mut row = |name: &str, seconds: f64, share: f64, over: f64| {
        table.add_row([
            name.to_owned(),
            format!("{:.1} ms", 1e3 * seconds),
            format!("{:.1}", share * f.peak_gflops),
            percent(share),
            format!("{over:.3}"),
        ]);
    };
    let of_peak = |seconds: f64| f.product_share_of_peak * f.product_seconds / seconds;
    row(
        "encoder product",
        f.product_seconds,
        of_peak(f.product_seconds),
        1.0,
    );
    row(
        "fused encode",
        f.encode_seconds,
        of_peak(f.encode_seconds),
        f.encode_over_product,
    );
    let name = if f.auxk { "step with AuxK" } else { "step" };
    row(
        name,
        f.step_seconds,
        f.step_share_of_peak,
        f.step_over_product,
    );
    let memory = match f.peak_memory_mib {
        Some(mib) => format!("{mib:.0} MiB"),
        None => "not known".to_owned(),
    };
    let tiles = match f.tile_peak_gflops {
        Some(peak) => format!(", {peak:.0} GFLOP/s (bf16 tiles out of L1)"),
        None => String::new(),
    };
    format!(
        "{}: d_in {}, d_sae {}, k {}, batch {}; medians of {} rounds\n\
         {table}\n\
         peak {:.1} GFLOP/s (fused multiply-adds in registers){tiles}; {:.0} tokens/s; peak memory {memory}",
        f.device, f.d_in, f.d_sae, f.k, f.batch, f.steps, f.peak_gflops, f.tokens_per_second
    )
}

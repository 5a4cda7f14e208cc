//! `backpropd bench lm`: how fast a language model runs forward.

use crate::device::Device;
use crate::device::cpu::{Cpu, peak};
use crate::domain::{Code, Error, Precision, Result};
use crate::lm::{End, Hook, HookPoint, Lm, LmSpec, Tokens};
use std::path::PathBuf;
use std::time::Instant;

/// Measures the forward pass of a language model over random tokens.
#[derive(clap::Args)]
pub struct LmArgs {
    /// Model folder in Hugging Face layout.
    #[arg(long)]
    model: PathBuf,
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
    /// Threads; 0 means one for each core.
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
    peak_gflops: f64,
    share_of_peak: f64,
}

/// Runs the benchmark and prints its result.
///
/// # Errors
/// What loading and running the model gives; `hook-unknown` for a block that is not there.
pub fn lm(args: LmArgs) -> Result<()> {
    let device = Cpu::new(args.threads);
    let mut lm = Lm::load_as(&device, &args.model, args.precision)?;
    let last = args.stop_at_layer.unwrap_or(lm.spec().layers() - 1);
    let hook = HookPoint {
        layer: last,
        hook: Hook::ResidPost,
    };
    let blocks = if args.logits {
        lm.spec().layers()
    } else {
        last + 1
    };
    let tokens = random_tokens(&args, lm.spec())?;
    let targets = tokens.next();
    let mut losses = vec![0.0; tokens.rows()];
    let mut captured = [device.zeros(tokens.rows() * lm.spec().d_model)?];
    let mut pass = || match args.logits {
        false => lm.capture(&device, &tokens, &[hook], &mut captured),
        true => {
            let (targets, out) = (&targets[..], &mut losses[..]);
            let end = End::Losses { targets, out };
            lm.forward(&device, &tokens, &[], &mut |_, _, _| Ok(()), end)
        }
    };
    pass()?;
    let mut seconds = Vec::new();
    for _ in 0..args.repeats.max(1) {
        let start = Instant::now();
        pass()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let peak_gflops = peak::gflops(device.pool(), 3);
    let rows = tokens.rows() as f64;
    let gflops =
        rows * flops_per_token(lm.spec(), args.context, blocks, args.logits) / median / 1e9;
    report(
        &Measured {
            device: device.describe(),
            model: args.model.display().to_string(),
            precision: lm.precision(),
            parameters: lm.spec().parameters(),
            batch: args.batch,
            context: args.context,
            blocks,
            logits: args.logits,
            seconds: median,
            seconds_best: seconds[0],
            tokens_per_second: rows / median,
            gflops,
            peak_gflops,
            share_of_peak: gflops / peak_gflops,
        },
        args.json,
    )
}

fn random_tokens(args: &LmArgs, spec: &LmSpec) -> Result<Tokens> {
    let rows = args.batch.checked_mul(args.context).unwrap_or(0);
    let mut state = 1_u64;
    let ids: Vec<u32> = (0..rows)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            ((state >> 33) % spec.vocab as u64) as u32
        })
        .collect();
    Tokens::new(&ids, args.batch, args.context)
}

/// Floating-point operations of the products that a token needs; of attention the half
/// that is causal.
fn flops_per_token(spec: &LmSpec, context: usize, blocks: usize, logits: bool) -> f64 {
    let up = if spec.gated { 2 } else { 1 };
    let attended = spec.heads * spec.head_dim;
    let weights = spec.d_model * (spec.qkv_width() + attended + (up + 1) * spec.d_mlp);
    let attention = attended * context;
    let head = if logits { spec.vocab * spec.d_model } else { 0 };
    2.0 * (blocks * (weights + attention) + head) as f64
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
        (
            "GFLOP/s",
            format!(
                "{:.1} of {:.1} ({:.0} % of the FMA peak)",
                m.gflops,
                m.peak_gflops,
                100.0 * m.share_of_peak
            ),
        ),
    ];
    for (name, value) in rows {
        println!("{name:9} {value}");
    }
    Ok(())
}

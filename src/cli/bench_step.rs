//! `backpropd bench step`: what a training step costs on this machine, next to its ceiling.

use crate::device::Device;
use crate::device::cpu::pack::View;
use crate::device::cpu::{Cpu, gemm, peak};
use crate::device::sae::{Encode, Pick, Rows, SaeOps, Select};
use crate::domain::random::Stream;
use crate::domain::schedule::StepSettings;
use crate::domain::{Code, Error, Result};
use crate::sae::spec::{Pool, SaeSpec, TopK, Variant};
use crate::sae::{Batch, OptimSpec, Outcome, SaeTrainer, Sample};
use crate::system::memory;
use std::borrow::Cow;
use std::time::Instant;

/// Times a TopK step: the peak of the machine, the encoder product, the product fused with
/// the selection, and the whole step, one after the other in every round.
#[derive(Clone, Debug, clap::Args)]
pub struct StepArgs {
    /// Width of the activations.
    #[arg(long, default_value_t = 768)]
    pub d_in: usize,
    /// Number of latents.
    #[arg(long, default_value_t = 16384)]
    pub d_sae: usize,
    /// Active latents a token.
    #[arg(long, default_value_t = 32)]
    pub k: usize,
    /// Tokens a step.
    #[arg(long, default_value_t = 4096)]
    pub batch: usize,
    /// With AuxK, every eighth latent dead.
    #[arg(long)]
    pub auxk: bool,
    /// Threads; 0 means one for each core.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Rounds to take the median of.
    #[arg(long, default_value_t = 7)]
    pub steps: usize,
    /// One line of JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

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
///
/// # Errors
/// `usage` where a width is 0; `config-invalid` where the SAE cannot be built;
/// `out-of-memory`.
pub fn step(args: &StepArgs) -> Result<()> {
    for (name, value) in [
        ("--d-in", args.d_in),
        ("--d-sae", args.d_sae),
        ("--batch", args.batch),
        ("--steps", args.steps),
    ] {
        if value == 0 {
            return Err(Error::new(Code::Usage, name, "must be at least 1"));
        }
    }
    let figures = Bench::new(args)?.measure()?;
    match args.json {
        true => println!("{}", serde_json::json!(figures)),
        false => println!("{}", table(&figures)),
    }
    Ok(())
}

/// Everything that the rounds need.
struct Bench<'a> {
    args: &'a StepArgs,
    device: Cpu,
    trainer: SaeTrainer<Cpu>,
    x: Vec<f32>,
}

impl<'a> Bench<'a> {
    fn new(args: &'a StepArgs) -> Result<Self> {
        let device = Cpu::new(args.threads);
        let mut topk = TopK::new(args.k as f64, Pool::Token);
        topk.aux_coefficient = f64::from(u8::from(args.auxk));
        let spec = SaeSpec::new(args.d_sae, Variant::TopK(topk));
        let (d, optim) = (args.d_in, OptimSpec::default());
        let mut trainer = SaeTrainer::new(&device, &spec, &optim, d, d, 0, Sample::EMPTY)?;
        if args.auxk {
            kill_every_eighth(&device, &mut trainer)?;
        }
        let mut x = device.zeros(args.batch * d)?;
        let random = Stream::new(0, "bench");
        for (i, x) in (0..).zip(&mut x) {
            // Of mean 0 and variance 1, nearly normal.
            let uniform = (0..12).map(|part| random.child(part).uniform(i));
            *x = (uniform.sum::<f64>() - 6.0) as f32;
        }
        Ok(Self {
            args,
            device,
            trainer,
            x,
        })
    }

    fn measure(mut self) -> Result<Figures> {
        let args = self.args;
        // Everything is allocated by the second step.
        memory::reset_peak();
        for _ in 0..2 {
            self.step()?;
        }
        let memory = memory::peak();
        let mut product = self.device.zeros(args.batch * args.d_sae)?;
        let mut rounds: [Vec<f64>; 4] = Default::default();
        for _ in 0..args.steps {
            rounds[0].push(peak::gflops(self.device.pool(), 3));
            rounds[1].push(timed(|| self.product(&mut product))?);
            rounds[2].push(timed(|| self.encode())?);
            rounds[3].push(timed(|| self.step())?);
        }
        // A peak is the most that was seen; what a round of it lacks, a neighbour took.
        let peak = rounds[0].iter().copied().fold(0.0, f64::max);
        let [_, product, encode, step] = rounds.map(median);
        let gflop = 2e-9 * args.batch as f64 * args.d_sae as f64 * args.d_in as f64;
        Ok(Figures {
            device: self.device.describe(),
            d_in: args.d_in,
            d_sae: args.d_sae,
            k: args.k,
            batch: args.batch,
            auxk: args.auxk,
            steps: args.steps,
            peak_gflops: peak,
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

    fn product(&self, out: &mut [f32]) -> Result<()> {
        let (args, params) = (self.args, self.trainer.params());
        let shape = (args.batch, args.d_sae, args.d_in);
        let x = View::rows(&self.x, args.d_in);
        let w = View::rows(&params.w_enc, args.d_in);
        gemm::product(
            self.device.pool(),
            x,
            w,
            shape,
            Some(&params.b_enc),
            false,
            out,
        );
        Ok(())
    }

    fn encode(&self) -> Result<()> {
        let (args, params) = (self.args, self.trainer.params());
        let mut codes = self.device.new_codes();
        let product = Encode {
            x: Rows::of(&self.x, args.batch),
            center: Some(&params.b_dec),
            w_enc: &params.w_enc,
            b_enc: &params.b_enc,
            d_in: args.d_in,
            d_sae: args.d_sae,
        };
        let select = Select::TopK {
            k: args.k,
            scale: None,
            among: None,
        };
        let pick = Pick {
            select,
            codes: &mut codes,
        };
        self.device.encode(&product, &mut [pick])
    }

    fn step(&mut self) -> Result<()> {
        let batch = Batch {
            x: &self.x,
            target: None,
            tokens: self.args.batch,
        };
        let settings = StepSettings {
            lr: 1e-4,
            sparsity: 1.0,
            k: None,
        };
        match self
            .trainer
            .step(&self.device, &batch, self.args.batch, &settings)?
        {
            Outcome::Done(_) => Ok(()),
            Outcome::NonFinite { what } => Err(Error::new(
                Code::NonFinite,
                "bench step",
                format_args!("the {what} is not finite"),
            )),
        }
    }
}

/// Every eighth latent gets a bias that keeps it from firing, and counts as dead.
fn kill_every_eighth(device: &Cpu, trainer: &mut SaeTrainer<Cpu>) -> Result<()> {
    let mut state = trainer.state(device)?;
    for tensor in &mut state {
        let mut set = |value: [u8; 4]| {
            let mut bytes = tensor.bytes.to_vec();
            bytes
                .chunks_exact_mut(4)
                .step_by(8)
                .for_each(|v| v.copy_from_slice(&value));
            tensor.bytes = Cow::Owned(bytes);
        };
        match tensor.name.as_str() {
            "param.b_enc" => set((-1e3f32).to_ne_bytes()),
            "since_fired" => set(u32::MAX.to_ne_bytes()),
            _ => {}
        }
    }
    trainer.load_state(device, &state)
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
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
    format!(
        "{}: d_in {}, d_sae {}, k {}, batch {}; medians of {} rounds\n\
         {table}\n\
         peak {:.1} GFLOP/s (fused multiply-adds in registers); {:.0} tokens/s; peak memory {memory}",
        f.device, f.d_in, f.d_sae, f.k, f.batch, f.steps, f.peak_gflops, f.tokens_per_second
    )
}

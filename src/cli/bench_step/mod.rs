//! `backpropd bench step`: what a training step costs on this machine, next to its ceiling.

mod cpu;
mod cuda;
mod work;

use crate::domain::{Amp, Code, DeviceName, Error, Result};
use std::str::FromStr;

/// Times a TopK step: the peak of the machine, the encoder product, the product fused with
/// the selection, and the whole step, one after the other in every round.
#[derive(Clone, Debug, clap::Args)]
pub struct StepArgs {
    /// Where to compute: cpu, or cuda[:N] for an NVIDIA GPU.
    #[arg(long, default_value_t = DeviceName::Cpu)]
    pub device: DeviceName,
    /// What the encoder's factors are rounded to on a GPU.
    #[arg(long, default_value_t = Amp::Off)]
    pub amp: Amp,
    /// Width of the activations.
    #[arg(long, default_value_t = 768)]
    pub d_in: usize,
    /// Number of latents.
    #[arg(long, default_value_t = 16384)]
    pub d_sae: usize,
    /// Active latents a token.
    #[arg(long, default_value_t = 32)]
    pub k: usize,
    /// Several d_in/d_sae/k, one after the other: 768/16384/32,4096/131072/64.
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["d_in", "d_sae", "k"])]
    pub shapes: Vec<Shape>,
    /// Tokens a step.
    #[arg(long, default_value_t = 4096)]
    pub batch: usize,
    /// With AuxK, every eighth latent dead.
    #[arg(long)]
    pub auxk: bool,
    /// BatchTopK: so many active latents a token on average, chosen from the whole batch.
    #[arg(long)]
    pub batch_topk: bool,
    /// Threads of the CPU; 0 means one for each core.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Rounds to take the median of.
    #[arg(long, default_value_t = 7)]
    pub steps: usize,
    /// One line of JSON for each shape instead of tables.
    #[arg(long)]
    pub json: bool,
}

/// Widths of an SAE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    d_in: usize,
    d_sae: usize,
    k: usize,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not d_in/d_sae/k, as 768/16384/32");
        let numbers: Vec<usize> = text
            .split('/')
            .map(|number| number.parse().map_err(|_| wrong()))
            .collect::<Result<_, _>>()?;
        match numbers[..] {
            [d_in, d_sae, k] => Ok(Self { d_in, d_sae, k }),
            _ => Err(wrong()),
        }
    }
}

impl StepArgs {
    /// The arguments of each shape.
    fn each(&self) -> Vec<Self> {
        let of = |shape: &Shape| Self {
            d_in: shape.d_in,
            d_sae: shape.d_sae,
            k: shape.k,
            shapes: Vec::new(),
            ..self.clone()
        };
        match self.shapes.is_empty() {
            true => vec![self.clone()],
            false => self.shapes.iter().map(of).collect(),
        }
    }

    fn check(&self) -> Result<()> {
        for (name, value) in [
            ("--d-in", self.d_in),
            ("--d-sae", self.d_sae),
            ("--batch", self.batch),
            ("--steps", self.steps),
        ] {
            if value == 0 {
                return Err(Error::new(Code::Usage, name, "must be at least 1"));
            }
        }
        Ok(())
    }

    /// Operations of the encoder product of a batch.
    fn flops(&self) -> f64 {
        2.0 * self.batch as f64 * self.d_sae as f64 * self.d_in as f64
    }
}

/// Measures and prints.
///
/// # Errors
/// `usage` where a width is 0, or for `--amp` on the CPU; `device-unavailable`;
/// `config-invalid` where the SAE cannot be built; `out-of-memory`.
pub fn step(args: &StepArgs) -> Result<()> {
    let all = args.each();
    all.iter().try_for_each(StepArgs::check)?;
    match args.device {
        DeviceName::Cuda(ordinal) => cuda::measure(&all, ordinal),
        DeviceName::Auto | DeviceName::Cpu if args.amp != Amp::Off => {
            Err(
                Error::new(Code::Usage, "--amp", "the CPU computes in f32 only")
                    .hint("use --device cuda, or --amp off"),
            )
        }
        DeviceName::Auto | DeviceName::Cpu => all.iter().try_for_each(cpu::measure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_and_what_is_none_is_named() {
        let shape = Shape {
            d_in: 768,
            d_sae: 16384,
            k: 32,
        };
        assert_eq!("768/16384/32".parse(), Ok(shape));
        for text in [
            "",
            "768",
            "768/16384",
            "768/16384/32/1",
            "768/x/32",
            "-1/2/3",
        ] {
            let error = text.parse::<Shape>().unwrap_err();
            assert!(error.contains("d_in/d_sae/k"), "{error}");
        }
    }
}

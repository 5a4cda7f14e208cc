//! What is timed, on any backend.

use super::StepArgs;
use crate::device::sae::{Encode, Pick, Rows, SaeOps, Select};
use crate::domain::random::Stream;
use crate::domain::schedule::StepSettings;
use crate::domain::{Code, Error, Result};
use crate::sae::spec::{Pool, SaeSpec, TopK, Variant};
use crate::sae::{Batch, Outcome, SaeTrainer};
use std::borrow::Cow;

/// The SAE that is trained.
pub fn spec(args: &StepArgs) -> SaeSpec {
    let pool = match args.batch_topk {
        true => Pool::Batch,
        false => Pool::Token,
    };
    let mut topk = TopK::new(args.k as f64, pool);
    topk.aux_coefficient = f64::from(u8::from(args.auxk));
    SaeSpec::new(args.d_sae, Variant::TopK(topk))
}

/// Everything that the rounds need.
pub struct Work<'a, D: SaeOps> {
    pub args: &'a StepArgs,
    pub device: &'a D,
    pub trainer: SaeTrainer<D>,
    /// Activations [batch, d_in].
    pub x: D::Buf,
}

impl<'a, D: SaeOps<Real = f32>> Work<'a, D> {
    pub fn new(args: &'a StepArgs, device: &'a D, mut trainer: SaeTrainer<D>) -> Result<Self> {
        if args.auxk {
            kill_every_eighth(device, &mut trainer)?;
        }
        let random = Stream::new(0, "bench");
        let normal = |i| {
            // Of mean 0 and variance 1, nearly normal.
            let uniform = (0..12).map(|part| random.child(part).uniform(i));
            (uniform.sum::<f64>() - 6.0) as f32
        };
        let x: Vec<f32> = (0..(args.batch * args.d_in) as u64).map(normal).collect();
        Ok(Self {
            args,
            device,
            trainer,
            x: device.upload(&x)?,
        })
    }

    /// The encoder product of the batch.
    pub fn product(&self) -> Encode<'_, D::Buf> {
        let params = self.trainer.params();
        Encode {
            x: Rows::of(&self.x, self.args.batch),
            center: Some(&params.b_dec),
            w_enc: &params.w_enc,
            b_enc: &params.b_enc,
            d_in: self.args.d_in,
            d_sae: self.args.d_sae,
            rounded: true,
        }
    }

    /// The product with its selection.
    pub fn encode(&self) -> Result<()> {
        let mut codes = self.device.new_codes();
        let select = match self.args.batch_topk {
            true => Select::BatchTopK {
                total: self.args.k * self.args.batch,
                scale: None,
            },
            false => Select::TopK {
                k: self.args.k,
                scale: None,
                among: None,
            },
        };
        let pick = Pick {
            select,
            codes: &mut codes,
        };
        self.device.encode(&self.product(), &mut [pick])
    }

    /// A whole step.
    pub fn step(&mut self) -> Result<()> {
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
            .step(self.device, &batch, self.args.batch, &settings)?
        {
            Outcome::Done(_) | Outcome::Overflow { .. } => Ok(()),
            Outcome::NonFinite { what } => Err(Error::new(
                Code::NonFinite,
                "bench step",
                format_args!("the {what} is not finite"),
            )),
        }
    }
}

/// Every eighth latent gets a bias that keeps it from firing, and counts as dead.
fn kill_every_eighth<D: SaeOps>(device: &D, trainer: &mut SaeTrainer<D>) -> Result<()> {
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

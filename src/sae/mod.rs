//! Sparse autoencoders: variants, initialisation, step, optimiser, dead latents.

mod dead;
mod fold;
mod inference;
mod init;
mod optim;
mod outputs;
pub mod params;
mod resample;
pub mod spec;
mod state;
mod step;
mod table;
#[cfg(test)]
mod tests;
mod trainer;
mod work;

pub use fold::{Activation, Folded};
pub use inference::Inference;
pub use init::Sample;
pub use optim::{DecoderNorm, OptimSpec};
pub use outputs::Outputs;
pub use spec::SaeSpec;
pub use state::{Dtype, StateTensor};
pub use step::Losses;
pub use trainer::{Batch, Outcome, SaeTrainer, StepReport};

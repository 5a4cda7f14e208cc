//! Language models: decoder description, weights, forward with hook points.
//!
//! ```no_run
//! use backpropd::device::{Device, cpu::Cpu};
//! use backpropd::lm::{Lm, Tokens};
//!
//! # fn main() -> backpropd::domain::Result<()> {
//! let device = Cpu::new(0);
//! let mut lm = Lm::load(&device, "model".as_ref())?;
//! let tokens = Tokens::new(&[464, 3290, 2491], 1, 3)?;
//! let hook = lm.spec().hook("blocks.5.hook_resid_post")?;
//! let mut activations = [device.zeros(tokens.rows() * lm.spec().d_model)?];
//! lm.capture(&device, &tokens, &[hook], &mut activations)?;
//! # Ok(())
//! # }
//! ```

pub mod config;
mod forward;
mod hook;
pub mod spec;
mod tokens;
mod weights;

pub use forward::{AtHook, End, Lm};
pub use hook::{Hook, HookPoint};
pub use spec::LmSpec;
pub use tokens::Tokens;
pub use weights::Stored;

use crate::device::lm::LmOps;
use crate::domain::Result;
use std::path::Path;

/// Checks that the model folder holds what its `config.json` describes, and that every weight
/// is finite, with no more than a part of it in memory. `each` is called with the parts done,
/// of all; an error of it ends the work.
///
/// # Errors
/// As [`Lm::load`].
pub fn verify<D: LmOps>(
    device: &D,
    folder: &Path,
    each: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Stored> {
    weights::verify(device, &config::load(folder)?, folder, each)
}

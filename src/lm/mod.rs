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

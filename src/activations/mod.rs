//! Activations of a language model as shuffled batches of rows.
//!
//! An epoch takes the contexts in a seeded random order; the tokens to train on, context
//! after context and epoch after epoch, are one stream. It is cut into *windows*: the
//! contexts that a window touches go through the model, their rows are gathered, and leave
//! in a seeded random order as batches. Both orders are permutations computed from the seed
//! alone, so that the whole state is a [`Cursor`] of a few numbers: a run that is resumed
//! anywhere captures its window again and goes on with the same rows, bit for bit. Memory
//! is that of one window, whatever the size of the data set. Where the device has room for it, a
//! row never leaves its memory ([`Keep`]).
//!
//! The same batches can come from a folder ([`cache`]) that was written from them before.

pub mod cache;
mod capture;
mod live;
mod model;
mod permutation;
mod scripted;
mod settings;
mod source;
#[cfg(test)]
mod tests;
mod window;

pub use cache::CachedSource;
pub use capture::{Capture, Contexts, Site, Take};
pub use live::{Live, Order};
pub use model::{LmCapture, model_hash};
pub use permutation::Permutation;
pub use scripted::Scripted;
pub use settings::{ActivationSettings, CacheDtype};
pub use source::{ActivationSource, BatchInfo, Cursor, Place};
pub use window::Keep;

//! Activations kept in a folder, in the order in which they are trained on.
//!
//! `shard-000000.safetensors, …` hold one tensor `[rows, d_in]` for each site, named by its
//! hook point; `manifest.json` says what they are. Neither the text nor the model is needed
//! to read them. A shard is written whole, then listed, so that a folder whose writing was
//! interrupted says how far it is and can be continued.

mod build;
mod manifest;
mod read;
mod shard;
#[cfg(test)]
mod tests;

pub use build::open_or_build;
pub use manifest::{Identity, Manifest, Shard};
pub use read::CachedSource;

//! Where contexts and their activations come from.

use crate::data::{Context, TokenSet};
use crate::device::Device;
use crate::device::sae::Rows;
use crate::domain::Result;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A hook point and the width of its activations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Its TransformerLens name, e.g. `blocks.8.hook_resid_post`.
    pub hook: String,
    /// Width of a row.
    pub d_in: usize,
}

/// Who takes the values of a site of this number.
pub type Take<'a, D> = dyn FnMut(usize, Rows<'_, <D as Device>::Buf>) -> Result<()> + 'a;

/// What turns contexts into activations: a language model, or a stand-in.
pub trait Capture<D: Device> {
    /// The sites whose activations are captured.
    fn sites(&self) -> &[Site];

    /// Runs `contexts`, all of one size, and calls `take` once for each site with its index
    /// and values `[contexts, context_size, d_in]`, which it may overwrite afterwards. What a
    /// context gives must not depend on the contexts beside it.
    ///
    /// # Errors
    /// Its own, and those of `take`.
    fn capture(&mut self, contexts: &[Context], take: &mut Take<'_, D>) -> Result<()>;
}

/// The contexts that are trained on.
pub trait Contexts {
    /// Number of contexts.
    fn count(&self) -> u64;

    /// Tokens to train on in all of them.
    fn tokens(&self) -> u64;

    /// The `rank`-th one.
    ///
    /// # Panics
    /// Where there is none.
    fn get(&self, rank: u64) -> Context;
}

impl Contexts for Arc<TokenSet> {
    fn count(&self) -> u64 {
        self.training_contexts()
    }
    fn tokens(&self) -> u64 {
        self.training_tokens()
    }
    fn get(&self, rank: u64) -> Context {
        self.training_context(rank)
    }
}

/// A finite list: contexts made by hand instead of from text.
impl Contexts for Vec<Context> {
    fn count(&self) -> u64 {
        self.len() as u64
    }
    fn tokens(&self) -> u64 {
        self.iter().map(|c| c.valid_count() as u64).sum()
    }
    fn get(&self, rank: u64) -> Context {
        self[rank as usize].clone()
    }
}

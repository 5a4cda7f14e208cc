//! Text to tokens.
//!
//! Files ([`sources`]) are read as streams of documents (`read`), tokenised in pieces
//! ([`tokenizer`]), packed into contexts of one length (`pack`) and kept on disk as a
//! checksummed, memory-mapped [`TokenSet`], so that a run that comes back with the same
//! text, tokenizer and settings starts at once. No buffer grows with the text.

mod build;
mod pack;
mod read;
pub mod settings;
pub mod sources;
mod split;
mod store;
mod survey;
#[cfg(test)]
mod tests;
pub mod tokenizer;

pub use build::{Progress, TokenSet};
pub use settings::{
    ExcludeTokens, ModelTokens, Packing, Paths, Separator, TokenName, TokenSettings,
};
pub use store::{Accounting, Context};
pub use survey::survey;
pub use tokenizer::Tokenizer;

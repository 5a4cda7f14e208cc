//! A model's `tokenizer.json`, and text of any length through it.
//!
//! A document is not tokenised whole: that takes some hundred bytes of memory for each byte
//! of text and one thread. It is cut into pieces of about [`PIECE`] bytes, at places where
//! the tokenizer itself shows that the text around gives the same ids in one piece and in
//! two (`Tokenizer::cut`). Tokenizers look a few bytes around (a word, a run of spaces, a
//! merge), so that what holds in a window of [`WINDOW`] bytes on either side holds for the
//! document. Where no such place comes within [`LONGEST`] bytes, the text is cut all the
//! same and the cut is counted.

use super::settings::TokenName;
use crate::domain::{Code, Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer as Engine;

/// Length from which a cut is looked for, in bytes.
pub const PIECE: usize = 32 << 10;
/// Length at which a piece is cut wherever it may be, in bytes.
pub const LONGEST: usize = 1 << 20;
/// Text on either side of a cut that is tokenised both ways, in bytes.
pub const WINDOW: usize = 256;
/// Longest `tokenizer.json` that is parsed, in bytes. Real ones stay below 64 MiB.
const MAX_FILE: u64 = 256 << 20;

/// A model's tokenizer. Padding, truncation and merge dropout that the file asks for are
/// switched off; special tokens are recognised in the text but never added to it.
pub struct Tokenizer {
    path: PathBuf,
    engine: Engine,
    vocab_size: usize,
    hash: blake3::Hash,
}

/// Where a piece ends and where the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub end: usize,
    pub next: usize,
    /// Whether the tokenizer gives the same ids on both sides as without a cut.
    pub exact: bool,
}

impl Tokenizer {
    /// Loads `path` for a model with the given vocabulary.
    ///
    /// # Errors
    /// `tokenizer-invalid` where it is malformed or its vocabulary exceeds the model's.
    /// Special tokens past the model's vocabulary are let through, since text models of
    /// multimodal families carry them; one that occurs in a text is an error there.
    pub fn load(path: &Path, vocab_size: usize) -> Result<Self> {
        let invalid = |message: &dyn std::fmt::Display| {
            Error::new(Code::TokenizerInvalid, path.display(), message)
                .hint("put the model's own tokenizer.json there")
        };
        let size = std::fs::metadata(path).map_err(|e| invalid(&e))?.len();
        if size > MAX_FILE {
            return Err(invalid(&format_args!(
                "it has {size} bytes; at most {MAX_FILE} are read"
            )));
        }
        let bytes = std::fs::read(path).map_err(|e| invalid(&e))?;
        let hash = blake3::hash(&bytes);
        let mut json: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|e| invalid(&e))?;
        drop(bytes);
        for place in ["/padding", "/truncation", "/model/dropout"] {
            if let Some(value) = json.pointer_mut(place) {
                *value = serde_json::Value::Null;
            }
        }
        let json = json.to_string();
        let engine = guarded(|| Engine::from_bytes(&json)).map_err(|e| invalid(&e))?;
        let special: Vec<u32> = special_ids(&engine);
        let largest = engine
            .get_vocab(true)
            .into_values()
            .filter(|id| !special.contains(id))
            .max();
        match largest {
            None => Err(invalid(&"it has no vocabulary")),
            Some(id) if id as usize >= vocab_size => Err(invalid(&format_args!(
                "its vocabulary goes up to token {id}, the model's vocab_size is {vocab_size}"
            ))),
            Some(_) => Ok(Self {
                path: path.to_owned(),
                engine,
                vocab_size,
                hash,
            }),
        }
    }

    /// BLAKE3 of the file.
    pub fn hash(&self) -> blake3::Hash {
        self.hash
    }

    /// The ids of `text`, without BOS or any other added token.
    ///
    /// # Errors
    /// `tokenizer-invalid`.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let (mut ids, mut rest) = (Vec::new(), text);
        while let Some(cut) = self.cut(rest)? {
            ids.extend(self.encode_pieces(&[&rest[..cut.end]])?.concat());
            rest = &rest[cut.next..];
        }
        ids.extend(self.encode_pieces(&[rest])?.concat());
        Ok(ids)
    }

    /// The ids of each piece, in order; on all cores, with the same result on any number.
    pub(super) fn encode_pieces(&self, pieces: &[&str]) -> Result<Vec<Vec<u32>>> {
        let encodings = guarded(|| self.engine.encode_batch_fast(pieces.to_vec(), false))
            .map_err(|e| self.invalid(format_args!("it cannot tokenise the text: {e}")))?;
        let ids: Vec<Vec<u32>> = encodings.iter().map(|e| e.get_ids().to_vec()).collect();
        match ids
            .iter()
            .flatten()
            .find(|&&id| id as usize >= self.vocab_size)
        {
            None => Ok(ids),
            Some(&id) => Err(self.invalid(format_args!(
                "the text holds token {id} `{}`, the model's vocab_size is {}",
                self.engine.id_to_token(id).unwrap_or_default(),
                self.vocab_size
            ))),
        }
    }

    /// The first cut of `text` after [`PIECE`] bytes; none where more text, or its end, has to
    /// come first.
    ///
    /// Candidates are single characters that are neither letters nor digits between two that
    /// are. The piece ends before such a character. Tokenizers that put a space before
    /// whatever they are given (Llama 2's) get it back by leaving the space out.
    pub(super) fn cut(&self, text: &str) -> Result<Option<Cut>> {
        if text.len() <= PIECE + WINDOW {
            return Ok(None);
        }
        let from = floor_boundary(text, PIECE);
        let stop = (text.len() - WINDOW).min(LONGEST);
        // Failures are spread, so that their number stays below a hundred in any text.
        let mut resume = from;
        let mut before = false;
        let mut chars = text[from..].char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let at = from + at;
            if at >= stop {
                break;
            }
            let after = chars.peek().is_some_and(|(_, c)| c.is_alphanumeric());
            if before && after && at >= resume && !c.is_alphanumeric() {
                for next in [at, at + c.len_utf8()] {
                    if (next == at || c == ' ') && self.splits(text, at, next)? {
                        let (end, exact) = (at, true);
                        return Ok(Some(Cut { end, next, exact }));
                    }
                }
                resume = at + (at - from) / 8;
            }
            before = c.is_alphanumeric();
        }
        let end = floor_boundary(text, LONGEST);
        Ok((text.len() > LONGEST + WINDOW).then_some(Cut {
            end,
            next: end,
            exact: false,
        }))
    }

    /// Whether the text around `end` gives the same ids whole and as two pieces.
    fn splits(&self, text: &str, end: usize, next: usize) -> Result<bool> {
        let start = floor_boundary(text, end.saturating_sub(WINDOW));
        let stop = floor_boundary(text, next + WINDOW);
        let parts = [&text[start..stop], &text[start..end], &text[next..stop]];
        let ids = self.encode_pieces(&parts)?;
        Ok(ids[0].iter().eq(ids[1].iter().chain(&ids[2])))
    }

    /// Ids of the special tokens that the model knows, ascending.
    pub fn special_tokens(&self) -> Vec<u32> {
        let mut ids = special_ids(&self.engine);
        ids.retain(|&id| (id as usize) < self.vocab_size);
        ids
    }

    /// The id of the token that `name` stands for.
    ///
    /// # Errors
    /// `config-invalid`, about `key`, where the model has no such token.
    pub fn id_of(&self, key: &str, name: &TokenName) -> Result<u32> {
        let (id, shown) = match name {
            TokenName::Id(id) => (Some(*id), id.to_string()),
            TokenName::Text(text) => (self.engine.token_to_id(text), format!("`{text}`")),
        };
        id.filter(|&id| (id as usize) < self.vocab_size)
            .ok_or_else(|| {
                let message = format_args!(
                    "{shown} is not a token of {} within the model's {} tokens",
                    self.path.display(),
                    self.vocab_size
                );
                Error::new(Code::ConfigInvalid, key, message)
            })
    }

    fn invalid(&self, message: impl std::fmt::Display) -> Error {
        Error::new(Code::TokenizerInvalid, self.path.display(), message)
    }
}

/// The last character boundary of `text` at or before byte `at`.
fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|&i| text.is_char_boundary(i))
        .unwrap_or(0)
}

fn special_ids(engine: &Engine) -> Vec<u32> {
    let mut ids: Vec<u32> = engine
        .get_added_tokens_decoder()
        .into_iter()
        .filter(|(_, token)| token.special)
        .map(|(id, _)| id)
        .collect();
    ids.sort_unstable();
    ids
}

/// Runs the tokenizer library, which panics on some malformed files, and turns that into an
/// error.
fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|e| e.to_string().replace(['\n', '\r'], " ")),
        Err(_) => Err("the tokenizer library gave up on it".into()),
    }
}

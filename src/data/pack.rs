//! Tokens of documents into contexts of one length.

use super::settings::TokenName;
use super::settings::{ExcludeTokens, ModelTokens, Packing, Separator, TokenSettings};
use super::store::{Accounting, Writer};
use super::tokenizer::Tokenizer;
use crate::domain::{Code, Error, Result};

/// [`TokenSettings`] with every token resolved to its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub context_size: usize,
    /// Tokens that a context repeats of the one before.
    pub stride: usize,
    pub packing: Packing,
    /// Put at the start of every context.
    pub bos: Option<u32>,
    /// Put between documents of one context.
    pub separator: Option<u32>,
    pub pad: u32,
    /// Ids of positions that are not trained on, ascending; the model's BOS is among them.
    pub excluded: Vec<u32>,
}

impl Layout {
    pub fn resolve(
        settings: &TokenSettings,
        tokenizer: &Tokenizer,
        model: &ModelTokens,
    ) -> Result<Self> {
        let known = |id: Option<u32>| id.filter(|&id| (id as usize) < model.vocab_size);
        let need = |key, name, id| {
            known(id).ok_or_else(|| {
                let problem = match id {
                    None => format!("the model's config names no {name} token"),
                    Some(id) => format!(
                        "the model's {name} token {id} is outside of its vocab_size {}",
                        model.vocab_size
                    ),
                };
                Error::new(Code::ConfigInvalid, key, problem)
            })
        };
        let bos = match settings.prepend_bos {
            true => Some(
                need("data.prepend_bos", "BOS", model.bos)
                    .map_err(|e| e.hint("set prepend_bos = false"))?,
            ),
            false => None,
        };
        let separator = match (&settings.separator, settings.packing) {
            (Separator::None, _) | (_, Packing::OnePerContext) => Ok(None),
            (Separator::Eos, _) => need("data.separator", "EOS", model.eos).map(Some),
            (Separator::Bos, _) => need("data.separator", "BOS", model.bos).map(Some),
            (Separator::Token(text), _) => tokenizer
                .id_of("data.separator", &TokenName::Text(text.clone()))
                .map(Some),
        }
        .map_err(|e| e.hint("set separator to \"eos\", \"bos\", \"none\" or a token's text"))?;
        let mut excluded = match &settings.exclude_special_tokens {
            ExcludeTokens::All(false) => Vec::new(),
            ExcludeTokens::All(true) => tokenizer.special_tokens(),
            ExcludeTokens::Chosen(names) => names
                .iter()
                .map(|name| tokenizer.id_of("data.exclude_special_tokens", name))
                .collect::<Result<_>>()?,
        };
        excluded.extend(known(model.bos));
        excluded.sort_unstable();
        excluded.dedup();
        let pad = known(model.pad).or(known(model.eos)).or(known(model.bos));
        Ok(Self {
            context_size: settings.context_size,
            stride: settings.stride,
            packing: settings.packing,
            bos,
            separator,
            pad: pad.unwrap_or(0),
            excluded,
        })
    }
}

/// Cuts the stream of tokens into contexts and hands them to a [`Writer`].
pub(super) struct Packer<'a> {
    layout: &'a Layout,
    writer: &'a mut Writer,
    /// The context that is being filled.
    ids: Vec<u32>,
    /// Tokens that the next context begins with, and how many the current one began with.
    tail: Vec<u32>,
    repeated: usize,
    /// Tokens of the current document so far.
    of_document: u64,
    pub accounting: Accounting,
}

impl<'a> Packer<'a> {
    pub fn new(layout: &'a Layout, writer: &'a mut Writer) -> Self {
        Self {
            layout,
            writer,
            ids: Vec::with_capacity(layout.context_size),
            tail: Vec::new(),
            repeated: 0,
            of_document: 0,
            accounting: Accounting::default(),
        }
    }

    /// The next tokens of the current document.
    pub fn tokens(&mut self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        if self.of_document == 0 && self.accounting.documents > 0 {
            // A context that begins here needs no separator that would repeat its BOS.
            let begins = self.ids.is_empty() && self.tail.is_empty();
            let repeats = begins && self.layout.bos == self.layout.separator;
            if let Some(separator) = self.layout.separator
                && !repeats
            {
                self.push(separator)?;
            }
        }
        self.of_document += ids.len() as u64;
        for &id in ids {
            self.push(id)?;
        }
        Ok(())
    }

    /// The current document ends. One that gave no token is counted as empty.
    pub fn end_document(&mut self) -> Result<()> {
        if self.of_document == 0 {
            self.accounting.empty_documents += 1;
            return Ok(());
        }
        self.accounting.documents += 1;
        self.accounting.tokens += self.of_document;
        self.of_document = 0;
        match self.layout.packing {
            Packing::OnePerContext => self.flush(),
            Packing::Concat => Ok(()),
        }
    }

    /// Writes the last context.
    pub fn finish(mut self) -> Result<Accounting> {
        self.flush()?;
        Ok(self.accounting)
    }

    fn push(&mut self, id: u32) -> Result<()> {
        if self.ids.is_empty() {
            self.ids.extend(self.layout.bos);
            self.repeated = self.tail.len();
            self.ids.append(&mut self.tail);
        }
        if self.ids.len() == self.layout.context_size {
            self.accounting.dropped_tokens += 1;
            return Ok(());
        }
        self.ids.push(id);
        if self.ids.len() == self.layout.context_size && self.layout.packing == Packing::Concat {
            self.tail
                .extend(&self.ids[self.ids.len() - self.layout.stride..]);
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let len = self.ids.len();
        let valid = |id: &u32| self.layout.excluded.binary_search(id).is_err();
        let mut mask: Vec<bool> = self.ids.iter().map(valid).collect();
        let begin = usize::from(self.layout.bos.is_some());
        mask[begin..begin + std::mem::take(&mut self.repeated)].fill(false);
        self.ids.resize(self.layout.context_size, self.layout.pad);
        self.accounting.contexts += 1;
        self.accounting.pads += (self.layout.context_size - len) as u64;
        self.writer.push(&self.ids, len, &mask)?;
        self.ids.clear();
        Ok(())
    }
}

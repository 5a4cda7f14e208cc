//! The token set of a run: taken from the cache, or built into it.

use super::pack::{Layout, Packer};
use super::settings::{ModelTokens, Paths, TokenSettings};
use super::sources::{self, Source};
use super::split::Split;
use super::store::{Accounting, Context, Store, Writer};
use super::tokenizer::{PIECE, Tokenizer};
use super::{read, sources::content_hash};
use crate::domain::{Code, Error, Result};
use crate::system::files::create_dir;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Raised whenever the same input could give other contexts.
const FORMAT: u32 = 1;
/// Text that is tokenised at once, in bytes; its tokens take some two hundred times that.
const BATCH: usize = 512 << 10;
/// Pieces that are tokenised at once, where documents are short.
const BATCH_PIECES: usize = 4096;

/// What [`TokenSet::open_or_build`] is at.
#[derive(Debug)]
pub enum Progress<'a> {
    /// Reading the files to identify them: bytes done, of all.
    Hashing(u64, u64),
    /// Another process builds a token set in the same cache.
    Waiting,
    /// What the cache holds cannot be used; it is built anew.
    Rebuilding(&'a Error),
    /// Tokenising: bytes of files done, of all, and tokens so far.
    Tokenising(u64, u64, u64),
}

/// The contexts of a data set, on disk and memory-mapped.
#[derive(Debug)]
pub struct TokenSet {
    path: PathBuf,
    store: Store,
    split: Split,
    key: String,
    context_size: usize,
    training_tokens: u64,
    reused: bool,
}

impl TokenSet {
    /// Opens the token set of `settings` in `cache`, building it where the cache has none that
    /// is whole. Its key covers every setting except the path, the model's token ids, the
    /// tokenizer file and the content of the text files.
    ///
    /// `progress` is called often; an error that it returns ends the work and is returned.
    /// Text is read twice (identified, then tokenised) in blocks; memory does not grow with
    /// it.
    ///
    /// # Errors
    /// Those of a bad setting (`config-invalid`), tokenizer (`tokenizer-invalid`) or text
    /// (`data-missing`, `data-empty`, `data-column-missing`, `data-row-invalid`), `io-read`,
    /// `io-write` and `disk-full`.
    pub fn open_or_build(
        settings: &TokenSettings,
        tokenizer: &Path,
        model: &ModelTokens,
        cache: &Path,
        progress: &mut dyn FnMut(Progress<'_>) -> Result<()>,
    ) -> Result<Self> {
        settings.validate()?;
        let files = sources::find(&settings.path.0)?;
        let tokenizer = Tokenizer::load(tokenizer, model.vocab_size)?;
        let layout = Layout::resolve(settings, &tokenizer, model)?;
        let total = files.iter().map(|f| f.bytes).sum();
        let content = content_hash(&files, &mut |done| progress(Progress::Hashing(done, total)))?;
        let key = key(settings, model, &tokenizer, content)?;
        create_dir(cache)?;
        let path = cache.join(format!("tokens-{}.bin", &key[..32]));

        let _lock = lock(cache, progress)?;
        let open = |reused| -> Result<Self> {
            let store = Store::open(&path, &key)?;
            Ok(Self::new(
                &path,
                store,
                &key,
                &layout,
                settings.holdout,
                reused,
            ))
        };
        if path.exists() {
            match open(true) {
                Err(error) if error.code == Code::CacheCorrupt => {
                    progress(Progress::Rebuilding(&error))?;
                }
                result => return result,
            }
        }
        let partial = path.with_extension("partial");
        if partial.exists() {
            let error = Error::new(
                Code::CacheCorrupt,
                partial.display(),
                "the token set was not written to its end",
            );
            progress(Progress::Rebuilding(&error))?;
        }
        let mut writer = Writer::create(&partial, model.vocab_size)?;
        tokenise(settings, &files, &tokenizer, &layout, &mut writer, progress)
            .and_then(|accounting| {
                sources::expect_unchanged(&files)?;
                writer.finish(&path, &key, layout.context_size, accounting)
            })
            .inspect_err(|_| drop(std::fs::remove_file(&partial)))?;
        open(false)
    }

    fn new(
        path: &Path,
        store: Store,
        key: &str,
        layout: &Layout,
        holdout: f64,
        reused: bool,
    ) -> Self {
        let split = Split::new(store.accounting.contexts, holdout);
        let count = |rank| store.valid_count(split.training_context(rank)) as u64;
        Self {
            path: path.to_owned(),
            training_tokens: (0..split.training()).map(count).sum(),
            split,
            key: key.to_owned(),
            context_size: layout.context_size,
            reused,
            store,
        }
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// BLAKE3 over everything that decides the contexts, in hexadecimal.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Tokens in a context.
    pub fn context_size(&self) -> usize {
        self.context_size
    }

    /// Documents, tokens, contexts and pads.
    pub fn accounting(&self) -> Accounting {
        self.store.accounting
    }

    /// Bytes of the file that is mapped into memory; the system may take them back.
    pub fn mapped_bytes(&self) -> u64 {
        self.store.bytes()
    }

    /// Whether it came from the cache.
    pub fn reused(&self) -> bool {
        self.reused
    }

    /// Number of contexts, held out or not.
    pub fn contexts(&self) -> u64 {
        self.store.accounting.contexts
    }

    /// Number of contexts to train on.
    pub fn training_contexts(&self) -> u64 {
        self.split.training()
    }

    /// Number of held-out contexts.
    pub fn held_out_contexts(&self) -> u64 {
        self.split.held_out()
    }

    /// Tokens that one pass over the contexts to train on gives: pads, BOS and excluded
    /// tokens do not count.
    pub fn training_tokens(&self) -> u64 {
        self.training_tokens
    }

    /// Context `index` of all.
    ///
    /// # Panics
    /// Where there is no such context.
    pub fn context(&self, index: u64) -> Context {
        self.store.context(index)
    }

    /// The `rank`-th context to train on, in the order of the text.
    ///
    /// # Panics
    /// Where there is no such context.
    pub fn training_context(&self, rank: u64) -> Context {
        assert!(rank < self.split.training());
        self.context(self.split.training_context(rank))
    }

    /// The `rank`-th held-out context, in the order of the text.
    ///
    /// # Panics
    /// Where there is no such context.
    pub fn held_out_context(&self, rank: u64) -> Context {
        assert!(rank < self.split.held_out());
        self.context(self.split.held_out_context(rank))
    }
}

fn key(
    settings: &TokenSettings,
    model: &ModelTokens,
    tokenizer: &Tokenizer,
    content: blake3::Hash,
) -> Result<String> {
    let mut settings = settings.clone();
    settings.path = Paths::default();
    let parts = (
        FORMAT,
        settings,
        model,
        tokenizer.hash().to_hex().to_string(),
        content.to_hex().to_string(),
    );
    let json = serde_json::to_vec(&parts).map_err(|e| Error::new(Code::Internal, "data", e))?;
    Ok(blake3::hash(&json).to_hex().to_string())
}

/// Keeps other processes from building in the same cache until it is dropped.
fn lock(cache: &Path, progress: &mut dyn FnMut(Progress<'_>) -> Result<()>) -> Result<File> {
    let path = cache.join(".tokens.lock");
    let file = File::create(&path).map_err(|e| Error::write(&path, &e))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        progress(Progress::Waiting)?;
        flock(&file, FlockOperation::LockExclusive).map_err(|e| Error::write(&path, &e.into()))?;
    }
    Ok(file)
}

fn tokenise(
    settings: &TokenSettings,
    files: &[Source],
    tokenizer: &Tokenizer,
    layout: &Layout,
    writer: &mut Writer,
    progress: &mut dyn FnMut(Progress<'_>) -> Result<()>,
) -> Result<Accounting> {
    let total = files.iter().map(|f| f.bytes).sum();
    let mut feed = Feed {
        tokenizer,
        packer: Packer::new(layout, writer),
        pending: String::new(),
        blank: true,
        batch: Vec::new(),
        batch_bytes: 0,
        before: 0,
        in_file: 0,
        file_bytes: 0,
        total,
        tokens: 0,
        progress,
    };
    for file in files {
        feed.file_bytes = file.bytes;
        read::documents(file, &settings.text_column, &mut feed)?;
        feed.before += file.bytes;
        feed.in_file = 0;
    }
    feed.flush()?;
    let accounting = feed.packer.finish()?;
    if accounting.tokens == 0 {
        return Err(
            Error::new(Code::DataEmpty, &settings.path, "there is no text in it")
                .hint("set data.path to text with content"),
        );
    }
    Ok(accounting)
}

/// Cuts documents into pieces, tokenises a batch of them at a time, and packs their ids.
struct Feed<'a> {
    tokenizer: &'a Tokenizer,
    packer: Packer<'a>,
    /// Text of the current document that no piece holds yet.
    pending: String,
    /// Whether the current document is white space so far.
    blank: bool,
    /// Pieces, and whether a document ends with them.
    batch: Vec<(String, bool)>,
    batch_bytes: usize,
    /// Bytes of the files before the current one, of text within it, and its length.
    before: u64,
    in_file: u64,
    file_bytes: u64,
    total: u64,
    tokens: u64,
    progress: &'a mut dyn FnMut(Progress<'_>) -> Result<()>,
}

impl read::Sink for Feed<'_> {
    fn text(&mut self, part: &str) -> Result<()> {
        self.in_file += part.len() as u64;
        self.blank &= part.trim().is_empty();
        self.pending.push_str(part);
        let mut at = 0;
        while let Some(cut) = self.tokenizer.cut(&self.pending[at..])? {
            let piece = self.pending[at..at + cut.end].to_owned();
            self.packer.accounting.forced_cuts += u64::from(!cut.exact);
            at += cut.next;
            self.add(piece, false)?;
        }
        self.pending.drain(..at);
        Ok(())
    }

    fn end_document(&mut self) -> Result<()> {
        let mut piece = std::mem::take(&mut self.pending);
        if std::mem::replace(&mut self.blank, true) {
            piece.clear();
        }
        self.add(piece, true)
    }
}

impl Feed<'_> {
    fn add(&mut self, piece: String, ends: bool) -> Result<()> {
        self.batch_bytes += piece.len();
        self.batch.push((piece, ends));
        if self.batch_bytes >= BATCH.max(PIECE) || self.batch.len() >= BATCH_PIECES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let pieces: Vec<&str> = self.batch.iter().map(|(piece, _)| piece.as_str()).collect();
        let ids = self.tokenizer.encode_pieces(&pieces)?;
        for (ids, (piece, ends)) in ids.iter().zip(&self.batch) {
            // Some tokenizers give an empty text a token of their own.
            let ids = if piece.is_empty() { &[][..] } else { ids };
            self.tokens += ids.len() as u64;
            self.packer.tokens(ids)?;
            if *ends {
                self.packer.end_document()?;
            }
        }
        self.batch.clear();
        self.batch_bytes = 0;
        let done = self.before + self.in_file.min(self.file_bytes);
        (self.progress)(Progress::Tokenising(done, self.total, self.tokens))
    }
}

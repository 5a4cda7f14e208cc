//! A dataset: whether every row can be read, and its tokens for a model.

use super::Desk;
use crate::data::{self, Progress, TokenSet, TokenSettings};
use crate::domain::asset::{DataReport, TokenSetFacts};
use crate::domain::{Code, Error, Result};
use crate::lm;
use crate::protocol::asset::WorkStage;
use crate::system::files;
use crate::worker::prepare;
use serde_json::Value;
use std::path::Path;
use std::time::Instant;

/// Reads every row below `path`.
pub fn validate(path: &Path, text_column: &str, desk: &mut Desk<'_>) -> Result<DataReport> {
    data::survey(path, text_column, &mut |done, total| {
        desk.progress(WorkStage::Preprocessing, done, Some(total))
    })
}

/// Tokenises for the model `name` in the folder `model`, or finds what an earlier run or
/// request with the same text, tokenizer and settings left.
pub fn tokenize(
    name: &str,
    model: &Path,
    settings: &Value,
    cache: &Path,
    desk: &mut Desk<'_>,
) -> Result<TokenSetFacts> {
    let began = Instant::now();
    let settings: TokenSettings = serde_json::from_value(settings.clone())
        .map_err(|e| Error::new(Code::ProtocolInvalid, "settings", e))?;
    let spec = lm::config::load(model)?;
    let mut tell = |progress: Progress<'_>| match progress {
        Progress::Hashing(done, total) => {
            desk.progress(WorkStage::Preprocessing, done, Some(total))
        }
        Progress::Tokenising(done, total, _) if done < total => {
            desk.progress(WorkStage::Tokenizing, done, Some(total))
        }
        Progress::Tokenising(_, total, _) => desk.progress(WorkStage::Saving, 0, Some(total)),
        Progress::Waiting | Progress::Rebuilding(_) => {
            desk.progress(WorkStage::Preprocessing, 0, None)
        }
    };
    let set = TokenSet::open_or_build(
        &settings,
        &model.join("tokenizer.json"),
        &prepare::model_tokens(model, &spec)?,
        &files::cache_folder(cache)?,
        &mut tell,
    )?;
    let accounting = set.accounting();
    Ok(TokenSetFacts {
        key: set.key().to_owned(),
        model: name.to_owned(),
        settings: described(&settings)?,
        file: set.path().to_owned(),
        bytes: set.mapped_bytes(),
        documents: accounting.documents,
        empty_documents: accounting.empty_documents,
        tokens: accounting.tokens,
        mean_document: accounting.mean_document(),
        contexts: set.contexts(),
        held_out: set.held_out_contexts(),
        training_tokens: set.training_tokens(),
        pads: accounting.pads,
        reused: set.reused(),
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// The settings without the path, which the dataset's record has.
fn described(settings: &TokenSettings) -> Result<Value> {
    let mut settings =
        serde_json::to_value(settings).map_err(|e| Error::new(Code::Internal, "settings", e))?;
    if let Some(object) = settings.as_object_mut() {
        object.remove("path");
    }
    Ok(settings)
}

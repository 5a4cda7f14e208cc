//! Writing a checkpoint's folder, each file durable before the next one vouches for it.

use super::folder::{STATE, TENSORS};
use super::manifest::{self, FileEntry, Manifest};
use super::write;
use crate::domain::{Code, Error, Result};
use crate::system::fs::Fs;
use crate::tensorfile::{MAX_HEADER, TensorOut, encode_header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What is to be saved, beside the state.
#[derive(Clone, Copy)]
pub struct Snapshot<'a> {
    /// Training steps done.
    pub step: u64,
    /// Everything large, under names such as `sae.0.W_enc` or `sae.0.adam.m.W_enc`. It is
    /// borrowed and streamed: saving needs about 1 MiB of its own.
    pub tensors: &'a [TensorOut<'a>],
    /// The value of the measure of [`Retention::best`](super::Retention::best), where it
    /// was taken. One that is not finite counts as not taken.
    pub metric: Option<f64>,
    /// Whether rotation must keep it.
    pub protected: bool,
}

/// Writes the folder `path`; `describe` completes its manifest.
pub(super) fn write_folder<S: Serialize + DeserializeOwned>(
    fs: &Fs,
    path: &Path,
    snapshot: &Snapshot<'_>,
    state: &S,
    sequence: u64,
    describe: impl FnOnce(&mut Manifest),
) -> Result<()> {
    let fail = |e: std::io::Error| Error::write(path, &e);
    let internal = |about: &str, message| Error::new(Code::Internal, about, message);
    let tensors = aligned(snapshot.tensors);
    let header = header(&tensors).map_err(|e| internal(TENSORS, e))?;
    let state = survives_json(state).map_err(|e| internal(STATE, e))?;

    fs.create_dir(path).map_err(fail)?;
    let tensors = write::file(fs, &path.join(TENSORS), |out| {
        out.write_all(&header)?;
        tensors.iter().try_for_each(|t| out.write_all(t.bytes))
    })?;
    let state = write::file(fs, &path.join(STATE), |out| out.write_all(&state))?;

    let files = vec![
        FileEntry::new(TENSORS, &tensors),
        FileEntry::new(STATE, &state),
    ];
    let mut manifest = Manifest::new(sequence, snapshot.step, files);
    manifest.protected = snapshot.protected;
    describe(&mut manifest);
    let manifest = manifest
        .render()
        .map_err(|e| internal(manifest::FILE_NAME, e.to_string()))?;
    write::file(fs, &path.join(manifest::FILE_NAME), |out| {
        out.write_all(&manifest)
    })?;
    fs.sync_dir(path).map_err(fail)
}

/// The tensors, the widest number types first, so that each is aligned in the file.
fn aligned<'a>(tensors: &[TensorOut<'a>]) -> Vec<TensorOut<'a>> {
    let mut order: Vec<&TensorOut<'a>> = tensors.iter().collect();
    order.sort_by_key(|t| std::cmp::Reverse(t.dtype.bitsize()));
    order
        .into_iter()
        .map(|t| TensorOut::new(&t.name, t.dtype, &t.shape, t.bytes))
        .collect()
}

/// The header of a file that can be read again, which the writer of headers leaves to its
/// callers: names are unique and it is not too long.
fn header(tensors: &[TensorOut<'_>]) -> Result<Vec<u8>, String> {
    let mut names = BTreeSet::new();
    if let Some(twice) = tensors.iter().find(|t| !names.insert(&t.name)) {
        return Err(format!("there are two tensors `{}`", twice.name));
    }
    let header = encode_header(&BTreeMap::new(), tensors);
    if header.len() > MAX_HEADER {
        return Err(format!("{} tensors are too many", tensors.len()));
    }
    Ok(header)
}

/// The JSON of `state`, when reading it back gives the same.
fn survives_json<S: Serialize + DeserializeOwned>(state: &S) -> Result<Vec<u8>, String> {
    let bytes = serde_json::to_vec(state).map_err(|e| format!("cannot be written: {e}"))?;
    let back: S = serde_json::from_slice(&bytes)
        .map_err(|e| format!("could not be read back (a NaN or an infinity?): {e}"))?;
    let again = serde_json::to_vec(&back).map_err(|e| format!("cannot be written: {e}"))?;
    // As values: the order of keys in a map is nobody's promise.
    let value = |bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok();
    if value(&again) != value(&bytes) {
        return Err("would not be the same after reading it back".to_owned());
    }
    Ok(bytes)
}

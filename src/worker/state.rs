//! What a checkpoint says beside the tensors of the autoencoders.

use super::site::Site;
use crate::activations::Cursor;
use crate::checkpoint::{Checkpoint, Snapshot, Store};
use crate::device::sae::SaeOps;
use crate::domain::early_stopping::Stopper;
use crate::domain::{Code, Error, Result};
use crate::sae::{Dtype, StateTensor};
use crate::tensorfile::{TensorFile, TensorOut};
use safetensors::Dtype as FileDtype;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::Path;

/// Everything about a run but its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps done, skipped ones included.
    pub step: u64,
    /// Steps that were skipped for a NaN or an infinity.
    pub skipped: u64,
    /// Tokens in a micro-batch: it decides the order of sums, so it is kept.
    pub micro_batch: usize,
    /// Where the next batch begins.
    pub cursor: Cursor,
    /// Identity of the token set or of the activation cache.
    pub data: String,
    /// Loss of the last step.
    pub loss: Option<f64>,
    /// What early stopping has seen.
    #[serde(default)]
    pub early: Option<Stopper>,
}

impl State {
    /// Refuses a resume on another text or tokenizer than `checkpoint` was trained on.
    ///
    /// # Errors
    /// `checkpoint-mismatch`.
    pub fn check_data(&self, key: &str, checkpoint: &Checkpoint) -> Result<()> {
        if self.data == key {
            return Ok(());
        }
        let message = "the text, the tokenizer or the settings under [data] are not those that \
                       the run began with";
        Err(Error::new(
            Code::CheckpointMismatch,
            checkpoint.path().display(),
            message,
        )
        .hint("put them back, or start a new run in another folder with --out"))
    }
}

/// Calls `save` with the snapshot of `sites` after `state.step` steps.
pub fn snapshot<D: SaeOps, T>(
    device: &D,
    sites: &[Site<D>],
    state: &State,
    metric: Option<f64>,
    save: impl FnOnce(&Snapshot<'_>) -> Result<T>,
) -> Result<T> {
    let mut held = Vec::new();
    for site in sites {
        for tensor in site.trainer.state(device)? {
            held.push((format!("{}/{}", site.name, tensor.name), tensor));
        }
    }
    let tensors: Vec<TensorOut<'_>> = held
        .iter()
        .map(|(name, t)| TensorOut::new(name, file_dtype(t.dtype), &t.shape, &t.bytes))
        .collect();
    save(&Snapshot {
        step: state.step,
        tensors: &tensors,
        metric,
        protected: false,
    })
}

/// Puts what `checkpoint` holds into `sites`.
pub fn restore<D: SaeOps>(
    device: &D,
    sites: &mut [Site<D>],
    checkpoint: &Checkpoint,
) -> Result<State> {
    let file = checkpoint.tensors()?;
    for site in sites {
        let tensors = tensors_of(&site.name, &file, checkpoint)?;
        site.trainer.load_state(device, &tensors)?;
    }
    checkpoint.state()
}

/// Puts the newest weights of the run in `folder` into `sites`.
///
/// # Errors
/// `checkpoint-missing`, `checkpoint-corrupt`; `checkpoint-mismatch` where its autoencoders
/// have other hook points or shapes.
pub fn start_from<D: SaeOps>(device: &D, sites: &mut [Site<D>], folder: &Path) -> Result<()> {
    let hint = "training.init_from names the folder of a run with the same model.hooks, \
                sae.d_sae and sae.variant";
    let within = |e: Error| Error {
        hint: hint.into(),
        ..e
    };
    let found = Store::newest_of(&folder.join("checkpoints")).map_err(within)?;
    let checkpoint = found.checkpoint;
    let file = checkpoint.tensors()?;
    for site in sites {
        let tensors = tensors_of(&site.name, &file, &checkpoint)?;
        let path = checkpoint.path().display();
        if tensors.is_empty() {
            let message = format!("holds no autoencoder at {}", site.name);
            return Err(within(Error::new(Code::CheckpointMismatch, path, message)));
        }
        let loaded = site.trainer.load_weights(device, &tensors);
        loaded.map_err(|e| {
            within(Error {
                about: format!("{path}: {}/{}", site.name, e.about),
                ..e
            })
        })?;
    }
    Ok(())
}

/// The tensors of the autoencoder at `site`, by their names in there.
fn tensors_of<'f>(
    site: &str,
    file: &'f TensorFile,
    checkpoint: &Checkpoint,
) -> Result<Vec<StateTensor<'f>>> {
    let prefix = format!("{site}/");
    let mut tensors = Vec::new();
    for name in file.names() {
        let Some(inner) = name.strip_prefix(&prefix) else {
            continue;
        };
        let tensor = file.tensor(name)?;
        let dtype = state_dtype(tensor.dtype()).ok_or_else(|| {
            let message = format!("tensor {name} has a type that this program does not save");
            Error::new(
                Code::CheckpointMismatch,
                checkpoint.path().display(),
                message,
            )
        })?;
        tensors.push(StateTensor {
            name: inner.to_owned(),
            dtype,
            shape: tensor.shape().to_vec(),
            bytes: Cow::Borrowed(tensor.bytes()),
        });
    }
    Ok(tensors)
}

fn file_dtype(dtype: Dtype) -> FileDtype {
    match dtype {
        Dtype::F32 => FileDtype::F32,
        Dtype::F64 => FileDtype::F64,
        Dtype::U32 => FileDtype::U32,
        Dtype::U64 => FileDtype::U64,
    }
}

fn state_dtype(dtype: FileDtype) -> Option<Dtype> {
    match dtype {
        FileDtype::F32 => Some(Dtype::F32),
        FileDtype::F64 => Some(Dtype::F64),
        FileDtype::U32 => Some(Dtype::U32),
        FileDtype::U64 => Some(Dtype::U64),
        _ => None,
    }
}

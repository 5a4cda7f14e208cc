//! A language model as a source of activations.

use super::{Capture, Site, Take};
use crate::data::Context;
use crate::device::lm::LmOps;
use crate::device::sae::Rows;
use crate::domain::{Code, Error, Result};
use crate::lm::{End, HookPoint, Lm, Tokens};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Activations at hook points of a language model. The model is shared, since evaluation
/// runs it too, between two captures.
pub struct LmCapture<'a, D: LmOps<Real = f32>> {
    device: &'a D,
    lm: &'a Mutex<Lm<D>>,
    hooks: Vec<HookPoint>,
    sites: Vec<Site>,
}

impl<'a, D: LmOps<Real = f32>> LmCapture<'a, D> {
    /// Activations at the hook points called `hooks`. One forward pass gives all of them and
    /// stops after the last.
    ///
    /// # Errors
    /// `hook-unknown`.
    pub fn new(device: &'a D, lm: &'a Mutex<Lm<D>>, hooks: &[String]) -> Result<Self> {
        let model = lm.lock().map_err(|_| poisoned())?;
        let points = hooks
            .iter()
            .map(|name| model.spec().hook(name))
            .collect::<Result<_>>()?;
        let site = |hook: &String| Site {
            hook: hook.clone(),
            d_in: model.spec().d_model,
        };
        Ok(Self {
            device,
            lm,
            hooks: points,
            sites: hooks.iter().map(site).collect(),
        })
    }
}

impl<D: LmOps<Real = f32>> Capture<D> for LmCapture<'_, D> {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn capture(&mut self, contexts: &[Context], take: &mut Take<'_, D>) -> Result<()> {
        let size = contexts.first().map_or(0, |c| c.ids.len());
        let ids: Vec<u32> = contexts.iter().flat_map(|c| &c.ids).copied().collect();
        let mask: Vec<bool> = contexts
            .iter()
            .flat_map(|c| (0..size).map(|position| position < c.len))
            .collect();
        let tokens = Tokens::masked(&ids, &mask, contexts.len(), size)?;
        let mut at =
            |index: usize, value: &mut D::Buf, rows: usize| take(index, Rows::of(value, rows));
        let mut lm = self.lm.lock().map_err(|_| poisoned())?;
        lm.forward(self.device, &tokens, &self.hooks, &mut at, End::Hooks)
    }
}

fn poisoned() -> Error {
    Error::new(
        Code::Internal,
        "activations",
        "the language model was left in the middle of a pass",
    )
}

/// BLAKE3 of what decides a model's activations, in hexadecimal: `config.json` and every
/// `.safetensors` file of `folder`.
///
/// # Errors
/// `model-missing`, `io-read`.
pub fn model_hash(folder: &Path) -> Result<String> {
    let missing = |e: std::io::Error| {
        let message = format_args!("the model folder cannot be read: {e}");
        Error::new(Code::ModelMissing, folder.display(), message)
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|e| Ok(e?.path())).collect())
        .map_err(missing)?;
    files.retain(|path| {
        path.extension().is_some_and(|e| e == "safetensors") || path.ends_with("config.json")
    });
    files.sort();
    let mut hasher = blake3::Hasher::new();
    for path in &files {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let mut content = blake3::Hasher::new();
        File::open(path)
            .and_then(|file| content.update_reader(file).map(drop))
            .map_err(|e| Error::read(path, &e))?;
        hasher.update(blake3::hash(name).as_bytes());
        hasher.update(content.finalize().as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

//! The tensors of a model folder: one file, or shards named by an index.

use super::{Codes, Tensor, TensorFile, shown};
use crate::domain::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Largest index that is parsed, in bytes.
const MAX_INDEX: u64 = 8 << 20;

/// All tensors of a folder in Hugging Face layout.
pub struct TensorSet {
    folder: PathBuf,
    codes: Codes,
    files: Vec<TensorFile>,
    /// Tensor → place in `files`.
    places: BTreeMap<String, usize>,
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl TensorSet {
    /// Opens `model.safetensors` of `folder`, or the shards that
    /// `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// `codes.missing`, `codes.corrupt` or `io-read`, for the index and every shard.
    pub fn open(folder: impl Into<PathBuf>, codes: Codes) -> Result<Self> {
        let folder = folder.into();
        let index = folder.join(INDEX);
        let single = folder.join(SINGLE);
        if single.exists() || !index.exists() {
            let file =
                TensorFile::open(&single, codes).map_err(|e| no_weights(e, &folder, codes))?;
            let places = file.names().map(|name| (name.to_owned(), 0)).collect();
            return Ok(Self {
                folder,
                codes,
                files: vec![file],
                places,
            });
        }
        Self::open_shards(folder, &index, codes)
    }

    fn open_shards(folder: PathBuf, index: &Path, codes: Codes) -> Result<Self> {
        let map = read_index(index, codes)?;
        let mut files: Vec<TensorFile> = Vec::new();
        let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
        let mut places = BTreeMap::new();
        for (tensor, shard) in map {
            let number = match numbers.get(&shard) {
                Some(&number) => number,
                None => {
                    let path = folder.join(plain_name(&shard, index, codes)?);
                    files.push(TensorFile::open(path, codes)?);
                    numbers.insert(shard, files.len() - 1);
                    files.len() - 1
                }
            };
            files[number].tensor(&tensor)?;
            places.insert(tensor, number);
        }
        Ok(Self {
            folder,
            codes,
            files,
            places,
        })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The tensor `name`, where the folder has it.
    pub fn get(&self, name: &str) -> Option<Tensor<'_>> {
        self.files[*self.places.get(name)?].get(name)
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// `codes.mismatch` where the folder lacks it.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>> {
        self.get(name).ok_or_else(|| {
            let holder = match self.files.as_slice() {
                [file] => file.path().display(),
                _ => self.folder.display(),
            };
            Error::new(
                self.codes.mismatch,
                format_args!("{holder}: {}", shown(name)),
                "the tensor is missing",
            )
            .hint("the weights do not belong to this config.json, or are incomplete")
        })
    }
}

fn read_index(index: &Path, codes: Codes) -> Result<BTreeMap<String, String>> {
    let corrupt = |message: String| {
        Error::new(codes.corrupt, index.display(), message)
            .hint("the index is damaged: fetch it again")
    };
    let size = std::fs::metadata(index).map_err(|e| Error::read(index, &e))?;
    if size.len() > MAX_INDEX {
        return Err(corrupt(format!(
            "it has {} bytes; at most {MAX_INDEX} are read",
            size.len()
        )));
    }
    let text = std::fs::read(index).map_err(|e| Error::read(index, &e))?;
    let map = serde_json::from_slice::<Index>(&text)
        .map_err(|e| corrupt(format!("it is not a valid index: {e}")))?
        .weight_map;
    if map.is_empty() {
        return Err(corrupt("its weight_map is empty".into()));
    }
    Ok(map)
}

/// `shard`, where it is the plain name of a file: what an index says must not lead out of
/// the folder.
fn plain_name<'a>(shard: &'a str, index: &Path, codes: Codes) -> Result<&'a str> {
    let mut parts = Path::new(shard).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(name)), None) if name == shard && !shard.contains('\0') => {
            Ok(shard)
        }
        _ => Err(Error::new(
            codes.corrupt,
            index.display(),
            format_args!(
                "weight_map names the file {:?}, which is not a plain file name",
                shown(shard)
            ),
        )),
    }
}

fn no_weights(mut error: Error, folder: &Path, codes: Codes) -> Error {
    if error.code == codes.missing {
        error.hint = if folder.join("pytorch_model.bin").exists() {
            format!(
                "only safetensors are read: save the model again with save_pretrained(safe_serialization=True), beside or instead of {}",
                folder.join("pytorch_model.bin").display()
            )
        } else if folder.exists() {
            format!("a model folder holds {SINGLE}, or shards and {INDEX}")
        } else {
            "the folder is not there".into()
        };
    }
    error
}

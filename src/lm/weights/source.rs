//! Tensors of a model folder as checked numbers.

use super::Stored;
use super::names::Names;
use crate::domain::{Code, Error, Result};
use crate::tensorfile::{Codes, Tensor, TensorSet};
use std::collections::BTreeSet;
use std::path::Path;

/// Tensors by name; remembers which were asked for.
pub(super) struct Source {
    set: TensorSet,
    root: &'static str,
    read: BTreeSet<String>,
}

impl Source {
    pub fn open(folder: &Path, names: &Names) -> Result<Self> {
        let set = TensorSet::open(folder, Codes::MODEL)?;
        let embed = |root: &str| format!("{root}{}.weight", names.embed);
        let root = names
            .roots
            .into_iter()
            .find(|root| set.get(&embed(root)).is_some())
            .unwrap_or(names.roots[0]);
        Ok(Self {
            set,
            root,
            read: BTreeSet::new(),
        })
    }

    /// `name` below the family's root, as the files have it.
    pub fn rooted(&self, name: &str) -> String {
        format!("{}{name}", self.root)
    }

    pub fn stored(&self) -> Stored {
        let dtypes = self.set.names().filter_map(|name| self.set.get(name));
        let dtypes: BTreeSet<String> = dtypes.map(|t| t.dtype().to_string()).collect();
        Stored {
            tensors: self.set.names().count(),
            dtypes: dtypes.into_iter().collect(),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.set.get(name).is_some()
    }

    /// The finite values of tensor `name`, which must have `shape`.
    pub fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.set.tensor(name)?.expect_shape(shape)?;
        let mut values = zeros(tensor.elements(), name)?;
        tensor.read_f32(0..values.len(), &mut values)?;
        tensor.release();
        all_finite(&tensor, &values)?;
        self.read.insert(name.to_owned());
        Ok(values)
    }

    /// The matrix `{name}.weight` as [n, k].
    pub fn matrix(&mut self, name: &str, n: usize, k: usize, transposed: bool) -> Result<Vec<f32>> {
        let name = format!("{name}.weight");
        if !transposed {
            return self.values(&name, &[n, k]);
        }
        let stored = self.values(&name, &[k, n])?;
        let mut values = zeros(n * k, &name)?;
        // Square tiles, so that neither side misses the cache at every element.
        const TILE: usize = 32;
        for i0 in (0..k).step_by(TILE) {
            for j0 in (0..n).step_by(TILE) {
                for i in i0..k.min(i0 + TILE) {
                    for j in j0..n.min(j0 + TILE) {
                        values[j * k + i] = stored[i * n + j];
                    }
                }
            }
        }
        Ok(values)
    }

    /// An unembedding beside a tied embedding must be that embedding.
    pub fn expect_tied(&mut self, head: &str, embedding: &[f32], shape: &[usize]) -> Result<()> {
        if !self.has(head) {
            return Ok(());
        }
        let values = self.values(head, shape)?;
        if values != embedding {
            return Err(self.set.tensor(head)?.mismatch(
                "it differs from the embedding, although config.json says tie_word_embeddings",
            ));
        }
        Ok(())
    }

    /// Refuses tensors of blocks that were not read: the model would be run without them.
    pub fn refuse_leftovers(&self, names: &Names) -> Result<()> {
        let blocks = format!("{}{}.", self.root, names.blocks);
        for name in self.set.names() {
            let Some(rest) = name.strip_prefix(&blocks) else {
                continue;
            };
            let ignored = rest
                .split_once('.')
                .is_some_and(|(_, part)| names.ignored.contains(&part));
            if !ignored && !self.read.contains(name) {
                return Err(self
                    .set
                    .tensor(name)?
                    .mismatch("it has no place in the model that config.json describes")
                    .hint("config.json and weights do not belong together"));
            }
        }
        Ok(())
    }
}

/// Room for `len` values of tensor `name`.
pub(super) fn zeros<T: Clone + Default>(len: usize, name: &str) -> Result<Vec<T>> {
    let mut values = Vec::new();
    reserve(&mut values, len, name)?;
    values.resize(len, T::default());
    Ok(values)
}

/// Adds the values of tensor `name` to `to`.
pub(super) fn append(to: &mut Vec<f32>, values: &[f32], name: &str) -> Result<()> {
    reserve(to, values.len(), name)?;
    to.extend_from_slice(values);
    Ok(())
}

fn reserve<T>(values: &mut Vec<T>, len: usize, name: &str) -> Result<()> {
    values.try_reserve_exact(len).map_err(|_| {
        Error::new(
            Code::OutOfMemory,
            name,
            format_args!("no memory for {} bytes", len * size_of::<T>()),
        )
        .hint("choose a smaller model")
    })
}

fn all_finite(tensor: &Tensor<'_>, values: &[f32]) -> Result<()> {
    for (block, chunk) in values.chunks(4096).enumerate() {
        if chunk.iter().all(|v| v.is_finite()) {
            continue;
        }
        let inner = chunk.iter().position(|v| !v.is_finite()).unwrap_or(0);
        return Err(Error::new(
            Code::ModelNonFinite,
            tensor.about(),
            format_args!(
                "element {} of {} is {}",
                block * 4096 + inner,
                values.len(),
                chunk[inner]
            ),
        )
        .hint("the weights are damaged: fetch them again"));
    }
    Ok(())
}

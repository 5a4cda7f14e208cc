//! Weights of a model folder, packed once for the backend.

mod names;
mod source;

use super::spec::{LmSpec, QkNormKind};
use crate::device::Real;
use crate::device::coded::Coded;
use crate::device::lm::{Head, Linear, LmOps, Mlp, Norm, QkNorm, Table};
use crate::domain::{Precision, Result};
use names::{Names, Qkv, Up};
use source::Source;
use std::path::Path;

/// Logits that one tile of the unembedding makes.
const HEAD_TILE: usize = 4096;

/// All weights of a model.
pub(super) struct Weights<D: LmOps> {
    pub embed: Table<D>,
    pub positions: Option<D::Buf>,
    pub blocks: Vec<Block<D>>,
    pub final_norm: Norm<D>,
    pub head: Head<D>,
}

/// Weights of a block. Which norms are there says where they stand.
pub(super) struct Block<D: LmOps> {
    pub attn_norm: Option<Norm<D>>,
    pub qkv: Linear<D>,
    pub qk_norm: QkNorm<D>,
    pub out: Linear<D>,
    pub attn_post_norm: Option<Norm<D>>,
    pub mlp_norm: Option<Norm<D>>,
    pub mlp: Mlp<D>,
    pub mlp_post_norm: Option<Norm<D>>,
}

impl<D: LmOps> Weights<D> {
    /// Reads, checks and packs the weights of `folder`, to be held in `precision`.
    ///
    /// # Errors
    /// `model-missing`, `model-file-corrupt`, `model-tensor-mismatch`, `model-non-finite`,
    /// `model-unsupported` for a weight that `precision` cannot hold, `io-read`,
    /// `out-of-memory`.
    pub fn load(device: &D, spec: &LmSpec, folder: &Path, precision: Precision) -> Result<Self> {
        Loader::open(device, spec, folder, precision)?.all()
    }
}

/// Reads and checks all that [`Weights::load`] does, and keeps at most one block of it at a
/// time. `each` is called with the parts done, of all; an error of it ends the work.
///
/// # Errors
/// As [`Weights::load`].
pub(super) fn verify<D: LmOps>(
    device: &D,
    spec: &LmSpec,
    folder: &Path,
    each: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Stored> {
    let mut loader = Loader::open(device, spec, folder, Precision::F32)?;
    let parts = spec.layers() as u64 + 2;
    each(0, parts)?;
    drop(loader.embedding()?);
    drop(loader.positions()?);
    each(1, parts)?;
    for layer in 0..spec.layers() {
        drop(loader.block(layer)?);
        each(layer as u64 + 2, parts)?;
    }
    drop(loader.final_norm()?);
    loader.source.refuse_leftovers(&loader.names)?;
    each(parts, parts)?;
    Ok(loader.source.stored())
}

/// What the files of a model hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Number of tensors.
    pub tensors: usize,
    /// How they are stored, each once: `F32`, `BF16`, ….
    pub dtypes: Vec<String>,
}

struct Loader<'a, D: LmOps> {
    device: &'a D,
    spec: &'a LmSpec,
    names: Names,
    source: Source,
    precision: Precision,
}

impl<'a, D: LmOps> Loader<'a, D> {
    fn open(device: &'a D, spec: &'a LmSpec, folder: &Path, precision: Precision) -> Result<Self> {
        let names = names::of(spec);
        Ok(Self {
            device,
            spec,
            source: Source::open(folder, &names)?,
            names,
            precision,
        })
    }

    fn all(&mut self) -> Result<Weights<D>> {
        let (embed, head) = self.embedding()?;
        let positions = self.positions()?;
        let blocks = (0..self.spec.layers())
            .map(|layer| self.block(layer))
            .collect::<Result<_>>()?;
        let final_norm = self.final_norm()?;
        self.source.refuse_leftovers(&self.names)?;
        Ok(Weights {
            embed,
            positions,
            blocks,
            final_norm,
            head,
        })
    }

    fn embedding(&mut self) -> Result<(Table<D>, Head<D>)> {
        let (vocab, d) = (self.spec.vocab, self.spec.d_model);
        let name = self.source.rooted(self.names.embed);
        let table = self.source.matrix(&name, vocab, d, false)?;
        let head_name = format!("{}.weight", self.names.head);
        let head = if self.spec.tied {
            self.source.expect_tied(&head_name, &table, &[vocab, d])?;
            self.head(&table)?
        } else {
            let rows = self.source.values(&head_name, &[vocab, d])?;
            self.head(&rows)?
        };
        let table = match Coded::new(&table, d, self.precision)? {
            Some(coded) => Table::Coded(self.device.hold_coded(coded)?),
            None => Table::Plain(self.upload(table)?),
        };
        Ok((table, head))
    }

    fn positions(&mut self) -> Result<Option<D::Buf>> {
        if !self.spec.learned_positions {
            return Ok(None);
        }
        let name = self.source.rooted(self.names.positions);
        let (max, d) = (self.spec.max_positions, self.spec.d_model);
        let rows = self.source.matrix(&name, max, d, false)?;
        self.upload(rows).map(Some)
    }

    fn final_norm(&mut self) -> Result<Norm<D>> {
        let name = self.source.rooted(self.names.final_norm);
        self.norm(&name, self.spec.d_model)
    }

    fn head(&self, rows: &[f32]) -> Result<Head<D>> {
        let d = self.spec.d_model;
        let tiles = rows
            .chunks(HEAD_TILE * d)
            .map(|tile| self.pack(tile, tile.len() / d, d))
            .collect::<Result<_>>()?;
        Ok(Head {
            tiles,
            tile: HEAD_TILE,
            vocab: self.spec.vocab,
            softcap: self.spec.final_softcap,
        })
    }

    fn block(&mut self, layer: usize) -> Result<Block<D>> {
        let prefix = self
            .source
            .rooted(&format!("{}.{layer}.", self.names.blocks));
        let (d, d_mlp) = (self.spec.d_model, self.spec.d_mlp);
        let attended = self.spec.heads * self.spec.head_dim;
        let qkv = self.qkv(&prefix)?;
        let out = [(format!("{prefix}{}", self.names.out), d)];
        let down = [(format!("{prefix}{}", self.names.down), d)];
        let out = self.linear(&out, attended, self.spec.out_bias)?;
        let down = self.linear(&down, d_mlp, self.spec.mlp_bias)?;
        let up = self.up(&prefix)?;
        Ok(Block {
            attn_norm: self.block_norm(&prefix, self.names.attn_norm)?,
            qkv,
            qk_norm: self.qk_norm(&prefix)?,
            out,
            attn_post_norm: self.block_norm(&prefix, self.names.attn_post_norm)?,
            mlp_norm: self.block_norm(&prefix, self.names.mlp_norm)?,
            mlp: Mlp {
                up,
                down,
                activation: self.spec.activation,
                gated: self.spec.gated,
                d_mlp,
            },
            mlp_post_norm: self.block_norm(&prefix, self.names.mlp_post_norm)?,
        })
    }

    fn qkv(&mut self, prefix: &str) -> Result<Linear<D>> {
        let (d, bias) = (self.spec.d_model, self.spec.qkv_bias);
        let (q, kv) = (
            self.spec.heads * self.spec.head_dim,
            self.spec.kv_heads * self.spec.head_dim,
        );
        match self.names.qkv {
            Qkv::Separate([q_name, k_name, v_name]) => {
                let parts = [(q_name, q), (k_name, kv), (v_name, kv)]
                    .map(|(name, n)| (format!("{prefix}{name}"), n));
                self.linear(&parts, d, bias)
            }
            Qkv::Stacked(name) => self.linear(&[(format!("{prefix}{name}"), q + 2 * kv)], d, bias),
            Qkv::ByHead(name) => {
                let (heads, head_dim) = (self.spec.heads, self.spec.head_dim);
                let part = [(format!("{prefix}{name}"), 3 * q)];
                let (rows, bias) = self.rows(&part, d, bias)?;
                let rows = split_heads(&rows, heads, head_dim * d);
                let bias = bias.map(|bias| split_heads(&bias, heads, head_dim));
                self.packed(&rows, bias, d)
            }
        }
    }

    fn up(&mut self, prefix: &str) -> Result<Linear<D>> {
        let (d, d_mlp, bias) = (self.spec.d_model, self.spec.d_mlp, self.spec.mlp_bias);
        match self.names.up {
            Up::One(name) => {
                let n = if self.spec.gated { 2 * d_mlp } else { d_mlp };
                self.linear(&[(format!("{prefix}{name}"), n)], d, bias)
            }
            Up::GateAndUp(names) => {
                let parts = names.map(|name| (format!("{prefix}{name}"), d_mlp));
                self.linear(&parts, d, bias)
            }
        }
    }

    /// The matrices `parts` (name, outputs), one below the other.
    fn linear(&mut self, parts: &[(String, usize)], k: usize, bias: bool) -> Result<Linear<D>> {
        let (rows, bias) = self.rows(parts, k, bias)?;
        self.packed(&rows, bias, k)
    }

    fn rows(
        &mut self,
        parts: &[(String, usize)],
        k: usize,
        bias: bool,
    ) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
        let (mut rows, mut biases) = (Vec::new(), Vec::new());
        for (name, n) in parts {
            // Memory is taken for what the file holds, not for what the config says.
            let matrix = self.source.matrix(name, *n, k, self.names.transposed)?;
            match rows.is_empty() {
                true => rows = matrix,
                false => source::append(&mut rows, &matrix, name)?,
            }
            if bias {
                biases.extend(self.source.values(&format!("{name}.bias"), &[*n])?);
            }
        }
        Ok((rows, bias.then_some(biases)))
    }

    fn packed(&self, rows: &[f32], bias: Option<Vec<f32>>, k: usize) -> Result<Linear<D>> {
        Ok(Linear {
            weight: self.pack(rows, rows.len() / k, k)?,
            bias: bias.map(|b| self.upload(b)).transpose()?,
        })
    }

    fn pack(&self, rows: &[f32], n: usize, k: usize) -> Result<D::Weight> {
        match Coded::new(rows, k, self.precision)? {
            Some(coded) => self.device.pack_coded(coded),
            None => self.device.pack(&reals::<D>(rows)?, n, k),
        }
    }

    fn upload(&self, values: Vec<f32>) -> Result<D::Buf> {
        self.device.upload(&reals::<D>(&values)?)
    }

    fn block_norm(&mut self, prefix: &str, name: Option<&str>) -> Result<Option<Norm<D>>> {
        let width = self.spec.d_model;
        name.map(|name| self.norm(&format!("{prefix}{name}"), width))
            .transpose()
    }

    fn norm(&mut self, name: &str, width: usize) -> Result<Norm<D>> {
        use crate::device::lm::NormKind;
        let kind = self.spec.norm;
        let mut weight = self.source.values(&format!("{name}.weight"), &[width])?;
        if kind.plus_one {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        let bias = match kind.kind {
            NormKind::Layer => Some(self.source.values(&format!("{name}.bias"), &[width])?),
            NormKind::Rms => None,
        };
        Ok(Norm {
            kind: kind.kind,
            eps: kind.eps,
            weight: self.upload(weight)?,
            bias: bias.map(|b| self.upload(b)).transpose()?,
        })
    }

    fn qk_norm(&mut self, prefix: &str) -> Result<QkNorm<D>> {
        let (q, k) = match self.spec.qk_norm {
            QkNormKind::Off => return Ok(QkNorm::Off),
            QkNormKind::PerHead => (1, 1),
            QkNormKind::FullWidth => (self.spec.heads, self.spec.kv_heads),
        };
        let head_dim = self.spec.head_dim;
        let q_norm = self.norm(&format!("{prefix}{}", self.names.q_norm), q * head_dim)?;
        let k_norm = self.norm(&format!("{prefix}{}", self.names.k_norm), k * head_dim)?;
        Ok(match self.spec.qk_norm {
            QkNormKind::FullWidth => QkNorm::FullWidth(q_norm, k_norm),
            _ => QkNorm::PerHead(q_norm, k_norm),
        })
    }
}

/// Head by head (query, key, value) to all queries, all keys, all values; `len` values
/// each.
fn split_heads(values: &[f32], heads: usize, len: usize) -> Vec<f32> {
    let mut split = Vec::with_capacity(values.len());
    for part in 0..3 {
        for head in 0..heads {
            split.extend_from_slice(&values[(head * 3 + part) * len..][..len]);
        }
    }
    split
}

fn reals<D: LmOps>(values: &[f32]) -> Result<Vec<D::Real>> {
    let mut reals = source::zeros(values.len(), "weights")?;
    for (real, value) in reals.iter_mut().zip(values) {
        *real = D::Real::from_f64(f64::from(*value));
    }
    Ok(reals)
}

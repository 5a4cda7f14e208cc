//! The forward pass: one readable sequence for every model and every backend.

use super::hook::{Hook, HookPoint};
use super::spec::LmSpec;
use super::tokens::Tokens;
use super::weights::{Block, Weights};
use crate::device::lm::{Attention, Embed, LmOps, NO_TARGET, RopeTable};
use crate::device::{Device, Real};
use crate::domain::{Code, Error, Precision, Result};
use std::path::Path;

/// A language model on a backend.
pub struct Lm<D: LmOps> {
    spec: LmSpec,
    folder: String,
    precision: Precision,
    weights: Weights<D>,
    /// Memory of the last pass, for the next one of the same shape.
    memory: Option<Memory<D>>,
}

/// What a pass goes on to after the last hook point.
pub enum End<'a, D: LmOps> {
    /// Nothing: what follows is not computed.
    Hooks,
    /// The cross-entropy of `targets`, one for each row, in nats; rows with
    /// [`crate::device::lm::NO_TARGET`] keep what `out` holds.
    Losses {
        /// The token that should follow each row; see [`Tokens::next`].
        targets: &'a [u32],
        /// One loss for each row.
        out: &'a mut [f64],
    },
    /// The logits [rows, vocab], whole: for small inputs.
    Logits(&'a mut D::Buf),
}

/// What is called at a hook point: its index in the list that was asked for, its value
/// [rows, d_model], which may be changed, and the number of rows. A changed value is what
/// the model goes on with.
pub type AtHook<'a, D> = &'a mut dyn FnMut(usize, &mut <D as Device>::Buf, usize) -> Result<()>;

impl<D: LmOps> Lm<D> {
    /// Reads a model folder in Hugging Face layout, to be held in 32 bits.
    ///
    /// # Errors
    /// `model-missing`, `model-config-invalid`, `model-unsupported`, `model-file-corrupt`,
    /// `model-tensor-mismatch`, `model-non-finite`, `io-read`, `out-of-memory`; each names
    /// the file and the key or tensor.
    pub fn load(device: &D, folder: &Path) -> Result<Self> {
        Self::load_as(device, folder, Precision::F32)
    }

    /// As [`Lm::load`], to be held in `precision`: in no other, whatever memory there is.
    ///
    /// # Errors
    /// As [`Lm::load`]; where memory is short, with the next smaller precision as a hint.
    pub fn load_as(device: &D, folder: &Path, precision: Precision) -> Result<Self> {
        let spec = super::config::load(folder)?;
        let weights =
            Weights::load(device, &spec, folder, precision).map_err(|e| {
                match precision.smaller().filter(|_| e.code == Code::OutOfMemory) {
                    Some(smaller) => e.hint(format!(
                        "hold its weights in fewer bits: model.precision = \"{smaller}\""
                    )),
                    None => e,
                }
            })?;
        Ok(Self {
            spec,
            folder: folder.display().to_string(),
            precision,
            weights,
            memory: None,
        })
    }

    /// What the model is.
    pub fn spec(&self) -> &LmSpec {
        &self.spec
    }

    /// How its weights are held.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Gives back the memory that passes have kept for the next one.
    pub fn release(&mut self) {
        self.memory = None;
    }

    /// Runs the model over `tokens` and calls `at` at each of `hooks` as the computation
    /// comes by. Values on padding rows are finite and otherwise unspecified. The result
    /// for a context does not depend on the other contexts, on its padding, on the other
    /// hook points, or on the number of threads.
    ///
    /// # Errors
    /// `hook-unknown`; `usage` for an id that the model does not have, or a context beyond
    /// its learned positions; `out-of-memory`; whatever `at` returns.
    pub fn forward(
        &mut self,
        device: &D,
        tokens: &Tokens,
        hooks: &[HookPoint],
        at: AtHook<'_, D>,
        end: End<'_, D>,
    ) -> Result<()> {
        self.check(tokens, hooks)?;
        if let End::Losses { targets, out } = &end {
            self.check_targets(tokens, targets, out.len())?;
        }
        let last = match end {
            End::Hooks => match hooks.iter().max() {
                Some(last) => Some(*last),
                None => return Ok(()),
            },
            _ => None,
        };
        let mut memory = match self.memory.take() {
            Some(memory) if memory.fits(tokens) => memory,
            // What does not fit is given back before the new is taken.
            _ => Memory::new(device, &self.spec, tokens)?,
        };
        let pass = Pass {
            device,
            spec: &self.spec,
            tokens,
            hooks,
            last,
            rounded: self.precision.rounds_factors(),
        };
        let result = pass.run(&self.weights, &mut memory, at, end);
        self.memory = Some(memory);
        result
    }

    /// Copies the values [rows, d_model] at `hooks` to the buffers of the same index, and
    /// stops after the last one.
    ///
    /// # Errors
    /// As [`Lm::forward`].
    ///
    /// # Panics
    /// Where there are fewer buffers than hooks, or one is too short.
    pub fn capture(
        &mut self,
        device: &D,
        tokens: &Tokens,
        hooks: &[HookPoint],
        into: &mut [D::Buf],
    ) -> Result<()> {
        let d = self.spec.d_model;
        let mut copy = |index: usize, value: &mut D::Buf, rows: usize| {
            device.copy(value, 0, &mut into[index], 0, rows * d)
        };
        self.forward(device, tokens, hooks, &mut copy, End::Hooks)
    }

    fn check_targets(&self, tokens: &Tokens, targets: &[u32], out: usize) -> Result<()> {
        let wrong = |message: String| Err(Error::new(Code::Usage, "targets", message));
        let rows = tokens.rows();
        if targets.len() != rows || out != rows {
            let found = targets.len();
            return wrong(format!("{found} targets and {out} losses for {rows} rows"));
        }
        let vocab = self.spec.vocab;
        let beyond = |&&id: &&u32| id != NO_TARGET && id as usize >= vocab;
        match targets.iter().find(beyond) {
            Some(id) => wrong(format!(
                "the token id {id} is not below the model's vocabulary of {vocab}"
            )),
            None => Ok(()),
        }
    }

    fn check(&self, tokens: &Tokens, hooks: &[HookPoint]) -> Result<()> {
        if let Some(point) = hooks.iter().find(|point| !self.spec.has(**point)) {
            self.spec.hook(&point.to_string())?;
        }
        let vocab = self.spec.vocab;
        if let Some(id) = tokens.ids().iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::new(
                Code::Usage,
                &self.folder,
                format_args!("the token id {id} is not below the model's vocabulary of {vocab}"),
            )
            .hint("use the tokenizer that belongs to the model"));
        }
        let longest = tokens.spans().iter().map(|s| s.len).max().unwrap_or(0);
        if self.spec.learned_positions && longest > self.spec.max_positions {
            return Err(Error::new(
                Code::Usage,
                &self.folder,
                format_args!(
                    "a context of {longest} tokens exceeds the model's {} positions",
                    self.spec.max_positions
                ),
            )
            .hint("choose a shorter context"));
        }
        Ok(())
    }
}

/// Buffers of a pass over `rows` tokens.
struct Memory<D: LmOps> {
    rows: usize,
    context: usize,
    resid: D::Buf,
    normed: D::Buf,
    qkv: D::Buf,
    attended: D::Buf,
    /// What a branch adds to the residual stream.
    delta: D::Buf,
    /// The same of the MLP, where it is computed beside attention.
    parallel: Option<D::Buf>,
    ropes: Vec<RopeTable<D>>,
}

impl<D: LmOps> Memory<D> {
    fn new(device: &D, spec: &LmSpec, tokens: &Tokens) -> Result<Self> {
        let (rows, context) = (tokens.rows(), tokens.context());
        let stream = || device.zeros(rows * spec.d_model);
        let tables = spec.ropes.iter().map(|rope| {
            let frequencies = rope.inverse_frequencies();
            let (cos, sin): (Vec<_>, Vec<_>) = (0..context)
                .flat_map(|at| frequencies.iter().map(move |f| f64::from(at as f32 * f)))
                .map(|angle| {
                    (
                        D::Real::from_f64(angle.cos()),
                        D::Real::from_f64(angle.sin()),
                    )
                })
                .unzip();
            Ok(RopeTable {
                cos: device.upload(&cos)?,
                sin: device.upload(&sin)?,
                dim: rope.dim,
            })
        });
        Ok(Self {
            rows,
            context,
            resid: stream()?,
            normed: stream()?,
            qkv: device.zeros(rows * spec.qkv_width())?,
            attended: device.zeros(rows * spec.heads * spec.head_dim)?,
            delta: stream()?,
            parallel: spec.parallel.then(stream).transpose()?,
            ropes: tables.collect::<Result<_>>()?,
        })
    }

    fn fits(&self, tokens: &Tokens) -> bool {
        self.rows == tokens.rows() && self.context == tokens.context()
    }
}

/// One pass: what stays the same from block to block.
struct Pass<'a, D: LmOps> {
    device: &'a D,
    spec: &'a LmSpec,
    tokens: &'a Tokens,
    hooks: &'a [HookPoint],
    /// After this one nothing more is computed.
    last: Option<HookPoint>,
    /// Whether attention may be computed from values in bf16.
    rounded: bool,
}

/// Whether a pass goes on.
#[derive(PartialEq)]
enum Flow {
    On,
    Done,
}

impl<D: LmOps> Pass<'_, D> {
    fn run(
        &self,
        weights: &Weights<D>,
        m: &mut Memory<D>,
        at: AtHook<'_, D>,
        end: End<'_, D>,
    ) -> Result<()> {
        let rows = self.tokens.rows();
        let open = Embed {
            table: &weights.embed,
            positions: weights.positions.as_ref(),
            scale: self.spec.embed_scale,
            ids: self.tokens.ids(),
            at: &self.tokens.positions(),
            d_model: self.spec.d_model,
        };
        self.device.embed(&open, &mut m.resid)?;
        for (layer, block) in weights.blocks.iter().enumerate() {
            if self.block(layer, block, m, at)? == Flow::Done {
                return Ok(());
            }
        }
        self.device
            .norm(&m.resid, rows, &weights.final_norm, &mut m.normed)?;
        match end {
            End::Hooks => Ok(()),
            End::Losses { targets, out } => {
                self.device.losses(&m.normed, &weights.head, targets, out)
            }
            End::Logits(out) => self.device.logits(&m.normed, rows, &weights.head, out),
        }
    }

    fn block(
        &self,
        layer: usize,
        block: &Block<D>,
        m: &mut Memory<D>,
        at: AtHook<'_, D>,
    ) -> Result<Flow> {
        let (device, rows) = (self.device, self.tokens.rows());
        let len = rows * self.spec.d_model;
        let mut visit = |hook: Hook, value: &mut D::Buf| self.visit(layer, hook, value, at);

        if visit(Hook::ResidPre, &mut m.resid)? == Flow::Done {
            return Ok(Flow::Done);
        }
        self.attend(layer, block, m)?;
        if visit(Hook::AttnOut, &mut m.delta)? == Flow::Done {
            return Ok(Flow::Done);
        }
        if let Some(parallel) = &mut m.parallel {
            self.mlp(block, &m.resid, &mut m.normed, parallel)?;
            if visit(Hook::MlpOut, parallel)? == Flow::Done {
                return Ok(Flow::Done);
            }
            device.add(&m.delta, len, &mut m.resid)?;
            device.add(parallel, len, &mut m.resid)?;
        } else {
            device.add(&m.delta, len, &mut m.resid)?;
            if visit(Hook::ResidMid, &mut m.resid)? == Flow::Done {
                return Ok(Flow::Done);
            }
            self.mlp(block, &m.resid, &mut m.normed, &mut m.delta)?;
            if visit(Hook::MlpOut, &mut m.delta)? == Flow::Done {
                return Ok(Flow::Done);
            }
            device.add(&m.delta, len, &mut m.resid)?;
        }
        visit(Hook::ResidPost, &mut m.resid)
    }

    /// `m.delta` = what attention adds to the residual stream.
    fn attend(&self, layer: usize, block: &Block<D>, m: &mut Memory<D>) -> Result<()> {
        let (device, rows, spec) = (self.device, self.tokens.rows(), self.spec);
        let here = &spec.blocks[layer];
        let (x, qkv) = (&m.resid, &block.qkv);
        match &block.attn_norm {
            Some(norm) => device.norm_linear(x, rows, norm, &mut m.normed, qkv, &mut m.qkv)?,
            None => device.linear(x, rows, qkv, &mut m.qkv)?,
        }
        let attention = Attention {
            spans: self.tokens.spans(),
            rows,
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            scale: here.scale,
            softcap: spec.attn_softcap,
            window: here.window,
            rope: here.rope.map(|index| &m.ropes[index]),
            qk_norm: &block.qk_norm,
            rounded: self.rounded,
        };
        device.attention(&attention, &mut m.qkv, &mut m.attended)?;
        device.linear(&m.attended, rows, &block.out, &mut m.delta)?;
        if let Some(norm) = &block.attn_post_norm {
            device.norm(&m.delta, rows, norm, &mut m.normed)?;
            std::mem::swap(&mut m.delta, &mut m.normed);
        }
        Ok(())
    }

    /// `delta` = what the MLP adds to the residual stream `resid`.
    fn mlp(
        &self,
        block: &Block<D>,
        resid: &D::Buf,
        normed: &mut D::Buf,
        delta: &mut D::Buf,
    ) -> Result<()> {
        let (device, rows) = (self.device, self.tokens.rows());
        match &block.mlp_norm {
            Some(norm) => device.norm_mlp(resid, rows, norm, normed, &block.mlp, delta)?,
            None => device.mlp(resid, rows, &block.mlp, delta)?,
        }
        if let Some(norm) = &block.mlp_post_norm {
            device.norm(delta, rows, norm, normed)?;
            std::mem::swap(delta, normed);
        }
        Ok(())
    }

    fn visit(
        &self,
        layer: usize,
        hook: Hook,
        value: &mut D::Buf,
        at: AtHook<'_, D>,
    ) -> Result<Flow> {
        let point = HookPoint { layer, hook };
        for (index, wanted) in self.hooks.iter().enumerate() {
            if *wanted == point {
                at(index, value, self.tokens.rows())?;
            }
        }
        Ok(if self.last == Some(point) {
            Flow::Done
        } else {
            Flow::On
        })
    }
}

//! Places in a model where its activations can be read or replaced.

use super::spec::LmSpec;
use crate::domain::{Code, Error, Result};
use std::fmt;

/// A place within a block, in the order of computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// The residual stream before the block.
    ResidPre,
    /// What attention adds to the stream, after its post-norm where there is one.
    AttnOut,
    /// The residual stream between attention and MLP; models with a parallel residual have
    /// none.
    ResidMid,
    /// What the MLP adds to the stream, after its post-norm where there is one.
    MlpOut,
    /// The residual stream after the block.
    ResidPost,
}

impl Hook {
    /// All of them, in the order of computation.
    pub const ALL: [Hook; 5] = [
        Hook::ResidPre,
        Hook::AttnOut,
        Hook::ResidMid,
        Hook::MlpOut,
        Hook::ResidPost,
    ];

    /// The name that TransformerLens gives it.
    pub fn name(self) -> &'static str {
        match self {
            Hook::ResidPre => "hook_resid_pre",
            Hook::AttnOut => "hook_attn_out",
            Hook::ResidMid => "hook_resid_mid",
            Hook::MlpOut => "hook_mlp_out",
            Hook::ResidPost => "hook_resid_post",
        }
    }
}

/// A hook point, `blocks.{layer}.{hook}`. Their order is the order of computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HookPoint {
    /// The block, from 0.
    pub layer: usize,
    /// The place within it.
    pub hook: Hook,
}

impl fmt::Display for HookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blocks.{}.{}", self.layer, self.hook.name())
    }
}

impl LmSpec {
    /// The hook point called `name`.
    ///
    /// # Errors
    /// `hook-unknown` where the name is malformed, or this model has no such place.
    pub fn hook(&self, name: &str) -> Result<HookPoint> {
        let unknown = |message: String| Err(Error::new(Code::HookUnknown, name, message));
        let Some((layer, hook)) = parse(name) else {
            let hooks = Hook::ALL.map(Hook::name).join(", ");
            return unknown(format!(
                "is not a hook point: they are called blocks.LAYER.HOOK, with HOOK one of {hooks}"
            ));
        };
        if layer >= self.layers() {
            return unknown(format!("the model has blocks 0 to {}", self.layers() - 1));
        }
        let point = HookPoint { layer, hook };
        if !self.has(point) {
            return unknown(format!(
                "attention and MLP of this {} model read the same stream, so that there is nothing between them",
                self.family
            ));
        }
        Ok(point)
    }
}

fn parse(name: &str) -> Option<(usize, Hook)> {
    let (layer, hook) = name.strip_prefix("blocks.")?.split_once('.')?;
    if layer.len() > 1 && layer.starts_with('0') || !layer.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let hook = Hook::ALL.into_iter().find(|h| h.name() == hook)?;
    Some((layer.parse().ok()?, hook))
}

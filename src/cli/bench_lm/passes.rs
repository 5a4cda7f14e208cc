//! The passes that are timed, on any backend.

use super::LmArgs;
use crate::device::lm::LmOps;
use crate::domain::Result;
use crate::lm::{End, Hook, HookPoint, Lm, LmSpec, Tokens};

/// A model, random tokens, and room for what comes out.
pub struct Passes<'a, D: LmOps> {
    device: &'a D,
    pub lm: Lm<D>,
    tokens: Tokens,
    /// Where a pass without logits ends.
    last: HookPoint,
    logits: bool,
    targets: Vec<u32>,
    losses: Vec<f64>,
    captured: [D::Buf; 1],
}

impl<'a, D: LmOps> Passes<'a, D> {
    pub fn new(args: &LmArgs, device: &'a D) -> Result<Self> {
        let lm = Lm::load_as(device, &args.model, args.precision)?;
        let last = HookPoint {
            layer: args.stop_at_layer.unwrap_or(lm.spec().layers() - 1),
            hook: Hook::ResidPost,
        };
        let tokens = random_tokens(args, lm.spec())?;
        Ok(Self {
            device,
            last,
            logits: args.logits,
            targets: tokens.next(),
            losses: vec![0.0; tokens.rows()],
            captured: [device.zeros(tokens.rows() * lm.spec().d_model)?],
            lm,
            tokens,
        })
    }

    /// One pass.
    pub fn pass(&mut self) -> Result<()> {
        let (device, tokens) = (self.device, &self.tokens);
        if !self.logits {
            return self
                .lm
                .capture(device, tokens, &[self.last], &mut self.captured);
        }
        let (targets, out) = (&self.targets[..], &mut self.losses[..]);
        let end = End::Losses { targets, out };
        self.lm
            .forward(device, tokens, &[], &mut |_, _, _| Ok(()), end)
    }

    pub fn tokens(&self) -> f64 {
        self.tokens.rows() as f64
    }

    /// Blocks that a pass computes.
    pub fn blocks(&self) -> usize {
        match self.logits {
            true => self.lm.spec().layers(),
            false => self.last.layer + 1,
        }
    }

    /// Floating-point operations of a pass.
    pub fn flops(&self, context: usize) -> f64 {
        self.tokens() * flops_per_token(self.lm.spec(), context, self.blocks(), self.logits)
    }
}

fn random_tokens(args: &LmArgs, spec: &LmSpec) -> Result<Tokens> {
    let rows = args.batch.checked_mul(args.context).unwrap_or(0);
    let mut state = 1_u64;
    let ids: Vec<u32> = (0..rows)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            ((state >> 33) % spec.vocab as u64) as u32
        })
        .collect();
    Tokens::new(&ids, args.batch, args.context)
}

/// Floating-point operations of the products that a token needs; of attention the half
/// that is causal.
fn flops_per_token(spec: &LmSpec, context: usize, blocks: usize, logits: bool) -> f64 {
    let up = if spec.gated { 2 } else { 1 };
    let attended = spec.heads * spec.head_dim;
    let weights = spec.d_model * (spec.qkv_width() + attended + (up + 1) * spec.d_mlp);
    let attention = attended * context;
    let head = if logits { spec.vocab * spec.d_model } else { 0 };
    2.0 * (blocks * (weights + attention) + head) as f64
}

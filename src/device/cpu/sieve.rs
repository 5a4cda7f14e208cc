//! TopK by a product in bf16 that is not trusted: the result has the bits of the product in f32.
//!
//! AMX forms sums of bf16 factors sixteen times as fast as f32 ones, and [`super::rounded`] says how
//! far each can be from the true one. A latent stays a candidate while its key, with all of the
//! error, may still be among the k best of its token; the bound that it is compared with is the k-th
//! best of the keys with none of it. Only for the few candidates that are left in the end are
//! products formed in f32, and the best of those are kept. What is close to the k-th best is thus
//! computed exactly, and what is far from it not at all. BatchTopK has one such bound for all tokens
//! (`batch`).

use super::amx::{BLOCK, Block, TILE, Tiles};
use super::codes::Codes;
use super::isa::Isa;
use super::memory::{Parts, Scratch};
use super::out_of_memory;
use super::pool::Pool;
use super::rounded::{self, Tokens};
use super::shortlist::{Candidate, Exact, Shortlist};
use crate::device::sae::{Encode, Pick, Select};
use crate::domain::Result;

mod batch;

/// Numbers of a rounded stretch of latents: with the tokens of a task, most of L2.
const STRETCH: usize = 1 << 19;
/// Numbers of a task's rounded tokens.
const TASK: usize = 3 << 17;
/// With fewer latents for each that is kept, more of them are close to the bound than are not.
const SPARSE: usize = 32;

/// Where the candidates of 32 tokens go.
pub trait List: Send {
    /// Keys up to the bound of their token are of no use; NaN while every key is.
    fn bounds(&self) -> &[f32; BLOCK];
    /// Takes a candidate of token `at`, whose activation, less the center, is `x`. Latents of a token
    /// come in ascending order.
    fn push(&mut self, at: usize, candidate: Candidate, exact: &Exact<'_>, x: &[f32]);
}

/// Bytes that the selection of the `k` best latents of `tokens` takes beside its codes, where it goes this
/// way with `isa`: activations less a center, and rounded, and lists.
pub fn bytes(isa: Isa, tokens: usize, k: usize, d_in: usize, d_sae: usize) -> Option<usize> {
    let goes = isa == Isa::Amx && k > 0 && SPARSE * k <= d_sae;
    let blocks = tokens.div_ceil(BLOCK);
    goes.then(|| blocks * (Shortlist::floats(k) * size_of::<f32>() + BLOCK * d_in * 6))
}

/// Makes the codes of `pick`, where this way is the faster one; says whether it did.
pub fn encode(
    pool: &Pool,
    product: &Encode<'_, Vec<f32>>,
    pick: &mut Pick<'_, super::Cpu>,
) -> Result<bool> {
    let (tokens, d_sae) = (product.x.count, product.d_sae);
    if pool.isa() != Isa::Amx || product.d_in == 0 {
        return Ok(false);
    }
    match &pick.select {
        &Select::TopK {
            k,
            scale,
            among: None,
        } if k > 0 && SPARSE * k <= d_sae => {
            topk(pool, product, k, scale.map(|scale| &scale[..]), pick.codes)?;
        }
        Select::BatchTopK { total, scale } if *total > 0 && SPARSE * total <= tokens * d_sae => {
            let scale = scale.map(|scale| &scale[..]);
            batch::topk(pool, product, &pick.select, *total, scale, pick.codes)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Activations of the product, rounded.
fn tokens<'a>(pool: &Pool, product: &Encode<'a, Vec<f32>>) -> Result<Tokens<'a>> {
    let d = product.d_in;
    let x = &product.x.buf[product.x.first * d..][..product.x.count * d];
    Tokens::new(pool, x, d, product.center.map(|center| &center[..d]))
}

/// A list for each block of tokens.
fn lists<L>(blocks: usize, mut list: impl FnMut() -> Result<L>) -> Result<Vec<L>> {
    let mut lists = Vec::new();
    lists
        .try_reserve_exact(blocks)
        .map_err(|_| out_of_memory(blocks * size_of::<L>()))?;
    for _ in 0..blocks {
        lists.push(list()?);
    }
    Ok(lists)
}

/// Fills `codes` with the `k` best latents of every token.
fn topk(
    pool: &Pool,
    product: &Encode<'_, Vec<f32>>,
    k: usize,
    scale: Option<&[f32]>,
    codes: &mut Codes,
) -> Result<()> {
    let d_sae = product.d_sae;
    let tokens = tokens(pool, product)?;
    let mut lists = lists(tokens.blocks(), || Shortlist::new(k))?;
    let exact = Exact {
        isa: pool.isa(),
        product,
        scale,
    };
    let width = (STRETCH / product.d_in).max(1).next_multiple_of(BLOCK);
    for first in (0..d_sae).step_by(width) {
        let stretch = Stretch::round(pool, product, scale, first, width.min(d_sae - first))?;
        stretch.run(pool, &tokens, &exact, &mut lists)?;
    }
    codes.reset(d_sae, (0..tokens.count).map(|_| k))?;
    let (latent, pre) = (Parts::new(&mut codes.latent), Parts::new(&mut codes.pre));
    let lists = Parts::new(&mut lists);
    pool.run(tokens.blocks(), |block| {
        // SAFETY: each block and its edges belong to one task.
        let list = unsafe { &mut lists.part(block, 1)[0] };
        let count = BLOCK.min(tokens.count - block * BLOCK);
        list.close(count, &exact);
        for at in 0..count {
            let token = block * BLOCK + at;
            let soon = (at + 1 < count).then_some(at + 1);
            let kept = list.finish(at, &exact, tokens.row(token), soon);
            // SAFETY: as above.
            let to = unsafe { (latent.part(token * k, k), pre.part(token * k, k)) };
            for ((entry, latent), pre) in kept.iter().zip(to.0).zip(to.1) {
                (*latent, *pre) = (entry.latent, entry.pre);
            }
        }
    });
    Ok(())
}

/// Consecutive latents, rounded.
struct Stretch {
    /// Tiles of each panel.
    tiles: Scratch,
    panels: Vec<Panel>,
    steps: usize,
}

/// What belongs to 32 latents.
#[derive(Clone)]
struct Panel {
    first: usize,
    count: usize,
    bias: [f32; BLOCK],
    /// What adding it rounds at most.
    bias_error: [f32; BLOCK],
    reach: [f32; BLOCK],
    scale: [f32; BLOCK],
}

impl Panel {
    fn new(product: &Encode<'_, Vec<f32>>, first: usize, count: usize) -> Self {
        let mut bias = [0.0; BLOCK];
        bias[..count].copy_from_slice(&product.b_enc[first..first + count]);
        Self {
            first,
            count,
            bias,
            bias_error: bias.map(|bias| bias.abs() * 2.0 * f32::EPSILON),
            reach: [0.0; BLOCK],
            scale: [1.0; BLOCK],
        }
    }

    /// Sets the factors of keys. A key grows with p as long as its factor is not negative; of other
    /// latents nothing is known.
    fn set_scale(&mut self, scale: &[f32]) {
        for (i, &factor) in scale[self.first..][..self.count].iter().enumerate() {
            match factor >= 0.0 {
                true => self.scale[i] = factor,
                false => self.reach[i] = f32::INFINITY,
            }
        }
    }
}

impl Stretch {
    fn round(
        pool: &Pool,
        product: &Encode<'_, Vec<f32>>,
        scale: Option<&[f32]>,
        first: usize,
        count: usize,
    ) -> Result<Self> {
        let (d, steps) = (product.d_in, rounded::steps(product.d_in));
        let panel = |at| Panel::new(product, at, BLOCK.min(first + count - at));
        let mut panels: Vec<Panel> = (first..first + count).step_by(BLOCK).map(panel).collect();
        let mut tiles = Scratch::try_take(panels.len() * steps * TILE)?;
        {
            let tiles = Parts::new(bytemuck::cast_slice_mut::<f32, u16>(&mut tiles));
            let count = panels.len();
            let panels = Parts::new(&mut panels);
            pool.run(count, |index| {
                // SAFETY: each panel belongs to one task.
                let (panel, tiles) = unsafe {
                    let panel = &mut panels.part(index, 1)[0];
                    (
                        panel,
                        tiles.part(index * 2 * steps * TILE, 2 * steps * TILE),
                    )
                };
                let rows = product.w_enc[panel.first * d..][..panel.count * d].chunks_exact(d);
                panel.reach = rounded::latents(pool.isa(), rows, tiles);
                if let Some(scale) = scale {
                    panel.set_scale(scale);
                }
            });
        }
        Ok(Self {
            tiles,
            panels,
            steps,
        })
    }

    /// All blocks of it.
    fn run<L: List>(
        &self,
        pool: &Pool,
        tokens: &Tokens<'_>,
        exact: &Exact<'_>,
        lists: &mut [L],
    ) -> Result<()> {
        let blocks = (TASK / (BLOCK * tokens.d))
            .min(tokens.blocks().div_ceil(2 * pool.threads()))
            .max(1);
        let tiles: &[u16] = bytemuck::cast_slice(&self.tiles);
        let group = self.steps * TILE;
        let mut sums = Scratch::try_take(tokens.blocks() * BLOCK * BLOCK)?;
        let sums = Parts::new(Block::slice(&mut sums));
        let lists = Parts::new(lists);
        pool.run(tokens.blocks().div_ceil(blocks), |task| {
            let unit = Tiles::new(pool.isa());
            let blocks = task * blocks..tokens.blocks().min((task + 1) * blocks);
            // SAFETY: each block of tokens belongs to one task.
            let (lists, sums) = unsafe {
                let lists = lists.part(blocks.start, blocks.len());
                (lists, sums.part(blocks.start, blocks.len()))
            };
            for (panel, w) in self.panels.iter().zip(tiles.chunks_exact(2 * group)) {
                for chunk @ (first, len) in rounded::chunks(self.steps) {
                    let part = |half: usize| &w[half * group + first * TILE..][..len * TILE];
                    let w = [part(0), part(1)];
                    let last = first + len == self.steps;
                    for ((block, sums), list) in blocks.clone().zip(&mut *sums).zip(&mut *lists) {
                        unit.multiply(w, tokens.tiles(block, chunk), sums, first == 0);
                        if last {
                            offer(sums, panel, tokens, block, exact, list);
                        }
                    }
                }
            }
        });
        Ok(())
    }
}

/// Takes the candidates of a block to its tokens' lists.
fn offer(
    sums: &Block,
    panel: &Panel,
    tokens: &Tokens<'_>,
    block: usize,
    exact: &Exact<'_>,
    list: &mut impl List,
) {
    let slack = tokens.slack(block);
    let mut masks = [0; BLOCK];
    if !passing(exact.isa, sums, panel, slack, list.bounds(), &mut masks) {
        return;
    }
    let count = BLOCK.min(tokens.count - block * BLOCK);
    let live = u32::MAX >> (BLOCK - count);
    for (i, mask) in masks.iter().enumerate().take(panel.count) {
        for at in super::select::bits(mask & live) {
            let candidate = Candidate {
                latent: (panel.first + i) as u32,
                pre: sums.0[i][at] + panel.bias[i],
                error: slack[at] * panel.reach[i] + panel.bias_error[i],
            };
            list.push(at, candidate, exact, tokens.row(block * BLOCK + at));
        }
    }
}

/// For each latent a bit for each token, set unless its key is at most the token's bound, however
/// large the error; whether any is set. Another bound may be lower by now.
fn passing(
    isa: Isa,
    sums: &Block,
    panel: &Panel,
    slack: &[f32; BLOCK],
    bounds: &[f32; BLOCK],
    masks: &mut [u32; BLOCK],
) -> bool {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a pool has only instruction sets that the machine has.
        Isa::Amx | Isa::Avx512 => unsafe { x86::passing(sums, panel, slack, bounds, masks) },
        _ => {
            for (i, mask) in masks.iter_mut().enumerate() {
                let lifted = panel.bias[i] + panel.bias_error[i];
                for at in 0..BLOCK {
                    let most = sums.0[i][at] + lifted + slack[at] * panel.reach[i];
                    let useless = most * panel.scale[i] <= bounds[at];
                    *mask |= u32::from(!useless) << at;
                }
            }
            masks.iter().any(|mask| *mask != 0)
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{BLOCK, Block, Panel};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    pub fn passing(
        sums: &Block,
        panel: &Panel,
        slack: &[f32; BLOCK],
        bounds: &[f32; BLOCK],
        masks: &mut [u32; BLOCK],
    ) -> bool {
        let halves = |of: &[f32; BLOCK]| {
            // SAFETY: there are 32 values.
            [0, 16].map(|at| unsafe { _mm512_loadu_ps(of.as_ptr().add(at)) })
        };
        let (slack, bounds) = (halves(slack), halves(bounds));
        let mut any = 0;
        for (i, mask) in masks.iter_mut().enumerate() {
            let lifted = _mm512_set1_ps(panel.bias[i] + panel.bias_error[i]);
            let (reach, scale) = (
                _mm512_set1_ps(panel.reach[i]),
                _mm512_set1_ps(panel.scale[i]),
            );
            let sums = halves(&sums.0[i]);
            for half in 0..2 {
                let most = _mm512_add_ps(sums[half], lifted);
                let most = _mm512_fmadd_ps(slack[half], reach, most);
                let most = _mm512_mul_ps(most, scale);
                let passing = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(most, bounds[half]);
                *mask |= u32::from(passing) << (16 * half);
            }
            any |= *mask;
        }
        any != 0
    }
}

#[cfg(test)]
mod tests;

//! BatchTopK: one bound for all tokens, learnt from stretch to stretch.

use super::super::amx::BLOCK;
use super::super::codes::Codes;
use super::super::filter::{Filter, Panel};
use super::super::memory::{Parts, Scratch};
use super::super::out_of_memory;
use super::super::pool::Pool;
use super::super::rounded::Tokens;
use super::super::select::{Entry, List as Edges, key_of, kth_largest, try_push};
use super::super::shortlist::{Candidate, Exact};
use super::super::tile::MR;
use super::{List, STRETCH, Stretch, lists, tokens};
use crate::device::sae::{Encode, Select};
use crate::domain::Result;

/// Latents of the first stretch, of which every positive key is a candidate.
const FIRST: usize = 256;
/// Candidates of a stretch at most, before any bound.
const MOST: usize = 4 << 20;

/// The candidates of 32 tokens, in the order in which they came.
struct Open {
    /// The same for all tokens.
    bounds: [f32; BLOCK],
    /// With their tokens.
    candidates: Vec<(usize, Candidate)>,
    /// Memory ran out: some are missing.
    lost: bool,
}

impl List for Open {
    fn bounds(&self) -> &[f32; BLOCK] {
        &self.bounds
    }

    fn push(&mut self, at: usize, candidate: Candidate, _: &Exact<'_>, _: &[f32]) {
        self.lost |= !try_push(&mut self.candidates, (at, candidate));
    }
}

/// Fills `codes` with what `select` keeps: the `total` largest positive keys of all tokens.
pub fn topk(
    pool: &Pool,
    product: &Encode<'_, Vec<f32>>,
    select: &Select<'_, Vec<f32>, Vec<u32>>,
    total: usize,
    scale: Option<&[f32]>,
    codes: &mut Codes,
) -> Result<()> {
    let d_sae = product.d_sae;
    let tokens = tokens(pool, product)?;
    let mut lists = lists(tokens.blocks(), || {
        Ok(Open {
            bounds: [0.0; BLOCK],
            candidates: Vec::new(),
            lost: false,
        })
    })?;
    let exact = Exact {
        isa: pool.isa(),
        product,
        scale,
    };
    let most = (STRETCH / product.d_in).min(MOST / tokens.count.max(1));
    let mut first = 0;
    while first < d_sae {
        let width = most.min((2 * first).max(FIRST)).max(1);
        let width = width.next_multiple_of(BLOCK).min(d_sae - first);
        let stretch = Stretch::round(pool, product, scale, first, width)?;
        stretch.run(pool, &tokens, &exact, &mut lists)?;
        drop_hopeless(pool, &mut lists, total, scale)?;
        first += width;
    }
    let mut panels = Vec::new();
    panels
        .try_reserve_exact(tokens.count.div_ceil(MR))
        .map_err(|_| out_of_memory(tokens.count))?;
    panels.resize_with(tokens.count.div_ceil(MR), || Panel::List(Edges::default()));
    settle(pool, &tokens, &exact, &mut lists);
    for (block, list) in lists.into_iter().enumerate() {
        for (at, one) in list.candidates {
            let token = block * BLOCK + at;
            if let Panel::List(edges) = &mut panels[token / MR] {
                let entry = Entry {
                    latent: one.latent,
                    pre: one.pre,
                };
                edges.push(token % MR, entry);
            }
        }
    }
    let mut filter = Filter::new(select, d_sae, false);
    filter.between(pool, &mut panels)?;
    filter.finish(pool, panels, product, codes)
}

/// Makes all candidates exact, sorted by token; those whose key is not positive go.
fn settle(pool: &Pool, tokens: &Tokens<'_>, exact: &Exact<'_>, lists: &mut [Open]) {
    let count = lists.len();
    let lists = Parts::new(lists);
    pool.run(count, |block| {
        // SAFETY: each list belongs to one task.
        let list = unsafe { &mut lists.part(block, 1)[0] };
        // Stable: of a token by latent.
        list.candidates.sort_by_key(|(at, _)| *at);
        let mut settled: Vec<Candidate> = list.candidates.iter().map(|(_, one)| *one).collect();
        let mut rest = &mut settled[..];
        for token in list.candidates.chunk_by(|a, b| a.0 == b.0) {
            let part;
            (part, rest) = rest.split_at_mut(token.len());
            exact.settle(tokens.row(block * BLOCK + token[0].0), part, rest);
        }
        for ((_, one), settled) in list.candidates.iter_mut().zip(settled) {
            *one = settled;
        }
        let positive = |one: &Candidate| {
            one.pre * exact.scale.map_or(1.0, |scale| scale[one.latent as usize]) > 0.0
        };
        list.candidates.retain(|(_, one)| positive(one));
    });
}

/// Drops what can't be among the `total` best any more, and raises the bound.
fn drop_hopeless(
    pool: &Pool,
    lists: &mut [Open],
    total: usize,
    scale: Option<&[f32]>,
) -> Result<()> {
    let mut starts = Vec::with_capacity(lists.len());
    let mut count = 0;
    for list in &*lists {
        if list.lost {
            return Err(out_of_memory(size_of_val(&list.candidates[..])));
        }
        starts.push(count);
        count += list.candidates.len();
    }
    if count <= total {
        return Ok(());
    }
    let mut orders = Scratch::try_take(count)?;
    let orders: &mut [i32] = bytemuck::cast_slice_mut(&mut orders);
    {
        let (orders, lists) = (Parts::new(orders), &*lists);
        pool.run(lists.len(), |block| {
            let candidates = &lists[block].candidates;
            // SAFETY: the orders of each list belong to one task.
            let orders = unsafe { orders.part(starts[block], candidates.len()) };
            for (order, (_, one)) in orders.iter_mut().zip(candidates) {
                *order = one.orders(scale)[0];
            }
        });
    }
    let (least, _) = kth_largest(pool.isa(), orders, total);
    // An equal key of a lower token still wins. Keys that are not positive are of no use.
    let bound = key_of(least).next_down().max(0.0);
    let blocks = lists.len();
    let lists = Parts::new(lists);
    pool.run(blocks, |block| {
        // SAFETY: each list belongs to one task.
        let list = unsafe { &mut lists.part(block, 1)[0] };
        list.candidates
            .retain(|(_, one)| one.orders(scale)[1] >= least);
        list.bounds = [bound; BLOCK];
    });
    Ok(())
}

//! Selections at work on the tiles of an encoder product.

use super::codes::Codes;
use super::isa::Isa;
use super::memory::Parts;
use super::pool::Pool;
use super::scan;
use super::select::{Entry, List, TopRows, bits};
use super::tile::{MR, NR, Tile};
use super::{batch, out_of_memory};
use crate::device::sae::{Encode, Select};
use crate::domain::Result;

/// One selection.
pub struct Filter<'a> {
    select: &'a Select<'a, Vec<f32>, Vec<u32>>,
    /// A bit for each latent to choose from, 32 to a word; all where `None`.
    among: Option<Vec<u32>>,
    /// For BatchTopK: keys up to this are of no use.
    bound: f32,
}

/// What a selection has kept for the tokens of a row panel.
pub enum Panel {
    /// Of TopK.
    Top(TopRows),
    /// Of the others.
    List(List),
}

/// What a selection tests the latents of a tile with.
pub struct Test {
    /// Bits of the latents to choose from.
    among: u32,
    /// Factor of each latent, or for `Above` its bound.
    values: Option<[f32; NR]>,
}

/// `of` for each latent; 0 beyond their number.
pub fn gather(of: &[f32], latents: &[u32]) -> [f32; NR] {
    let mut values = [0.0; NR];
    for (value, latent) in values.iter_mut().zip(latents) {
        *value = of[*latent as usize];
    }
    values
}

impl<'a> Filter<'a> {
    /// A filter that has seen nothing. `only` says that it will see no latents but those it
    /// chooses from.
    pub fn new(select: &'a Select<'a, Vec<f32>, Vec<u32>>, d_sae: usize, only: bool) -> Self {
        let among = match select {
            Select::TopK {
                among: Some(among), ..
            } if !only => {
                let mut bits = vec![0; d_sae.div_ceil(32)];
                for latent in &among.latents[..among.count] {
                    bits[*latent as usize / 32] |= 1 << (latent % 32);
                }
                Some(bits)
            }
            _ => None,
        };
        Self {
            select,
            among,
            bound: 0.0,
        }
    }

    /// Whether the bound is learnt from stretch to stretch.
    pub fn learns(&self) -> bool {
        matches!(self.select, Select::BatchTopK { .. })
    }

    /// Empty panels.
    pub fn panels(&self, count: usize) -> Result<Vec<Panel>> {
        let mut panels = Vec::new();
        panels
            .try_reserve_exact(count)
            .map_err(|_| out_of_memory(count * size_of::<Panel>()))?;
        for _ in 0..count {
            panels.push(match self.select {
                Select::TopK { k, .. } => Panel::Top(TopRows::new(*k)?),
                _ => Panel::List(List::default()),
            });
        }
        Ok(panels)
    }

    /// The test of up to [`NR`] latents.
    pub fn test(&self, latents: &[u32]) -> Test {
        let chosen = |latent: u32| {
            let bit = |bits: &Vec<u32>| bits[latent as usize / 32] >> (latent % 32) & 1 != 0;
            self.among.as_ref().is_none_or(bit)
        };
        let bits = latents
            .iter()
            .enumerate()
            .map(|(i, &j)| u32::from(chosen(j)) << i);
        let values = match self.select {
            Select::TopK { scale, .. } | Select::BatchTopK { scale, .. } => {
                scale.map(|scale| gather(scale, latents))
            }
            Select::Above { lower } => Some(gather(lower, latents)),
        };
        Test {
            among: bits.fold(0, |mask, bit| mask | bit),
            values,
        }
    }

    /// Keeps what the first `rows` rows of `tile` have to offer.
    pub fn offer(
        &self,
        isa: Isa,
        tile: &Tile,
        rows: usize,
        latents: &[u32],
        test: &Test,
        panel: &mut Panel,
    ) {
        if test.among == 0 {
            return;
        }
        let edge = |row: usize| {
            move |i: usize| Entry {
                latent: latents[i],
                pre: tile.row(row)[i],
            }
        };
        match (panel, self.select) {
            (Panel::Top(top), _) => {
                let mut masks = scan::above_rows(isa, tile, test.values.as_ref(), top.bounds());
                top.open(&mut masks);
                for (row, mask) in masks.iter().enumerate().take(rows) {
                    if mask & test.among != 0 {
                        top.push(isa, self.scale(), row, mask & test.among, edge(row));
                    }
                }
            }
            (Panel::List(list), select) => {
                let masks = match (select, &test.values) {
                    (Select::Above { .. }, Some(lower)) => scan::above_columns(isa, tile, lower),
                    (_, scale) => scan::above_rows(isa, tile, scale.as_ref(), &[self.bound; MR]),
                };
                for (row, mask) in masks.iter().enumerate().take(rows) {
                    bits(mask & test.among).for_each(|i| list.push(row, edge(row)(i)));
                }
            }
        }
    }

    /// Factor of each latent's key.
    fn scale(&self) -> Option<&[f32]> {
        match self.select {
            Select::TopK { scale, .. } | Select::BatchTopK { scale, .. } => scale.map(|s| &s[..]),
            Select::Above { .. } => None,
        }
    }

    /// After a stretch: a batch-wide selection drops what can no longer win.
    pub fn between(&mut self, pool: &Pool, panels: &mut [Panel]) -> Result<()> {
        if let Select::BatchTopK { total, scale } = self.select
            && let Some(bound) = batch::prune(pool, panels, *total, scale.map(|s| &s[..]))?
        {
            self.bound = bound;
        }
        Ok(())
    }

    /// Writes what was kept to `codes`.
    pub fn finish(
        &self,
        pool: &Pool,
        mut panels: Vec<Panel>,
        product: &Encode<'_, Vec<f32>>,
        codes: &mut Codes,
    ) -> Result<()> {
        let tokens = product.x.count;
        let mut counts = Vec::with_capacity(panels.len() * MR);
        for panel in &panels {
            match panel {
                Panel::Top(top) => counts.extend((0..MR).map(|row| top.count(row))),
                Panel::List(list) => {
                    if list.lost {
                        return Err(out_of_memory(size_of_val(&list.edges[..])));
                    }
                    counts.extend(list.counts());
                }
            }
        }
        codes.reset(product.d_sae, counts[..tokens].iter().copied())?;
        let places = &codes.row_ptr;
        let latent = Parts::new(&mut codes.latent);
        let pre = Parts::new(&mut codes.pre);
        let panels_of = Parts::new(&mut panels);
        pool.run(tokens.div_ceil(MR), |task| {
            let rows = task * MR..tokens.min((task + 1) * MR);
            let start = places[rows.start] as usize;
            let len = places[rows.end] as usize - start;
            // SAFETY: each panel and its edges belong to one task.
            let (panel, latent, pre) = unsafe {
                (
                    &mut panels_of.part(task, 1)[0],
                    latent.part(start, len),
                    pre.part(start, len),
                )
            };
            match panel {
                Panel::Top(top) => {
                    for row in rows {
                        let at = places[row] as usize - start;
                        let kept = top.finish(pool.isa(), self.scale(), row - task * MR);
                        for (i, entry) in kept.iter().enumerate() {
                            (latent[at + i], pre[at + i]) = (entry.latent, entry.pre);
                        }
                    }
                }
                Panel::List(list) => {
                    for (at, edge) in list.by_row() {
                        (latent[at], pre[at]) = (edge.entry.latent, edge.entry.pre);
                    }
                    // The memory goes as the codes grow.
                    *list = List::default();
                }
            }
        });
        Ok(())
    }
}

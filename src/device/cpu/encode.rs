//! The encoder product, fused with the selection of its largest elements.
//!
//! Latents are taken in stretches that fit in L3. A stretch is packed once; then every task
//! runs its block of tokens against it, tile by tile, and offers what is above the bound of
//! its token to the selections while the tile is in L1. The [B, F] matrix never exists.

use super::Cpu;
use super::filter::{Filter, Panel, Test, gather};
use super::gemm::pack_panels;
use super::memory::{Parts, Scratch};
use super::pack::{self, View};
use super::pool::Pool;
use super::tile::{MR, NR, Tile};
use super::{scan, sieve};
use crate::device::sae::{Encode, Pick, Select};
use crate::domain::Result;

/// Floats of a packed stretch of latents: a part of L3.
const STRETCH: usize = 3 << 19;
/// Floats of a task's block of tokens: a part of L2.
const BLOCK: usize = 48 << 10;
/// BatchTopK knows nothing of its bound at first: its first stretch is this short, and the
/// next are at most twice as long as all before.
const FIRST: usize = 256;

/// Runs the product and fills the codes of every pick.
pub fn encode(
    pool: &Pool,
    product: &Encode<'_, Vec<f32>>,
    picks: &mut [Pick<'_, Cpu>],
) -> Result<()> {
    // Without a selection the product alone is asked for.
    if picks.is_empty() {
        return by_tiles(pool, product, &mut []);
    }
    let mut rest = Vec::with_capacity(picks.len());
    for pick in picks {
        if !sieve::encode(pool, product, pick)? {
            rest.push(pick);
        }
    }
    match rest.is_empty() {
        true => Ok(()),
        false => by_tiles(pool, product, &mut rest),
    }
}

/// … by a product in f32.
pub(super) fn by_tiles(
    pool: &Pool,
    product: &Encode<'_, Vec<f32>>,
    picks: &mut [&mut Pick<'_, Cpu>],
) -> Result<()> {
    let (tokens, d) = (product.x.count, product.d_in);
    // A single selection among some latents needs the product of those only.
    let only = match &picks[..] {
        [
            Pick {
                select: Select::TopK { among, .. },
                ..
            },
        ] => among.as_ref().map(|among| &among.latents[..among.count]),
        _ => None,
    };
    let mut filters = Vec::with_capacity(picks.len());
    let mut panels = Vec::with_capacity(picks.len());
    let mut codes = Vec::with_capacity(picks.len());
    for pick in picks {
        let filter = Filter::new(&pick.select, product.d_sae, only.is_some());
        panels.push(filter.panels(tokens.div_ceil(MR))?);
        filters.push(filter);
        codes.push(&mut *pick.codes);
    }
    let x = &product.x.buf[product.x.first * d..][..tokens * d];
    let center = product.center.map(|c| &c[..d]);
    let packed = pack_panels::<MR>(pool, View::rows(x, d), tokens, d, center);
    let latents = only.map_or(product.d_sae, <[u32]>::len);
    let mut first = 0;
    while first < latents {
        let len = length(&filters, first, latents, product);
        let stretch = Stretch::pack(pool, product, only, first, len, &filters)?;
        run(pool, product, &packed, &stretch, &filters, &mut panels);
        for (filter, panels) in filters.iter_mut().zip(&mut panels) {
            filter.between(pool, panels)?;
        }
        first += len;
    }
    drop(packed);
    for ((filter, panels), codes) in filters.iter().zip(panels).zip(codes) {
        filter.finish(pool, panels, product, codes)?;
    }
    Ok(())
}

/// Latents of the stretch that begins at `first`.
fn length(
    filters: &[Filter<'_>],
    first: usize,
    latents: usize,
    product: &Encode<'_, Vec<f32>>,
) -> usize {
    let mut most = STRETCH / product.d_in.max(1);
    if filters.iter().any(Filter::learns) {
        // What passes an early bound must fit in memory.
        let fits = (4 << 20) / product.x.count.max(1);
        most = most.min(fits).min((2 * first).max(FIRST));
    }
    (most / NR * NR).max(NR).min(latents - first)
}

/// Consecutive latents of the product, packed.
struct Stretch {
    /// Panels [len / NR][d][NR].
    packed: Scratch,
    columns: Vec<Column>,
}

/// The latents of a weight panel.
struct Column {
    latents: Vec<u32>,
    bias: [f32; NR],
    /// One for each filter.
    tests: Vec<Test>,
}

impl Stretch {
    /// Latents `first .. first + len` of `only`, or of all.
    fn pack(
        pool: &Pool,
        product: &Encode<'_, Vec<f32>>,
        only: Option<&[u32]>,
        first: usize,
        len: usize,
        filters: &[Filter<'_>],
    ) -> Result<Self> {
        let d = product.d_in;
        let latent = |at: usize| only.map_or(at as u32, |only| only[at]);
        let column = |start: usize| {
            let latents: Vec<u32> = (start..(first + len).min(start + NR)).map(latent).collect();
            Column {
                bias: gather(product.b_enc, &latents),
                tests: filters.iter().map(|f| f.test(&latents)).collect(),
                latents,
            }
        };
        let columns: Vec<Column> = (first..first + len).step_by(NR).map(column).collect();
        let mut packed = Scratch::try_take(columns.len() * NR * d)?;
        let parts = Parts::new(&mut packed);
        pool.run(columns.len(), |index| {
            // SAFETY: each panel belongs to one task.
            let panel = unsafe { parts.part(index * NR * d, NR * d) };
            let latents = &columns[index].latents;
            let row = |i: usize| &product.w_enc[latents[i] as usize * d..][..d];
            pack::panel_of::<NR>(row, latents.len(), None, panel);
        });
        Ok(Self { packed, columns })
    }
}

/// All tiles of a stretch.
fn run(
    pool: &Pool,
    product: &Encode<'_, Vec<f32>>,
    x: &[f32],
    stretch: &Stretch,
    filters: &[Filter<'_>],
    panels: &mut [Vec<Panel>],
) {
    let (tokens, d) = (product.x.count, product.d_in);
    let rows = tokens.div_ceil(MR);
    let block = (BLOCK / (MR * d.max(1))).max(1);
    let panels: Vec<Parts<'_, Panel>> = panels.iter_mut().map(|p| Parts::new(p)).collect();
    pool.run(rows.div_ceil(block), |task| {
        let mut tile = Tile::new();
        for (w, column) in stretch
            .packed
            .chunks_exact((NR * d).max(1))
            .zip(&stretch.columns)
        {
            for row in (task * block..rows).take(block) {
                tile.product(pool.isa(), &x[row * MR * d..][..MR * d], w);
                scan::add_bias(pool.isa(), &mut tile, &column.bias);
                let count = MR.min(tokens - row * MR);
                for ((filter, test), panels) in filters.iter().zip(&column.tests).zip(&panels) {
                    // SAFETY: each row panel belongs to one task.
                    let panel = unsafe { &mut panels.part(row, 1)[0] };
                    filter.offer(pool.isa(), &tile, count, &column.latents, test, panel);
                }
            }
        }
    });
}

//! Factors rounded to bf16, in the tiles of [`super::amx`], and how far the product of what was
//! rounded can be from that of what was not.
//!
//! With x = x̂ + x̃ and w = ŵ + w̃, where hats are rounded, x·w − x̂·ŵ = x̃·w + x̂·w̃, which is at most
//! ‖x̃‖·‖w‖ + ‖x̂‖·‖w̃‖ (Cauchy–Schwarz). Sums in f32 add a few units of 2⁻²⁴ a term. Both are made
//! one product, `slack` of the token times `reach` of the latent.

use super::amx::{BLOCK, GROUP, STEP, TILE};
use super::isa::Isa;
use super::memory::{Parts, Scratch};
use super::pool::Pool;
use super::simd::for_each_isa;
use crate::domain::Result;

/// Steps of k after which the next block is formed, so that the factors of 32 latents stay in L1.
pub const CHUNK: usize = 8;
/// About ‖w̃‖/‖w‖ of most rows: bf16 rounds a number by 2⁻⁸ of it at most. Others reach further.
const TYPICAL: f32 = 1.0 / 600.0;

/// Steps of rows of length `d`.
pub fn steps(d: usize) -> usize {
    d.div_ceil(STEP)
}

/// The steps of each chunk, as (first, length).
pub fn chunks(steps: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..steps)
        .step_by(CHUNK)
        .map(move |first| (first, CHUNK.min(steps - first)))
}

/// The length of a row, and that of what rounding took from it: both from above.
#[derive(Clone, Copy)]
struct Lengths {
    whole: f32,
    lost: f32,
}

impl Lengths {
    /// Rounds `row` to `to`, of which a step begins every `pitch` numbers. What is missing to a whole
    /// step is zero.
    fn of(isa: Isa, row: &[f32], to: &mut [u16], pitch: usize) -> Self {
        let mut squares = [0.0; 2];
        round(isa, row, to, pitch, &mut squares);
        // Their own rounding, and squares too small for an f32.
        let d = row.len() as f32;
        let [whole, lost] =
            squares.map(|squares| squares.sqrt() * (1.0 + d * f32::EPSILON) + d * 1e-18);
        Self { whole, lost }
    }
}

for_each_isa! {
    fn round<L>(row: &[f32], to: &mut [u16], pitch: usize, squares: &mut [f32; 2]) {
        let mut sums = [[0.0f32; STEP]; 2];
        let mut step = |x: &[f32; STEP], to: &mut [u16]| {
            let to: &mut [u16; STEP] = (&mut to[..STEP]).try_into().expect("a step");
            for i in 0..STEP {
                // To the nearest, ties to even. NaN may become anything: what is lost is then NaN.
                let bits = x[i].to_bits();
                let high = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
                to[i] = high as u16;
                let lost = x[i] - f32::from_bits(high << 16);
                sums[0][i] += x[i] * x[i];
                sums[1][i] += lost * lost;
            }
        };
        let (whole, rest) = row.as_chunks::<STEP>();
        for (x, to) in whole.iter().zip(to.chunks_mut(pitch)) {
            step(x, to);
        }
        if !rest.is_empty() {
            let mut last = [0.0; STEP];
            last[..rest.len()].copy_from_slice(rest);
            step(&last, &mut to[whole.len() * pitch..]);
        }
        *squares = sums.map(|sums| sums.iter().sum());
    }
}

/// Activations, less a center.
pub struct Tokens<'a> {
    pub count: usize,
    pub d: usize,
    plain: &'a [f32],
    centered: Option<Scratch>,
    /// For each chunk of k, the tiles of all groups.
    tiles: Scratch,
    /// For each token, what an error is at most, divided by the reach of the latent; whole blocks.
    slack: Vec<f32>,
}

impl<'a> Tokens<'a> {
    /// Rounds `x` [count, d].
    pub fn new(pool: &Pool, x: &'a [f32], d: usize, center: Option<&[f32]>) -> Result<Self> {
        let count = x.len() / d;
        let (blocks, steps) = (count.div_ceil(BLOCK), steps(d));
        let mut tiles = Scratch::try_take(blocks * 2 * steps * TILE / 2)?;
        let mut centered = match center {
            Some(_) => Some(Scratch::try_take(x.len())?),
            None => None,
        };
        let mut slack = vec![0.0; blocks * BLOCK];
        {
            let tiles = Parts::new(bytemuck::cast_slice_mut::<f32, u16>(&mut tiles));
            let own = Parts::new(centered.as_deref_mut().unwrap_or_default());
            let slack = Parts::new(&mut slack);
            pool.run(2 * blocks, |group| {
                let mut pairs = vec![0u32; steps * STEP / 2];
                let rounded: &mut [u16] = bytemuck::cast_slice_mut(&mut pairs);
                let tokens = group * GROUP..count.min((group + 1) * GROUP);
                // SAFETY: each group belongs to one task.
                let part = |(first, len)| unsafe {
                    tiles.part((2 * blocks * first + group * len) * TILE, len * TILE)
                };
                for (at, token) in tokens.enumerate() {
                    let mut row = &x[token * d..][..d];
                    if let Some(center) = center {
                        // SAFETY: as above.
                        let own = unsafe { own.part(token * d, d) };
                        for ((own, x), center) in own.iter_mut().zip(row).zip(center) {
                            *own = x - center;
                        }
                        row = own;
                    }
                    let lengths = Lengths::of(pool.isa(), row, rounded, STEP);
                    // SAFETY: as above.
                    unsafe { slack.part(token, 1)[0] = slack_of(lengths, d) };
                    for (first, len) in chunks(steps) {
                        // A pair is one number: no call to copy it.
                        let pairs: &[u32] = bytemuck::cast_slice(&rounded[first * STEP..]);
                        let to: &mut [u32] = bytemuck::cast_slice_mut(part((first, len)));
                        for (to, pair) in to.chunks_exact_mut(GROUP).zip(pairs) {
                            to[at] = *pair;
                        }
                    }
                }
            });
        }
        Ok(Self {
            count,
            d,
            plain: x,
            centered,
            tiles,
            slack,
        })
    }

    /// Blocks of tokens, the last one perhaps not full.
    pub fn blocks(&self) -> usize {
        self.slack.len() / BLOCK
    }

    /// A token's activation, less the center.
    pub fn row(&self, token: usize) -> &[f32] {
        let all = self.centered.as_deref().unwrap_or(self.plain);
        &all[token * self.d..][..self.d]
    }

    /// Both groups of a block, of a chunk of k.
    pub fn tiles(&self, block: usize, (first, len): (usize, usize)) -> [&[u16]; 2] {
        let tiles: &[u16] = bytemuck::cast_slice(&self.tiles);
        [0, 1].map(|half| {
            let group = 2 * block + half;
            &tiles[(2 * self.blocks() * first + group * len) * TILE..][..len * TILE]
        })
    }

    /// The slack of each token of a block.
    pub fn slack(&self, block: usize) -> &[f32; BLOCK] {
        self.slack[block * BLOCK..][..BLOCK]
            .try_into()
            .expect("a block")
    }
}

fn slack_of(x: Lengths, d: usize) -> f32 {
    // Three sums of d terms: tiles may round twice a term, and what they are compared with once.
    let sums = (3 * d + 32) as f32 * f32::EPSILON / 2.0;
    let error = x.lost + (TYPICAL + sums) * (x.whole + x.lost);
    // What these few operations round.
    error * (1.0 + 1e-3)
}

/// How far a latent's rows reach: what an error is at most, divided by the slack of the token.
fn reach_of(w: Lengths) -> f32 {
    // NaN and infinity stay: nothing is known then.
    let reach = match w.lost / TYPICAL <= w.whole {
        true => w.whole,
        false => w.lost / TYPICAL,
    };
    reach * (1.0 + 1e-3)
}

/// Rounds up to 32 rows of a weight matrix, as two groups, to `tiles`; returns their reach. Rows that
/// are missing stay as they are: they show in sums of their own alone.
pub fn latents<'a>(
    isa: Isa,
    rows: impl Iterator<Item = &'a [f32]>,
    tiles: &mut [u16],
) -> [f32; BLOCK] {
    let mut reach = [0.0; BLOCK];
    let group = tiles.len() / 2;
    for (at, row) in rows.enumerate() {
        let to = &mut tiles[at / GROUP * group..][..group];
        let lengths = Lengths::of(isa, row, &mut to[at % GROUP * STEP..], TILE);
        reach[at] = reach_of(lengths);
    }
    reach
}

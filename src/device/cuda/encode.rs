//! The encoder product, a stretch of latents at a time, and what the selections keep of it.
//!
//! A stretch of pre-activations is small enough to stay in the GPU's cache between the kernel
//! that writes it and those that read it; the whole [B, F] is never there.

use super::Cuda;
use super::above;
use super::batch;
use super::codes::Codes;
use super::compact::Compact;
use super::filter;
use super::halves::Half;
use super::later::Later;
use super::memory::Memory;
use super::product::TILE;
use super::stream;
use super::tensor::Rounded;
use super::topk::TopK;
use crate::device::sae::{Encode, Pick, SaeOps, Select};
use crate::domain::{Code, Result};

/// A stretch of pre-activations.
pub struct Stretch<'a> {
    /// [tokens, columns].
    pub p: &'a Memory<f32>,
    /// Length of a row.
    pub columns: usize,
    /// Latents in it.
    pub count: usize,
    /// The first of them, or its place among those that were asked for.
    pub first: usize,
    /// Numbers of latents, where not all were asked for.
    pub among: Option<&'a Memory<u32>>,
}

/// A selection under way.
enum Selection<'a> {
    Made(Codes),
    TopK(TopK<'a>),
    Compact(Compact<'a>),
}

pub type Product<'a> = Encode<'a, Memory<f32>>;

/// The latents that a selection is among, and how many they are.
fn among<'a>(pick: &Pick<'a, Cuda>) -> Option<(&'a Memory<u32>, usize)> {
    match &pick.select {
        Select::TopK {
            among: Some(among), ..
        } => Some((among.latents, among.count)),
        _ => None,
    }
}

/// What the factors are rounded to.
fn half(cuda: &Cuda, product: &Product<'_>) -> Option<Half> {
    Half::of(cuda.amp).filter(|_| product.rounded)
}

/// Latents of a stretch.
fn columns_of(cuda: &Cuda, product: &Product<'_>) -> usize {
    let grain = match half(cuda, product) {
        None => TILE,
        Some(_) => Rounded::grain(cuda.wgmma),
    };
    let fit = cuda.stretch / (4 * product.x.count.max(1)) / grain * grain;
    fit.clamp(grain, product.d_sae.next_multiple_of(grain))
}

/// Fills the codes of every pick. Where it guesses, which it must be allowed to, it says later how
/// wrong that was.
pub fn encode(
    cuda: &Cuda,
    product: &Product<'_>,
    picks: &mut [Pick<'_, Cuda>],
    guess: bool,
) -> Result<Option<Later>> {
    let operands = Operands::new(cuda, product)?;
    let mut selections = Vec::new();
    let alone = picks.iter().filter(|pick| among(pick).is_none()).count() == 1;
    let mut wrong = None;
    for pick in &mut *picks {
        let made = match alone {
            // It takes more memory than stretches do.
            true => match streamed(cuda, product, &operands, pick) {
                Err(error) if error.code == Code::OutOfMemory => None,
                made => made?,
            },
            false => None,
        };
        selections.push(match made {
            Some((codes, None)) => Selection::Made(codes),
            Some((codes, Some(overflow))) if guess => {
                // Of one pick at most.
                wrong = Some(overflow);
                Selection::Made(codes)
            }
            Some((codes, Some(overflow))) => match cuda.numbers(vec![overflow])?[0][0] {
                0.0 => Selection::Made(codes),
                _ => begin(cuda, product, pick)?,
            },
            None => begin(cuda, product, pick)?,
        });
    }
    let open = |selection: &Selection<'_>| !matches!(selection, Selection::Made(_));
    let columns = columns_of(cuda, product);
    let rows = if selections.iter().any(open) {
        product.x.count
    } else {
        0
    };
    let mut p = Memory::new(&cuda.gpu, rows * columns)?;
    let all = |(selection, pick): (&Selection<'_>, _)| open(selection) && among(pick).is_none();
    if selections.iter().zip(&*picks).any(all) {
        for first in (0..product.d_sae).step_by(columns) {
            let width = columns.min(product.d_sae - first);
            operands.multiply(cuda, product, None, first, width, &mut p, columns)?;
            let stretch = Stretch {
                p: &p,
                columns,
                count: width,
                first,
                among: None,
            };
            for (selection, pick) in selections.iter_mut().zip(&*picks) {
                match selection {
                    Selection::TopK(topk) if among(pick).is_none() => topk.see(cuda, &stretch)?,
                    Selection::Compact(compact) => compact.see(cuda, &stretch)?,
                    _ => {}
                }
            }
        }
    }
    for (selection, pick) in selections.iter_mut().zip(&*picks) {
        let (Selection::TopK(topk), Some((latents, number))) = (selection, among(pick)) else {
            continue;
        };
        for first in (0..number).step_by(columns) {
            let width = columns.min(number - first);
            operands.multiply(cuda, product, Some(latents), first, width, &mut p, columns)?;
            let stretch = Stretch {
                p: &p,
                columns,
                count: width,
                first,
                among: Some(latents),
            };
            topk.see(cuda, &stretch)?;
        }
    }
    for (selection, pick) in selections.into_iter().zip(picks) {
        *pick.codes = match selection {
            Selection::Made(codes) => codes,
            Selection::TopK(topk) => match among(pick) {
                Some((latents, n)) => topk.finish(cuda)?.chosen_among(cuda, latents, n)?,
                None => topk.finish(cuda)?,
            },
            Selection::Compact(compact) => compact.finish(),
        };
    }
    Ok(wrong)
}

/// The codes of a selection that can be made without pre-activations in memory, and, where that is
/// not known, later whether they are wrong. It is for one alone among all latents: several share
/// what is there.
fn streamed(
    cuda: &Cuda,
    product: &Product<'_>,
    operands: &Operands,
    pick: &Pick<'_, Cuda>,
) -> Result<Option<(Codes, Option<Later>)>> {
    let guessed = match (&pick.select, operands) {
        (Select::TopK { among: Some(_), .. }, _) => None,
        (&Select::TopK { k, scale, .. }, Operands::F32) => filter::topk(cuda, product, k, scale)?,
        (&Select::TopK { k, scale, .. }, Operands::Rounded(rounded)) => {
            stream::topk(cuda, product, rounded, k, scale)?
        }
        (&Select::BatchTopK { total, scale }, Operands::Rounded(rounded)) => {
            batch::topk(cuda, product, rounded, total, scale)?
        }
        (&Select::Above { lower }, Operands::Rounded(rounded)) => {
            let codes = above::above(cuda, product, rounded, lower)?;
            return Ok(codes.map(|codes| (codes, None)));
        }
        _ => None,
    };
    Ok(guessed.map(|(codes, overflow)| (codes, Some(overflow))))
}

fn begin<'a>(cuda: &Cuda, product: &Product<'_>, pick: &Pick<'a, Cuda>) -> Result<Selection<'a>> {
    let (tokens, d_sae) = (product.x.count, product.d_sae);
    Ok(match pick.select {
        Select::TopK { k, scale, .. } => Selection::TopK(TopK::new(cuda, tokens, d_sae, k, scale)?),
        Select::BatchTopK { total, scale } => {
            Selection::Compact(Compact::best(cuda, tokens, d_sae, total, scale)?)
        }
        Select::Above { lower } => Selection::Compact(Compact::above(cuda, tokens, d_sae, lower)?),
    })
}

/// The factors of the product, as they are multiplied.
enum Operands {
    F32,
    Rounded(Rounded),
}

impl Operands {
    fn new(cuda: &Cuda, product: &Product<'_>) -> Result<Self> {
        Ok(match half(cuda, product) {
            None => Self::F32,
            Some(half) => Self::Rounded(Rounded::kept(cuda, product, half)?),
        })
    }

    /// p [tokens, columns] = pre-activations of `width` latents from `first`, or from place
    /// `first` among those that are given.
    fn multiply(
        &self,
        cuda: &Cuda,
        product: &Product<'_>,
        among: Option<&Memory<u32>>,
        first: usize,
        width: usize,
        p: &mut Memory<f32>,
        columns: usize,
    ) -> Result<()> {
        let (x, d, d_sae) = (product.x, product.d_in, product.d_sae);
        // Rows that are named are found from the matrix' first row.
        let row = if among.is_some() { 0 } else { first };
        let pick = among.map(|latents| latents.input(first, width));
        match self {
            Self::F32 => cuda.product(
                x.buf.input(x.first * d, x.count * d),
                product.center.map(|center| center.input(0, d)),
                product.w_enc.input(row * d, (d_sae - row) * d),
                pick,
                Some(product.b_enc.input(row, d_sae - row)),
                p.output(x.count * columns),
                [x.count, width, d],
                columns,
            ),
            Self::Rounded(rounded) => {
                rounded.product(cuda, product, [row, width], pick, p, columns)
            }
        }
    }
}

impl Cuda {
    /// The encoder product of [`SaeOps::encode`], stretch
    /// after stretch, of which nothing is kept: what an encoder costs without its selection.
    ///
    /// # Errors
    /// `out-of-memory`; those of the GPU.
    pub fn encoder_product(&self, product: &Product<'_>) -> Result<()> {
        let columns = columns_of(self, product);
        let mut p = Memory::new(&self.gpu, product.x.count * columns)?;
        let operands = Operands::new(self, product)?;
        for first in (0..product.d_sae).step_by(columns) {
            let width = columns.min(product.d_sae - first);
            operands.multiply(self, product, None, first, width, &mut p, columns)?;
        }
        Ok(())
    }
}

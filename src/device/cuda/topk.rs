//! TopK over stretches of latents: every token keeps the list of its best.

use super::Cuda;
use super::codes::Codes;
use super::encode::Stretch;
use super::launch::{Shape, count};
use super::memory::Memory;
use crate::domain::{Code, Error, Result};

const THREADS: usize = 128;

/// TopK under way.
pub struct TopK<'a> {
    tokens: usize,
    d_sae: usize,
    k: usize,
    scale: Option<&'a Memory<f32>>,
    keys: Memory<u64>,
    pres: Memory<f32>,
    /// Latents that were looked at.
    seen: usize,
    /// Entries that a block sorts at a time.
    capacity: usize,
}

impl<'a> TopK<'a> {
    pub fn new(
        cuda: &Cuda,
        tokens: usize,
        d_sae: usize,
        k: usize,
        scale: Option<&'a Memory<f32>>,
    ) -> Result<Self> {
        let capacity = (k + THREADS).next_power_of_two();
        if shared(capacity) > cuda.target.shared {
            return Err(Error::new(
                Code::ConfigInvalid,
                "k",
                format_args!("{k} latents of a token are more than this GPU can sort"),
            )
            .hint("choose a smaller k, or k_aux"));
        }
        Ok(Self {
            tokens,
            d_sae,
            k,
            scale,
            keys: Memory::new(&cuda.gpu, tokens * k)?,
            pres: Memory::new(&cuda.gpu, tokens * k)?,
            seen: 0,
            capacity,
        })
    }

    fn shape(&self) -> Shape {
        Shape::blocks(self.tokens, 128).shared(shared(self.capacity))
    }

    pub fn see(&mut self, cuda: &Cuda, stretch: &Stretch<'_>) -> Result<()> {
        if self.k == 0 {
            return Ok(());
        }
        let end = stretch.first + stretch.count;
        let shape = self.shape();
        cuda.kernels.topk_merge(
            &cuda.gpu,
            shape,
            stretch.p.input(0, self.tokens * stretch.columns),
            stretch.among.map(|latents| latents.input(0, end)),
            self.scale.map(|scale| scale.input(0, self.d_sae)),
            self.keys.output(self.tokens * self.k),
            self.pres.output(self.tokens * self.k),
            count(stretch.columns),
            count(stretch.count),
            count(stretch.first),
            count(self.k),
            count(self.seen),
            count(self.capacity),
        )?;
        self.seen += stretch.count;
        Ok(())
    }

    /// The lists as edges.
    pub fn finish(self, cuda: &Cuda) -> Result<Codes> {
        let edges = self.tokens * self.k;
        if edges == 0 {
            return Codes::empty(cuda, self.tokens, self.d_sae);
        }
        debug_assert!(self.seen >= self.k);
        let mut codes = Codes::room(cuda, self.tokens, self.d_sae, edges)?;
        cuda.kernels.topk_emit(
            &cuda.gpu,
            self.shape(),
            self.keys.input(0, edges),
            self.pres.input(0, edges),
            codes.row_ptr.output(self.tokens + 1),
            codes.latent.output(edges),
            codes.pre.output(edges),
            count(self.k),
            count(self.capacity),
        )?;
        Ok(codes)
    }
}

/// Bytes for `capacity` keys and values, and a count for each warp.
fn shared(capacity: usize) -> usize {
    capacity * 12 + THREADS / 32 * 4
}

//! Sparse codes on the GPU, by token and by latent.

use super::Cuda;
use super::launch::{Shape, count};
use super::memory::Memory;
use crate::device::sae::HostCodes;
use crate::domain::Result;
use std::sync::{Arc, Mutex, PoisonError};

/// Edges by token.
pub struct Codes {
    pub(super) tokens: usize,
    pub(super) edges: usize,
    pub(super) d_sae: usize,
    /// [tokens + 1], or nothing where there are no tokens.
    pub(super) row_ptr: Memory<u32>,
    pub(super) latent: Memory<u32>,
    pub(super) pre: Memory<f32>,
    /// The latents of a selection among some, ascending.
    pub(super) among: Option<Arc<Memory<u32>>>,
    /// Made when it is first asked for.
    by_latent: Mutex<Option<Arc<ByLatent>>>,
}

/// The same edges by latent, those of a latent by token.
pub struct ByLatent {
    /// First place of each latent [d_sae + 1].
    pub starts: Memory<u32>,
    /// Latent of the edge at each place: they ascend.
    pub latent: Memory<u32>,
    /// Number of the edge at each place.
    pub order: Memory<u32>,
    /// Token of each edge.
    pub token: Memory<u32>,
}

/// Keys that a block of the radix sort looks at together.
const ROUND: usize = 256 * 16;
/// Its blocks, at most: each adds up the counts of all.
const BLOCKS: usize = 256;
/// Bits of a digit, at most.
const DIGIT: u32 = 8;

impl Codes {
    pub(super) fn none(cuda: &Cuda) -> Self {
        Self {
            tokens: 0,
            edges: 0,
            d_sae: 0,
            row_ptr: Memory::none(&cuda.gpu),
            latent: Memory::none(&cuda.gpu),
            pre: Memory::none(&cuda.gpu),
            among: None,
            by_latent: Mutex::new(None),
        }
    }

    /// Codes without edges.
    pub(super) fn empty(cuda: &Cuda, tokens: usize, d_sae: usize) -> Result<Self> {
        Ok(Self {
            tokens,
            d_sae,
            row_ptr: Memory::zeros(&cuda.gpu, tokens + 1)?,
            ..Self::none(cuda)
        })
    }

    /// Room for `edges`.
    pub(super) fn room(cuda: &Cuda, tokens: usize, d_sae: usize, edges: usize) -> Result<Self> {
        Ok(Self {
            tokens,
            edges,
            d_sae,
            row_ptr: Memory::new(&cuda.gpu, tokens + 1)?,
            latent: Memory::new(&cuda.gpu, edges)?,
            pre: Memory::new(&cuda.gpu, edges)?,
            ..Self::none(cuda)
        })
    }

    /// … that were chosen among the first `n` of `latents`.
    pub(super) fn chosen_among(
        mut self,
        cuda: &Cuda,
        latents: &Memory<u32>,
        n: usize,
    ) -> Result<Self> {
        let mut own = Memory::new(&cuda.gpu, n)?;
        own.copy(0, latents, 0, n)?;
        self.among = Some(Arc::new(own));
        Ok(self)
    }

    pub(super) fn download(&self) -> Result<HostCodes<f32>> {
        let row_ptr = match self.tokens {
            0 => vec![0],
            _ => self.row_ptr.to_host()?,
        };
        Ok(HostCodes {
            row_ptr,
            latent: self.latent.to_host()?,
            pre: self.pre.to_host()?,
        })
    }

    pub(super) fn slice(&self, cuda: &Cuda, first: usize, tokens: usize) -> Result<Self> {
        if tokens == 0 {
            return Self::empty(cuda, 0, self.d_sae);
        }
        // All of them, so that there is one wait.
        let mut ends = vec![0; tokens + 1];
        self.row_ptr.read(first, &mut ends)?;
        let [from, to] = [ends[0], ends[tokens]].map(|end| end as usize);
        let mut part = Self::room(cuda, tokens, self.d_sae, to - from)?;
        part.among.clone_from(&self.among);
        cuda.kernels.slice_rows(
            &cuda.gpu,
            Shape::threads(tokens + 1),
            self.row_ptr.input(0, first + tokens + 1),
            part.row_ptr.output(tokens + 1),
            count(first),
            count(tokens),
        )?;
        part.latent.copy(0, &self.latent, from, to - from)?;
        part.pre.copy(0, &self.pre, from, to - from)?;
        Ok(part)
    }

    /// The edges by latent, sorted once.
    pub(super) fn by_latent(&self, cuda: &Cuda) -> Result<Arc<ByLatent>> {
        let mut kept = self
            .by_latent
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(sorted) = &*kept {
            return Ok(sorted.clone());
        }
        let sorted = Arc::new(self.sort(cuda)?);
        *kept = Some(sorted.clone());
        Ok(sorted)
    }

    fn sort(&self, cuda: &Cuda) -> Result<ByLatent> {
        let (gpu, n) = (&cuda.gpu, self.edges);
        let mut token = Memory::new(gpu, n)?;
        if n > 0 {
            cuda.kernels.edge_tokens(
                gpu,
                Shape::warps(self.tokens),
                self.row_ptr.input(0, self.tokens + 1),
                token.output(n),
                count(self.tokens),
            )?;
        }
        let rounds = n.div_ceil(ROUND * BLOCKS).max(1);
        let blocks = n.div_ceil(ROUND * rounds);
        let shape = Shape::blocks(blocks, 256);
        // As few passes as can be, and all of them with the same number of digits.
        let bits = (usize::BITS - self.d_sae.saturating_sub(1).leading_zeros()).max(1);
        let digit = bits.div_ceil(bits.div_ceil(DIGIT));
        let digits = 1 << digit;
        let mut counts = Memory::new(gpu, digits * blocks)?;
        let mut sorted: Option<[Memory<u32>; 2]> = None;
        for shift in (0..bits).step_by(digit as usize) {
            let keys = match &sorted {
                None => self.latent.input(0, n),
                Some([latent, _]) => latent.input(0, n),
            };
            cuda.kernels.radix_count(
                gpu,
                shape.shared(256 * 4),
                keys,
                counts.output(digits * blocks),
                count(n),
                count(rounds),
                shift,
                count(digits),
            )?;
            let (mut latent, mut order) = (Memory::new(gpu, n)?, Memory::new(gpu, n)?);
            cuda.kernels.radix_scatter(
                gpu,
                shape.shared((32 + 8 * 256) * 4),
                keys,
                sorted.as_ref().map(|[_, order]| order.input(0, n)),
                counts.input(0, digits * blocks),
                latent.output(n),
                order.output(n),
                count(n),
                count(rounds),
                shift,
                count(digits),
            )?;
            sorted = Some([latent, order]);
        }
        let [latent, order] = sorted.expect("one pass at least");
        let mut starts = Memory::new(gpu, self.d_sae + 1)?;
        cuda.kernels.segment_starts(
            gpu,
            Shape::threads(self.d_sae + 1),
            latent.input(0, n),
            starts.output(self.d_sae + 1),
            count(n),
            count(self.d_sae),
        )?;
        Ok(ByLatent {
            starts,
            latent,
            order,
            token,
        })
    }
}

impl Cuda {
    /// out\[i\] = the sum of the first i of `n` numbers; n + 1 of them.
    pub(super) fn scan(&self, input: &Memory<u32>, n: usize, out: &mut Memory<u32>) -> Result<()> {
        self.kernels.scan(
            &self.gpu,
            Shape::blocks(1, 1024).shared(32 * 4),
            input.input(0, n),
            out.output(n + 1),
            count(n),
        )
    }
}

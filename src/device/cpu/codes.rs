//! Sparse codes of a batch, by token and by latent.

use std::sync::OnceLock;

use super::memory::Parts;
use super::pool::Pool;
use super::try_zeros;
use crate::domain::{Code, Error, Result};

/// Edges of a batch by token, then by latent (CSR), and on demand by latent, then by token.
#[derive(Default)]
pub struct Codes {
    /// Number of latents.
    pub d_sae: usize,
    /// Edges of token b are `row_ptr[b] .. row_ptr[b + 1]`.
    pub row_ptr: Vec<u32>,
    /// Latent of each edge.
    pub latent: Vec<u32>,
    /// p of each edge.
    pub pre: Vec<f32>,
    by_latent: OnceLock<ByLatent>,
}

/// The edges sorted by latent, then by token.
#[derive(Default)]
pub struct ByLatent {
    /// Edges of latent j are `ptr[j] .. ptr[j + 1]` of the two lists below.
    pub ptr: Vec<u32>,
    /// Number of the edge.
    pub edge: Vec<u32>,
    /// Its token.
    pub token: Vec<u32>,
}

impl Codes {
    /// Codes without tokens.
    pub fn new() -> Self {
        Self {
            row_ptr: vec![0],
            ..Self::default()
        }
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.row_ptr.len() - 1
    }

    /// Number of edges.
    pub fn edges(&self) -> usize {
        self.latent.len()
    }

    /// Edges of token `b`.
    pub fn row(&self, b: usize) -> std::ops::Range<usize> {
        self.row_ptr[b] as usize..self.row_ptr[b + 1] as usize
    }

    /// Makes room for tokens with `counts` edges; the edges themselves are then to be
    /// filled in.
    pub fn reset(&mut self, d_sae: usize, counts: impl Iterator<Item = usize>) -> Result<()> {
        self.d_sae = d_sae;
        self.by_latent = OnceLock::new();
        self.row_ptr.clear();
        self.row_ptr.push(0);
        self.latent.clear();
        self.pre.clear();
        let mut edges = 0;
        for count in counts {
            edges += count;
            // Past u32 the edges alone would take 32 GiB.
            self.row_ptr.push(u32::try_from(edges).unwrap_or(u32::MAX));
        }
        let taken = match u32::try_from(edges) {
            Ok(_) => {
                self.latent.try_reserve_exact(edges).is_ok()
                    && self.pre.try_reserve_exact(edges).is_ok()
            }
            Err(_) => false,
        };
        if !taken {
            self.row_ptr.truncate(1);
            return Err(Error::new(
                Code::OutOfMemory,
                "cpu",
                format_args!("codes with {edges} edges could not be allocated"),
            ));
        }
        self.latent.resize(edges, 0);
        self.pre.resize(edges, 0.0);
        Ok(())
    }

    /// The edges by latent; sorted at the first call after a change.
    pub fn by_latent(&self, pool: &Pool) -> Result<&ByLatent> {
        if let Some(sorted) = self.by_latent.get() {
            return Ok(sorted);
        }
        let sorted = ByLatent::sort(self, pool)?;
        Ok(self.by_latent.get_or_init(|| sorted))
    }
}

impl ByLatent {
    /// A counting sort: every thread counts and then places the edges of its tokens.
    fn sort(codes: &Codes, pool: &Pool) -> Result<Self> {
        let (edges, latents) = (codes.edges(), codes.d_sae);
        let parts = pool.threads().clamp(1, 1 + edges / (latents + 1));
        let tokens = codes.tokens().div_ceil(parts);
        let of_part = |part: usize| {
            (part * tokens).min(codes.tokens())..((part + 1) * tokens).min(codes.tokens())
        };
        let mut counts: Vec<u32> = try_zeros(parts * latents)?;
        {
            let counts = Parts::new(&mut counts);
            pool.run(parts, |part| {
                // SAFETY: each part has counts of its own.
                let counts = unsafe { counts.part(part * latents, latents) };
                let tokens = of_part(part);
                let edges =
                    codes.row_ptr[tokens.start] as usize..codes.row_ptr[tokens.end] as usize;
                for &latent in &codes.latent[edges] {
                    counts[latent as usize] += 1;
                }
            });
        }
        // From counts to first places, by latent, then by part.
        let mut ptr: Vec<u32> = try_zeros(latents + 1)?;
        let mut at = 0;
        for latent in 0..latents {
            ptr[latent] = at;
            for part in 0..parts {
                let count = &mut counts[part * latents + latent];
                at += std::mem::replace(count, at);
            }
        }
        ptr[latents] = at;
        let (mut edge, mut token) = (try_zeros(edges)?, try_zeros(edges)?);
        {
            let places = Parts::new(&mut counts);
            let (edge, token) = (Parts::new(&mut edge), Parts::new(&mut token));
            pool.run(parts, |part| {
                // SAFETY: each part has places of its own, and no two edges share one.
                let places = unsafe { places.part(part * latents, latents) };
                for b in of_part(part) {
                    for e in codes.row(b) {
                        let place = &mut places[codes.latent[e] as usize];
                        // SAFETY: as above.
                        unsafe {
                            edge.part(*place as usize, 1)[0] = e as u32;
                            token.part(*place as usize, 1)[0] = b as u32;
                        }
                        *place += 1;
                    }
                }
            });
        }
        Ok(Self { ptr, edge, token })
    }

    /// Places of the edges of latent `j`.
    pub fn of(&self, j: usize) -> std::ops::Range<usize> {
        self.ptr[j] as usize..self.ptr[j + 1] as usize
    }
}

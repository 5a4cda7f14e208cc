//! The latents that may be among the best of their token, as long as their keys are not known
//! exactly.

use super::amx::BLOCK;
use super::exact;
use super::isa::Isa;
use super::memory::Scratch;
use super::select::{keep_from, key_of, kth_largest, order};
use super::sieve::List;
use super::simd::LANES;
use crate::device::sae::Encode;
use crate::domain::Result;

/// A latent whose p is known but for an error.
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Candidate {
    /// Its number.
    pub latent: u32,
    /// About p.
    pub pre: f32,
    /// How far p may be from it; 0 where it is p.
    pub error: f32,
}

impl Candidate {
    /// The order of its least and of its greatest possible key.
    pub fn orders(&self, scale: Option<&[f32]>) -> [i32; 2] {
        let factor = scale.map_or(1.0, |scale| scale[self.latent as usize]);
        if self.error == 0.0 {
            return [order(self.pre * factor); 2];
        }
        let [least, most] = [-self.error, self.error].map(|error| (self.pre + error) * factor);
        match self.error < f32::INFINITY && !most.is_nan() {
            true => [order(least), order(most)],
            false => [i32::MIN, i32::MAX],
        }
    }
}

/// How exact products are formed.
pub struct Exact<'a> {
    /// With which instructions.
    pub isa: Isa,
    /// Of what.
    pub product: &'a Encode<'a, Vec<f32>>,
    /// Factor of each latent's key.
    pub scale: Option<&'a [f32]>,
}

impl Exact<'_> {
    /// Makes all of `candidates` exact, those of a token whose activation, less the center, is `x`. Those of
    /// `soon` are asked for next.
    pub fn settle(&self, x: &[f32], candidates: &mut [Candidate], soon: &[Candidate]) {
        let mut open = candidates.iter_mut().filter(|one| one.error != 0.0);
        let mut take = || std::array::from_fn(|_| open.next());
        let mut some: [Option<&mut Candidate>; LANES] = take();
        while let Some(first) = some[0].as_deref().copied() {
            let next = take();
            let latent = |one: &Option<&mut Candidate>| one.as_deref().unwrap_or(&first).latent;
            let rows = some.each_ref().map(|one| self.row(latent(one)));
            let next_rows = match next[0] {
                Some(_) => next.each_ref().map(|one| self.row(latent(one))),
                None => std::array::from_fn(|i| self.row(soon.get(i).unwrap_or(&first).latent)),
            };
            let sums = exact::dots(self.isa, x, &rows, &next_rows);
            for (one, sum) in some.iter_mut().flatten().zip(sums) {
                one.pre = sum + self.product.b_enc[one.latent as usize];
                one.error = 0.0;
            }
            some = next;
        }
    }

    fn row(&self, latent: u32) -> &[f32] {
        let d = self.product.d_in;
        &self.product.w_enc[latent as usize * d..][..d]
    }
}

/// The candidates of 32 tokens, each by latent.
pub struct Shortlist {
    k: usize,
    /// Room of a token.
    room: usize,
    /// Keys up to this are of no use; NaN while every key is.
    bounds: [f32; BLOCK],
    len: [usize; BLOCK],
    /// Candidates [BLOCK][room], then orders \[room\].
    memory: Scratch,
}

impl List for Shortlist {
    fn bounds(&self) -> &[f32; BLOCK] {
        &self.bounds
    }

    #[inline]
    fn push(&mut self, token: usize, candidate: Candidate, exact: &Exact<'_>, x: &[f32]) {
        let at = token * self.room + self.len[token];
        self.candidates()[at] = candidate;
        self.len[token] += 1;
        if self.len[token] == self.room {
            self.tighten(token, exact, x);
        }
    }
}

impl Shortlist {
    /// Nothing yet.
    pub fn new(k: usize) -> Result<Self> {
        let room = Self::room(k);
        Ok(Self {
            k,
            room,
            bounds: [f32::NAN; BLOCK],
            len: [0; BLOCK],
            memory: Scratch::try_take(Self::floats(k))?,
        })
    }

    /// As many again as are wanted, and some that are near the k-th.
    fn room(k: usize) -> usize {
        2 * k + 3 * BLOCK
    }

    /// Numbers of 32 bits that one takes.
    pub fn floats(k: usize) -> usize {
        (3 * BLOCK + 1) * Self::room(k)
    }

    fn candidates(&mut self) -> &mut [Candidate] {
        bytemuck::cast_slice_mut(&mut self.memory[..3 * BLOCK * self.room])
    }

    /// The candidates of a token, and scratch memory for as many orders.
    fn of(&mut self, token: usize) -> (&mut [Candidate], &mut [i32]) {
        let len = self.len[token];
        let (candidates, orders) = self.memory.split_at_mut(3 * BLOCK * self.room);
        let candidates: &mut [Candidate] = bytemuck::cast_slice_mut(candidates);
        (
            &mut candidates[token * self.room..][..len],
            &mut bytemuck::cast_slice_mut(orders)[..len],
        )
    }

    /// Drops what can't be among the k best any more. Where that is too little, candidates are made
    /// exact, so that k are left.
    #[cold]
    fn tighten(&mut self, token: usize, exact: &Exact<'_>, x: &[f32]) {
        self.drop_hopeless(token, exact);
        if self.len[token] > self.room - BLOCK {
            self.keep_best(token, exact, x, None);
        }
    }

    fn drop_hopeless(&mut self, token: usize, exact: &Exact<'_>) {
        let (k, scale) = (self.k, exact.scale);
        let (candidates, orders) = self.of(token);
        for (order, one) in orders.iter_mut().zip(&*candidates) {
            *order = one.orders(scale)[0];
        }
        let (least, _) = kth_largest(exact.isa, orders, k);
        let mut kept = 0;
        for from in 0..candidates.len() {
            let one = candidates[from];
            candidates[kept] = one;
            kept += usize::from(one.orders(scale)[1] >= least);
        }
        self.len[token] = kept;
        self.bounds[token] = key_of(least);
    }

    fn keep_best(&mut self, token: usize, exact: &Exact<'_>, x: &[f32], soon: Option<usize>) {
        let (k, scale) = (self.k, exact.scale);
        let mut first = [Candidate::default(); LANES];
        if let Some(token) = soon {
            let (candidates, _) = self.of(token);
            let count = candidates.len().min(LANES);
            first[..count].copy_from_slice(&candidates[..count]);
        }
        let (candidates, orders) = self.of(token);
        exact.settle(x, candidates, &first);
        for (order, one) in orders.iter_mut().zip(&*candidates) {
            *order = one.orders(scale)[0];
        }
        let (least, ties) = kth_largest(exact.isa, orders, k);
        keep_from(candidates, orders, least, ties);
        self.len[token] = k;
        self.bounds[token] = key_of(least);
    }

    /// Drops what can't be among the k best of the first `tokens` tokens.
    pub fn close(&mut self, tokens: usize, exact: &Exact<'_>) {
        for token in 0..tokens {
            self.drop_hopeless(token, exact);
        }
    }

    /// The k best of a token, by latent; that of token `soon` is asked for next.
    pub fn finish(
        &mut self,
        token: usize,
        exact: &Exact<'_>,
        x: &[f32],
        soon: Option<usize>,
    ) -> &[Candidate] {
        self.keep_best(token, exact, x, soon);
        self.of(token).0
    }
}

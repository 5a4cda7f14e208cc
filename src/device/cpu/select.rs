//! What a selection keeps while the tiles of an encoder product pass by.
//!
//! Latents pass in ascending order, so a later one with an equal key never displaces an
//! earlier one of its token: a strict comparison against the least key that is still of
//! use loses nothing. Every buffer stays sorted by latent.

use super::isa::Isa;
use super::memory::Scratch;
use super::scan::Masks;
use super::simd::for_each_isa;
use super::tile::{MR, NR};
use crate::domain::Result;
use std::cmp::Ordering;

/// Maps a key to an integer of the same order; −0 and 0 are equal, NaN is least.
#[inline(always)]
pub fn order(key: f32) -> i32 {
    let bits = (key + 0.0).to_bits() as i32;
    let order = bits ^ (((bits >> 31) as u32) >> 1) as i32;
    if key.is_nan() { i32::MIN } else { order }
}

/// A key that [`order`] maps to `order`.
pub fn key_of(order: i32) -> f32 {
    f32::from_bits((order ^ (((order >> 31) as u32) >> 1) as i32) as u32)
}

/// A candidate for an edge.
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Entry {
    /// Its latent.
    pub latent: u32,
    /// p.
    pub pre: f32,
}

impl Entry {
    /// The order of its key, p·scale.
    #[inline(always)]
    pub fn order(&self, scale: Option<&[f32]>) -> i32 {
        order(self.pre * scale.map_or(1.0, |scale| scale[self.latent as usize]))
    }
}

/// The `k` largest keys of each row of a row panel, so far.
pub struct TopRows {
    k: usize,
    /// Room for candidates in a row.
    room: usize,
    /// Keys up to this are of no use; NaN while every key is.
    bound: [f32; MR],
    /// Whether a bound is NaN.
    open: bool,
    len: [usize; MR],
    /// Entries [MR][room], then orders [room].
    memory: Scratch,
}

impl TopRows {
    /// Nothing yet.
    pub fn new(k: usize) -> Result<Self> {
        // Sorting out after every k candidates or so; some slack where k is small.
        let room = 2 * k + 2 * NR;
        Ok(Self {
            k,
            room,
            bound: [f32::NAN; MR],
            open: true,
            len: [0; MR],
            memory: Scratch::try_take((2 * MR + 1) * room)?,
        })
    }

    /// Keys up to the bound of their row are of no use.
    pub fn bounds(&self) -> &[f32; MR] {
        &self.bound
    }

    /// Sets the masks of rows whose bound is not known yet: everything is of use there.
    pub fn open(&self, masks: &mut Masks) {
        if self.open {
            for (mask, bound) in masks.iter_mut().zip(&self.bound) {
                *mask |= if bound.is_nan() { !0 } else { 0 };
            }
        }
    }

    /// Takes edges of `row`: those at the bits of `mask`.
    #[inline]
    pub fn push(
        &mut self,
        isa: Isa,
        scale: Option<&[f32]>,
        row: usize,
        mask: u32,
        edge: impl Fn(usize) -> Entry,
    ) {
        // A mask has up to 32 bits, and the last 32 places are kept free for them.
        let start = row * self.room;
        let entries = &mut self.memory[..2 * MR * self.room];
        let entries: &mut [Entry] = bytemuck::cast_slice_mut(entries);
        let mut at = start + self.len[row];
        for i in bits(mask) {
            entries[at] = edge(i);
            at += 1;
        }
        self.len[row] = at - start;
        if self.len[row] > self.room - NR {
            self.tighten(isa, scale, row);
        }
    }

    /// Drops all but the `k` best of `row` and raises its bound.
    #[cold]
    fn tighten(&mut self, isa: Isa, scale: Option<&[f32]>, row: usize) {
        if self.len[row] <= self.k {
            return;
        }
        let (entries, orders) = self.memory.split_at_mut(2 * MR * self.room);
        let entries: &mut [Entry] = bytemuck::cast_slice_mut(entries);
        let orders = &mut bytemuck::cast_slice_mut(orders)[..self.len[row]];
        let entries = &mut entries[row * self.room..][..self.len[row]];
        self.len[row] = self.k;
        self.bound[row] = match self.k {
            0 => f32::INFINITY,
            k => key_of(keep_largest(isa, entries, scale, k, orders)),
        };
        self.open = self.bound.iter().any(|bound| bound.is_nan());
    }

    /// Sorts out for the last time; returns what is kept of `row`, by latent.
    pub fn finish(&mut self, isa: Isa, scale: Option<&[f32]>, row: usize) -> &[Entry] {
        self.tighten(isa, scale, row);
        let entries: &[Entry] = bytemuck::cast_slice(&self.memory[..2 * MR * self.room]);
        &entries[row * self.room..][..self.len[row]]
    }

    /// Edges that `row` will have in the end.
    pub fn count(&self, row: usize) -> usize {
        self.len[row].min(self.k)
    }
}

/// The numbers of the bits of `mask`, ascending.
#[inline(always)]
pub fn bits(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = mask.trailing_zeros() as usize;
        let some = mask != 0;
        mask &= mask.wrapping_sub(1);
        some.then_some(bit)
    })
}

/// Moves the `k` entries with the largest keys to the front, in the order they have; of
/// equal ones the first. Returns the least order that was kept; `orders` is scratch memory.
fn keep_largest(
    isa: Isa,
    entries: &mut [Entry],
    scale: Option<&[f32]>,
    k: usize,
    orders: &mut [i32],
) -> i32 {
    set_orders(isa, entries, scale, orders);
    let (least, ties) = kth_largest(isa, orders, k);
    keep(isa, entries, orders, least, ties);
    least
}

for_each_isa! {
    /// The order of each entry.
    pub fn set_orders<L>(entries: &[Entry], scale: Option<&[f32]>, orders: &mut [i32]) {
        for (order, entry) in orders.iter_mut().zip(entries) {
            *order = entry.order(scale);
        }
    }
}

for_each_isa! {
    /// Moves the entries of an order above `least` to the front, and the first `ties` of
    /// those equal to it.
    fn keep<L>(entries: &mut [Entry], orders: &[i32], least: i32, ties: usize) {
        keep_from(entries, orders, least, ties);
    }
}

/// As `keep`, of anything that has an order.
#[inline(always)]
pub fn keep_from<T: Copy>(items: &mut [T], orders: &[i32], least: i32, ties: usize) {
    let (mut kept, mut ties) = (0, ties as u32);
    let orders = &orders[..items.len()];
    for (from, &order) in orders.iter().enumerate() {
        items[kept] = items[from];
        let tie = u32::from(order == least) & u32::from(ties > 0);
        ties -= tie;
        kept += (u32::from(order > least) | tie) as usize;
    }
}

for_each_isa! {
    /// The `k`-th largest of `orders`, and how many of the values equal to it belong to
    /// the `k` largest.
    pub fn kth_largest<L>(orders: &[i32], k: usize) -> (i32, usize) {
        debug_assert!(0 < k && k <= orders.len());
        let (mut low, mut high) = (i32::MAX, i32::MIN);
        for &order in orders {
            low = low.min(order);
            high = high.max(order);
        }
        // The largest value that at least k values reach.
        while low < high {
            let (from, to) = (i64::from(low), i64::from(high));
            let middle = (from + (to - from + 1) / 2) as i32;
            let reached = reaching(orders, middle);
            match reached.cmp(&k) {
                Ordering::Less => high = middle - 1,
                Ordering::Greater => low = middle,
                Ordering::Equal => {
                    low = least_from(orders, middle);
                    break;
                }
            }
        }
        let above = low.checked_add(1).map_or(0, |next| reaching(orders, next));
        (low, k - above)
    }
}

/// The least value that is at least `from`.
#[inline(always)]
fn least_from(orders: &[i32], from: i32) -> i32 {
    let (chunks, rest) = orders.as_chunks::<32>();
    let mut least = [i32::MAX; 32];
    for chunk in chunks {
        for (least, &order) in least.iter_mut().zip(chunk) {
            *least = (*least).min(if order < from { i32::MAX } else { order });
        }
    }
    let rest = rest.iter().filter(|&&order| order >= from);
    rest.chain(&least)
        .fold(i32::MAX, |least, &order| least.min(order))
}

/// How many values are at least `from`.
#[inline(always)]
fn reaching(orders: &[i32], from: i32) -> usize {
    orders
        .iter()
        .map(|&order| u32::from(order >= from))
        .sum::<u32>() as usize
}

/// Appends `item` where there is memory for it, and says whether there was.
#[inline]
pub fn try_push<T>(items: &mut Vec<T>, item: T) -> bool {
    if items.len() == items.capacity() {
        let more = (items.len() / 2).max(256);
        if items.try_reserve_exact(more).is_err() {
            return false;
        }
    }
    items.push(item);
    true
}

/// An edge whose token is a row of a row panel.
#[derive(Clone, Copy)]
pub struct ListEdge {
    /// Row of the panel.
    pub row: u32,
    /// Latent and p.
    pub entry: Entry,
}

/// Edges of a row panel, in the order in which they passed.
#[derive(Default)]
pub struct List {
    /// The edges; of each row, by latent.
    pub edges: Vec<ListEdge>,
    /// Memory ran out: edges are missing.
    pub lost: bool,
}

impl List {
    /// Takes an edge.
    #[inline]
    pub fn push(&mut self, row: usize, entry: Entry) {
        let row = row as u32;
        self.lost |= !try_push(&mut self.edges, ListEdge { row, entry });
    }

    /// Number of edges of each row.
    pub fn counts(&self) -> [usize; MR] {
        let mut counts = [0; MR];
        for edge in &self.edges {
            counts[edge.row as usize] += 1;
        }
        counts
    }

    /// The edges, each with its place when sorted by row, then by latent.
    pub fn by_row(&self) -> impl Iterator<Item = (usize, &ListEdge)> {
        let counts = self.counts();
        let mut next = [0; MR];
        for row in 1..MR {
            next[row] = next[row - 1] + counts[row - 1];
        }
        self.edges.iter().map(move |edge| {
            let place = &mut next[edge.row as usize];
            *place += 1;
            (*place - 1, edge)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_keeps_the_order_of_keys() {
        let keys = [
            f32::NAN,
            f32::NEG_INFINITY,
            -2.5,
            -f32::MIN_POSITIVE,
            0.0,
            f32::MIN_POSITIVE,
            1.0,
            f32::INFINITY,
        ];
        assert!(keys.windows(2).all(|w| order(w[0]) < order(w[1])));
        assert_eq!(order(-0.0), order(0.0));
        assert_eq!(order(-f32::NAN), order(f32::NAN));
        assert!(keys[1..].iter().all(|&k| key_of(order(k)) == k));
        assert!(key_of(order(f32::NAN)).is_nan());
    }

    #[test]
    fn the_kth_largest_agrees_with_a_sort() {
        let mut state = 7u32;
        for len in [1, 2, 17, 100] {
            for spread in [1, 3, 1 << 20, u32::MAX] {
                let orders: Vec<i32> = (0..len)
                    .map(|_| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        (state % spread) as i32
                    })
                    .chain([i32::MIN, i32::MAX])
                    .collect();
                let mut sorted = orders.clone();
                sorted.sort_unstable_by(|a, b| b.cmp(a));
                for k in 1..=orders.len() {
                    let above = sorted.iter().filter(|&&o| o > sorted[k - 1]).count();
                    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
                        assert_eq!(kth_largest(isa, &orders, k), (sorted[k - 1], k - above));
                    }
                }
            }
        }
    }
}

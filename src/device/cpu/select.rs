//! What a selection keeps while the tiles of an encoder product pass by.
//!
//! Latents pass in ascending order, so a later one with an equal key never displaces an
//! earlier one of its token: a strict comparison against the least key that is still of
//! use loses nothing. Every buffer stays sorted by latent.

use super::isa::Isa;
use super::tile::MR;
use super::try_zeros;
use crate::domain::Result;

/// Maps a key to an integer of the same order; −0 and 0 are equal, NaN is least.
#[inline(always)]
pub fn order(key: f32) -> i32 {
    if key.is_nan() {
        return i32::MIN;
    }
    let bits = (key + 0.0).to_bits() as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

/// A key that [`order`] maps to `order`; NaN for the least.
pub fn key_of(order: i32) -> f32 {
    f32::from_bits((order ^ (((order >> 31) as u32) >> 1) as i32) as u32)
}

/// A candidate for an edge.
#[derive(Clone, Copy, Default)]
pub struct Entry {
    /// Its latent.
    pub latent: u32,
    /// p.
    pub pre: f32,
}

/// The `k` largest keys of each row of a row panel, so far.
pub struct TopRows {
    k: usize,
    /// Room for candidates in a row.
    room: usize,
    /// Keys up to this are of no use; NaN while every key is.
    pub bound: [f32; MR],
    len: [usize; MR],
    // [MR][room]
    orders: Vec<i32>,
    entries: Vec<Entry>,
}

impl TopRows {
    /// Nothing yet.
    pub fn new(k: usize) -> Result<Self> {
        // Sorting out after every k candidates or so; some slack where k is small.
        let room = 2 * k + 32;
        Ok(Self {
            k,
            room,
            bound: [f32::NAN; MR],
            len: [0; MR],
            orders: try_zeros(MR * room)?,
            entries: try_zeros(MR * room)?,
        })
    }

    /// Takes an edge of `row` whose key is above the row's bound.
    #[inline]
    pub fn push(&mut self, isa: Isa, row: usize, order: i32, entry: Entry) {
        let at = row * self.room + self.len[row];
        self.orders[at] = order;
        self.entries[at] = entry;
        self.len[row] += 1;
        if self.len[row] == self.room {
            self.tighten(isa, row);
        }
    }

    /// Drops all but the `k` best of `row` and raises its bound.
    fn tighten(&mut self, isa: Isa, row: usize) {
        if self.len[row] <= self.k {
            return;
        }
        let edges = row * self.room..row * self.room + self.len[row];
        let orders = &mut self.orders[edges.clone()];
        let entries = &mut self.entries[edges];
        if self.k == 0 {
            self.len[row] = 0;
            self.bound[row] = f32::INFINITY;
            return;
        }
        let (least, mut ties) = kth_largest(isa, orders, self.k);
        let mut kept = 0;
        for from in 0..orders.len() {
            let order = orders[from];
            let tie = order == least && ties > 0;
            ties -= usize::from(tie);
            orders[kept] = order;
            entries[kept] = entries[from];
            kept += usize::from(order > least || tie);
        }
        self.len[row] = kept;
        self.bound[row] = key_of(least);
    }

    /// Sorts out for the last time; returns what is kept of `row`, by latent.
    pub fn finish(&mut self, isa: Isa, row: usize) -> &[Entry] {
        self.tighten(isa, row);
        &self.entries[row * self.room..][..self.len[row]]
    }

    /// Edges that `row` will have in the end.
    pub fn count(&self, row: usize) -> usize {
        self.len[row].min(self.k)
    }
}

/// The `k`-th largest of `orders`, and how many of the values equal to it belong to the
/// `k` largest.
pub fn kth_largest(isa: Isa, orders: &[i32], k: usize) -> (i32, usize) {
    debug_assert!(0 < k && k <= orders.len());
    let (mut low, mut high) = range(isa, orders);
    // The largest value that at least k values reach.
    while low < high {
        let (from, to) = (i64::from(low), i64::from(high));
        let middle = (from + (to - from + 1) / 2) as i32;
        let (reached, least) = reaching(isa, orders, middle);
        match reached.cmp(&k) {
            std::cmp::Ordering::Less => high = middle - 1,
            std::cmp::Ordering::Equal => {
                low = least;
                break;
            }
            std::cmp::Ordering::Greater => low = middle,
        }
    }
    // `low` is not the least i32 where a value above it exists, so neither is `low + 1`.
    let above = match low.checked_add(1) {
        Some(next) => reaching(isa, orders, next).0,
        None => 0,
    };
    (low, k - above)
}

super::simd::for_each_isa! {
    fn range<FMA>(orders: &[i32]) -> (i32, i32) {
        let (mut low, mut high) = (i32::MAX, i32::MIN);
        for &order in orders {
            low = low.min(order);
            high = high.max(order);
        }
        (low, high)
    }
}

super::simd::for_each_isa! {
    /// How many values are at least `from`, and the least of them.
    fn reaching<FMA>(orders: &[i32], from: i32) -> (usize, i32) {
        let (mut count, mut least) = (0u32, i32::MAX);
        for &order in orders {
            count += u32::from(order >= from);
            least = least.min(if order >= from { order } else { i32::MAX });
        }
        (count as usize, least)
    }
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
        if self.edges.len() == self.edges.capacity() {
            let more = (self.edges.len() / 2).max(256);
            if self.edges.try_reserve_exact(more).is_err() {
                self.lost = true;
                return;
            }
        }
        let row = row as u32;
        self.edges.push(ListEdge { row, entry });
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

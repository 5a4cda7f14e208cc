//! Sums that stay on the GPU until the host asks for several of them at once.

use super::Cuda;
use super::memory::Memory;
use super::pinned::Pinned;
use crate::domain::Result;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Numbers of a page.
const PAGE: usize = 64;

/// A place in a page that some operation fills.
pub struct Later {
    page: Arc<Page>,
    pub(super) at: usize,
    len: usize,
    /// What 32 bits mean, where it is no sum.
    read: Option<fn(u32) -> f64>,
}

/// Numbers on the GPU, which are given out once each.
type Page = Mutex<Memory<f64>>;

/// The page in use, for as long as somebody has a place in it, and how many of its numbers have
/// been given out.
#[derive(Default)]
pub struct Pages(Mutex<(Weak<Page>, usize)>);

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Later {
    /// The page that it is in.
    pub(super) fn memory(&self) -> MutexGuard<'_, Memory<f64>> {
        locked(&self.page)
    }
}

impl Cuda {
    /// Room for `len` numbers.
    pub(super) fn later(&self, len: usize) -> Result<Later> {
        let mut pages = locked(&self.pages.0);
        let (page, at) = match pages.0.upgrade() {
            Some(page) if pages.1 + len <= locked(&page).len() => (page, pages.1),
            _ => {
                let fresh = Memory::new(&self.gpu, len.max(PAGE))?;
                (Arc::new(Mutex::new(fresh)), 0)
            }
        };
        *pages = (Arc::downgrade(&page), at + len);
        Ok(Later {
            page,
            at,
            len,
            read: None,
        })
    }

    /// Room for one number of 32 bits, each byte of which is `byte` to begin with, and which `read`
    /// makes what is later told of it.
    pub(super) fn later_bits(&self, byte: u8, read: fn(u32) -> f64) -> Result<Later> {
        let later = Later {
            read: Some(read),
            ..self.later(1)?
        };
        later.memory().fill(later.at, 1, byte)?;
        Ok(later)
    }

    /// All of them, and the first counts, after one wait: each page is copied once.
    pub(super) fn read_later(
        &self,
        later: &[Later],
        counts: &Memory<u32>,
        to: &mut [u32],
    ) -> Result<Vec<Vec<f64>>> {
        let mut pages: Vec<(&Arc<Page>, usize)> = Vec::new();
        let mut bytes = 0;
        for Later { page, .. } in later {
            if !pages.iter().any(|(known, _)| Arc::ptr_eq(known, page)) {
                pages.push((page, bytes));
                bytes += 8 * locked(page).len();
            }
        }
        let mut landing = locked(&self.landing);
        let all = bytes + size_of_val(to);
        let landing = match &mut *landing {
            Some(landing) if landing.bytes() >= all => landing,
            other => other.insert(Pinned::new(&self.gpu, all)?),
        };
        for (page, at) in &pages {
            let page = locked(page);
            landing.receive(*at, &page, page.len())?;
        }
        landing.receive(bytes, counts, to.len())?;
        let read = landing.wait()?;
        let (numbers, counted) = read[..all].split_at(bytes);
        to.copy_from_slice(bytemuck::cast_slice(counted));
        let numbers: &[f64] = bytemuck::cast_slice(numbers);
        let of = |later: &Later| {
            let known = pages
                .iter()
                .find(|(page, _)| Arc::ptr_eq(page, &later.page));
            let first = known.map_or(0, |(_, at)| at / 8) + later.at;
            let each = numbers[first..first + later.len].iter();
            each.map(|v| later.read.map_or(*v, |read| read(v.to_bits() as u32)))
                .collect()
        };
        Ok(later.iter().map(of).collect())
    }
}

//! Sums that stay on the GPU until the host asks for several of them at once.

use super::Cuda;
use super::memory::Memory;
use crate::domain::Result;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Numbers of a page.
const PAGE: usize = 64;

/// A place in a page that some operation fills.
pub struct Later {
    page: Arc<Page>,
    pub(super) at: usize,
    len: usize,
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
        Ok(Later { page, at, len })
    }

    /// All of them: each page is read once.
    pub(super) fn read_later(&self, later: &[Later]) -> Result<Vec<Vec<f64>>> {
        let mut read: Vec<(&Arc<Page>, Vec<f64>)> = Vec::new();
        for Later { page, .. } in later {
            if !read.iter().any(|(known, _)| Arc::ptr_eq(known, page)) {
                let numbers = locked(page).to_host()?;
                read.push((page, numbers));
            }
        }
        let of = |Later { page, at, len }: &Later| {
            let known = read.iter().find(|(known, _)| Arc::ptr_eq(known, page));
            known.map_or_else(Vec::new, |(_, numbers)| numbers[*at..at + len].to_vec())
        };
        Ok(later.iter().map(of).collect())
    }
}

//! Aligned buffers, scratch memory that a thread keeps, and shared mutable slices.

use super::out_of_memory;
use crate::domain::Result;
use std::cell::RefCell;
use std::collections::TryReserveError;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Floats that begin at a cache line.
#[derive(Default)]
pub struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

impl Aligned {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let mut new = Self::default();
        new.set_len(len).expect("memory for weights");
        new
    }

    /// Grows or shrinks to `len`; what it then holds is unspecified.
    fn set_len(&mut self, len: usize) -> std::result::Result<(), TryReserveError> {
        let lines = len.div_ceil(16);
        if lines > self.lines.len() {
            if lines > self.lines.capacity() {
                // The old content is not worth copying.
                self.lines = Vec::new();
                self.lines.try_reserve_exact(lines)?;
                huge_pages(self.lines.as_mut_ptr(), lines);
            }
            self.lines.resize(lines, Line([0.0; 16]));
        }
        self.len = len;
        Ok(())
    }
}

impl Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

/// Asks for large pages for memory that was reserved and not yet touched: gathered rows
/// lie all over it.
pub fn huge_pages<T>(start: *mut T, len: usize) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let from = start.addr().next_multiple_of(PAGE);
        let bytes = (start.addr() + len * size_of::<T>()).saturating_sub(from) / PAGE * PAGE;
        if bytes >= 4 << 20 {
            let from = start.with_addr(from).cast();
            // SAFETY: the pages lie within the reservation, and the advice changes no
            // content. It may be refused, which only costs time.
            let _ = unsafe { rustix::mm::madvise(from, bytes, rustix::mm::Advice::LinuxHugepage) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, len);
}

thread_local! {
    static KEPT: RefCell<Vec<Aligned>> = const { RefCell::new(Vec::new()) };
}

/// Scratch memory with unspecified content; the thread keeps it for its next use.
pub struct Scratch(Aligned);

impl Scratch {
    /// `len` floats, aligned to a cache line.
    ///
    /// # Panics
    /// Where memory runs out; see [`Scratch::try_take`].
    pub fn take(len: usize) -> Self {
        Self::try_take(len).expect("memory for scratch")
    }

    /// As [`Scratch::take`].
    ///
    /// # Errors
    /// `out-of-memory`.
    pub fn try_take(len: usize) -> Result<Self> {
        let mut buffer = KEPT.with_borrow_mut(|kept| {
            // The smallest that is large enough, or else the largest, which grows.
            let rank = |b: &Aligned| match b.lines.len() * 16 {
                floats if floats >= len => (0, floats),
                floats => (1, usize::MAX - floats),
            };
            let best = (0..kept.len()).min_by_key(|&i| rank(&kept[i]));
            best.map_or_else(Aligned::default, |index| kept.swap_remove(index))
        });
        let taken = buffer.set_len(len);
        taken.map_err(|_| out_of_memory(len.saturating_mul(size_of::<f32>())))?;
        Ok(Self(buffer))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // The thread may be ending: then the memory just goes.
        let _ = KEPT.try_with(|kept| kept.borrow_mut().push(buffer));
    }
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

/// A mutable slice whose disjoint parts are handed to the tasks of one
/// [`super::pool::Pool::run`].
pub struct Parts<'a, T> {
    data: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it only hands out disjoint parts (the contract of `part`), so it is as shareable
// as `&mut [T]` is sendable.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// The parts of `data`.
    pub fn new(data: &'a mut [T]) -> Self {
        Self {
            data: data.as_mut_ptr(),
            len: data.len(),
            borrow: PhantomData,
        }
    }

    /// `data[start..start + len]`.
    ///
    /// # Safety
    /// No two parts that exist at the same time may overlap.
    ///
    /// # Panics
    /// Where the part reaches beyond the slice.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(
            start <= self.len && len <= self.len - start,
            "part {start}+{len} of a slice of {}",
            self.len
        );
        // SAFETY: within the slice by the assertion; disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }
}

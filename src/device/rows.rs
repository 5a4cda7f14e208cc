//! Rows of activations on their way from the language model to autoencoders.

use super::Device;
use super::sae::Rows;
use crate::domain::Result;

/// Which rows are copied: `pick[at .. at + count]`, by their numbers.
pub struct Picked<'a, I> {
    /// Numbers of rows.
    pub pick: &'a I,
    /// The first number that counts.
    pub at: usize,
    /// How many.
    pub count: usize,
}

impl<I> Clone for Picked<'_, I> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I> Copy for Picked<'_, I> {}

/// What shuffling needs of a device.
pub trait RowOps: Device {
    /// `to` [.., d] from row `first` on = the picked rows of `from` [.., d].
    fn gather_rows(
        &self,
        from: &Self::Buf,
        picked: Picked<'_, Self::Ints>,
        d: usize,
        to: &mut Self::Buf,
        first: usize,
    ) -> Result<()>;

    /// The first of `rows` [count, d] that holds a number that is not finite.
    fn first_not_finite(&self, rows: Rows<'_, Self::Buf>, d: usize) -> Result<Option<usize>>;
}

//! What training reads: batches of rows, and where it stands in them.

use super::Site;
use crate::device::Device;
use crate::domain::Result;
use serde::{Deserialize, Serialize};

/// Batches of activations of one or more sites, without end.
pub trait ActivationSource<D: Device<Real = f32>> {
    /// The sites, in the order of `out`.
    fn sites(&self) -> &[Site];

    /// Rows in a batch.
    fn batch_rows(&self) -> usize;

    /// Rows that one epoch has.
    fn rows_per_epoch(&self) -> u64;

    /// Fills `out[site]` with the next batch, `[batch_rows, d_in]`; row i of every site
    /// belongs to the same token.
    ///
    /// # Errors
    /// Of capture or of the cache. The source stands where it stood, so that the same batch
    /// can be asked for again.
    ///
    /// # Panics
    /// Where `out` has not one place of that length for each site.
    fn fill_batch(&mut self, out: &mut [D::Slot]) -> Result<BatchInfo>;

    /// The same for the host, into vectors of any length.
    ///
    /// # Errors
    /// As [`ActivationSource::fill_batch`].
    fn next_batch(&mut self, out: &mut [Vec<f32>]) -> Result<BatchInfo>;

    /// Whether batches come out of the host's memory.
    fn is_on_host(&self) -> bool;

    /// Whether the next one is there already: it can be had without work for a device.
    fn is_at_hand(&self) -> bool;

    /// Where the next batch begins: what a checkpoint keeps.
    fn cursor(&self) -> Cursor;

    /// Goes to where `cursor` was taken.
    ///
    /// # Errors
    /// `checkpoint-mismatch` where it belongs to another kind of source, or points outside
    /// of this one.
    fn seek(&mut self, cursor: &Cursor) -> Result<()>;
}

/// What a batch is within the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchInfo {
    /// Rows of the stream before it.
    pub first_row: u64,
    /// Rows in it.
    pub rows: usize,
    /// Epochs that are complete with it, counted in rows: the shuffling window in which an
    /// epoch ends may hold the first rows of the next one.
    pub epochs: u64,
    /// Epochs that end within it.
    pub ended: u64,
}

impl BatchInfo {
    pub(super) fn new(first_row: u64, rows: usize, per_epoch: u64) -> Self {
        let epochs = (first_row + rows as u64) / per_epoch;
        Self {
            first_row,
            rows,
            epochs,
            ended: epochs - first_row / per_epoch,
        }
    }
}

/// A place in the stream of tokens to train on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Complete epochs before it.
    pub epoch: u64,
    /// Contexts of the epoch's order before it.
    pub rank: u64,
    /// Tokens to train on of the context that are before it.
    pub offset: u64,
}

/// The whole state of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Cursor {
    /// Of live capture.
    Live {
        /// Where the current window begins.
        start: Place,
        /// Windows before it.
        window: u64,
        /// Batches of it that were given out.
        batch: u64,
    },
    /// Of a cache.
    Cache {
        /// Rows that were given out.
        row: u64,
    },
}

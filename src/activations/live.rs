//! Capture as training goes: windows of the token stream, shuffled.

use super::permutation::Permutation;
use super::source::{ActivationSource, BatchInfo, Cursor, Place};
use super::window::{Keep, Window};
use super::{Capture, Contexts, Site};
use crate::data::Context;
use crate::device::rows::RowOps;
use crate::device::sae::Rows;
use crate::domain::random::Stream;
use crate::domain::{Code, Error, Result};

/// How the stream is ordered and cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Decides the order of contexts in every epoch and of rows in every window.
    pub seed: u64,
    /// Rows in a batch.
    pub batch: usize,
    /// Batches in a window.
    pub window_batches: usize,
    /// Contexts that are captured at once.
    pub lm_batch: usize,
    /// Whose memory holds a window: without a meaning for the order.
    pub keep: Keep,
}

impl Order {
    /// Rows in a window. The order of rows depends on this number and not on `batch`.
    pub fn window_rows(&self) -> usize {
        self.batch * self.window_batches
    }
}

/// Activations of contexts, captured window by window.
pub struct Live<'a, D: RowOps, S, C> {
    contexts: S,
    capture: C,
    order: Order,
    /// Where the current window begins, and where it ends.
    start: Place,
    end: Place,
    window: u64,
    /// Batches of the window that were given out.
    given: u64,
    /// Whether `rows` holds the current window.
    captured: bool,
    /// In the order of the stream.
    rows: Window<'a, D>,
}

/// What belongs to a window of a context.
struct Part {
    context: Context,
    /// Tokens to train on of the context that are left out before it.
    skip: usize,
    /// Rows.
    count: usize,
    /// The first row's place in the window.
    row: usize,
}

impl Part {
    /// The positions of its rows.
    fn positions(&self) -> impl Iterator<Item = usize> {
        let valid = self.context.valid_positions();
        valid.skip(self.skip).take(self.count)
    }
}

impl<'a, D: RowOps<Real = f32>, S: Contexts, C: Capture<D>> Live<'a, D, S, C> {
    /// Activations that `capture` finds in `contexts`, from the start of the stream. Memory
    /// is taken here: see [`super::ActivationSettings::window_bytes`].
    ///
    /// # Errors
    /// `data-empty` without a token to train on, `hook-unknown` without a site,
    /// `out-of-memory`.
    ///
    /// # Panics
    /// Where a number of `order` is zero.
    pub fn new(device: &'a D, contexts: S, capture: C, order: Order) -> Result<Self> {
        assert!(order.window_rows() > 0 && order.lm_batch > 0);
        if contexts.tokens() == 0 {
            return Err(
                Error::new(Code::DataEmpty, "data", "no token is left to train on")
                    .hint("exclude fewer tokens or hold out fewer contexts"),
            );
        }
        if capture.sites().is_empty() {
            return Err(Error::new(
                Code::HookUnknown,
                "activations",
                "there is no hook point to capture",
            ));
        }
        let room = |keep| Window::new(device, keep, capture.sites(), order.window_rows());
        let rows = room(order.keep).or_else(|e| match (e.code, order.keep) {
            // An estimate may be wrong.
            (Code::OutOfMemory, Keep::Device) => room(Keep::Host),
            _ => Err(e),
        })?;
        Ok(Self {
            contexts,
            capture,
            order,
            start: Place::default(),
            end: Place::default(),
            window: 0,
            given: 0,
            captured: false,
            rows,
        })
    }

    /// Contexts that are captured at once: fewer than asked for after memory ran out.
    pub fn lm_batch(&self) -> usize {
        self.order.lm_batch
    }

    /// The stream's own source of randomness for `what`.
    fn stream(&self, what: &str, index: u64) -> Stream {
        Stream::new(self.order.seed, what).child(index)
    }

    /// What belongs to the window that begins at `self.start`, in the order of the stream, and
    /// where the next one begins.
    fn parts(&self) -> (Vec<Part>, Place) {
        let window = self.order.window_rows();
        let contexts = self.contexts.count();
        let mut place = self.start;
        let mut epoch = Permutation::new(contexts, self.stream("contexts", place.epoch));
        let (mut parts, mut row) = (Vec::new(), 0);
        while row < window {
            let context = self.contexts.get(epoch.at(place.rank));
            let (skip, valid) = (place.offset as usize, context.valid_count());
            let count = (valid - skip).min(window - row);
            place.offset += count as u64;
            if skip + count == valid {
                place.offset = 0;
                place.rank += 1;
            }
            if place.rank == contexts {
                place.rank = 0;
                place.epoch += 1;
                epoch = Permutation::new(contexts, self.stream("contexts", place.epoch));
            }
            if count > 0 {
                parts.push(Part {
                    context,
                    skip,
                    count,
                    row,
                });
                row += count;
            }
        }
        (parts, place)
    }

    /// Captures the window that begins at `self.start`, fewer contexts at a time whenever memory
    /// runs out.
    fn fill(&mut self) -> Result<()> {
        let (parts, end) = self.parts();
        let mut at = 0;
        while at < parts.len() {
            let some = &parts[at..parts.len().min(at + self.order.lm_batch)];
            match self.capture_some(some) {
                Ok(()) => at += some.len(),
                Err(e) if e.code == Code::OutOfMemory && self.order.lm_batch > 1 => {
                    self.order.lm_batch = some.len().div_ceil(2).min(self.order.lm_batch / 2);
                }
                Err(e) => return Err(e),
            }
        }
        // A device may still be computing what was captured.
        let window = self.order.window_rows() as u64;
        let order = Permutation::new(window, self.stream("rows", self.window));
        let leaving = (0..window).map(|row| order.at(row) as u32);
        self.rows.leave_in(leaving.collect())?;
        for (index, site) in self.capture.sites().iter().enumerate() {
            let bad = self.rows.first_not_finite(index)?;
            let part = bad.and_then(|row| parts.iter().rev().find(|part| part.row <= row));
            if let (Some(row), Some(part)) = (bad, part) {
                return Err(not_finite(site, part, row - part.row));
            }
        }
        self.end = end;
        self.captured = true;
        Ok(())
    }

    fn capture_some(&mut self, parts: &[Part]) -> Result<()> {
        let sites = self.capture.sites().to_vec();
        let mut seen = vec![false; sites.len()];
        let contexts: Vec<Context> = parts.iter().map(|part| part.context.clone()).collect();
        let (size, first) = (contexts[0].ids.len(), parts[0].row);
        let picks = parts.iter().enumerate().flat_map(|(i, part)| {
            let positions = part.positions();
            positions.map(move |position| (i * size + position) as u32)
        });
        self.rows.pick(picks.collect())?;
        let rows = &mut self.rows;
        self.capture
            .capture(&contexts, &mut |index, values: Rows<'_, D::Buf>| {
                if values.count != contexts.len() * size {
                    let message = format!(
                        "{} rows were captured for {} contexts of {size} tokens",
                        values.count,
                        contexts.len(),
                    );
                    return Err(Error::new(Code::Internal, &sites[index].hook, message));
                }
                seen[index] = true;
                rows.take(index, values, first)
            })?;
        match seen.iter().position(|seen| !seen) {
            None => Ok(()),
            Some(index) => Err(Error::new(
                Code::Internal,
                &sites[index].hook,
                "nothing was captured at this hook point",
            )),
        }
    }

    /// Has the window captured, and says where in its order the next batch begins.
    fn ready(&mut self) -> Result<usize> {
        if !self.captured {
            self.fill()?;
        }
        Ok(self.given as usize * self.order.batch)
    }

    /// Goes behind the next batch.
    fn advance(&mut self) -> BatchInfo {
        let (batch, window) = (self.order.batch, self.order.window_rows() as u64);
        let first_row = self.window * window + self.given * batch as u64;
        self.given += 1;
        if self.given == self.order.window_batches as u64 {
            self.start = self.end;
            self.window += 1;
            self.given = 0;
            self.captured = false;
        }
        BatchInfo::new(first_row, batch, self.contexts.tokens())
    }
}

/// The error for row `row` of `part`.
fn not_finite(site: &Site, part: &Part, row: usize) -> Error {
    let context = &part.context;
    let position = part.positions().nth(row).unwrap_or(0);
    Error::new(
        Code::NonFinite,
        &site.hook,
        format_args!(
            "the activation of token {} at position {position} of context {} is not finite",
            context.ids[position], context.index
        ),
    )
    .hint("check the model's weights and dtype; the text around may be out of its range")
}

impl<D, S, C> ActivationSource<D> for Live<'_, D, S, C>
where
    D: RowOps<Real = f32>,
    S: Contexts,
    C: Capture<D>,
{
    fn sites(&self) -> &[Site] {
        self.capture.sites()
    }

    fn batch_rows(&self) -> usize {
        self.order.batch
    }

    fn rows_per_epoch(&self) -> u64 {
        self.contexts.tokens()
    }

    fn is_on_host(&self) -> bool {
        self.rows.is_on_host()
    }

    fn is_at_hand(&self) -> bool {
        self.captured && self.rows.is_on_host()
    }

    fn fill_batch(&mut self, out: &mut [D::Slot]) -> Result<BatchInfo> {
        let first = self.ready()?;
        self.rows.give(first, self.order.batch, out)?;
        Ok(self.advance())
    }

    fn next_batch(&mut self, out: &mut [Vec<f32>]) -> Result<BatchInfo> {
        let first = self.ready()?;
        self.rows.read(first, self.order.batch, out)?;
        Ok(self.advance())
    }

    fn cursor(&self) -> Cursor {
        Cursor::Live {
            start: self.start,
            window: self.window,
            batch: self.given,
        }
    }

    fn seek(&mut self, cursor: &Cursor) -> Result<()> {
        let mismatch = |message: String| {
            Err(Error::new(Code::CheckpointMismatch, "activations", message)
                .hint("resume with the text and the settings of the run that saved it"))
        };
        let &Cursor::Live {
            start,
            window,
            batch,
        } = cursor
        else {
            return mismatch("the checkpoint was trained from a cache, not by live capture".into());
        };
        if batch >= self.order.window_batches as u64 || start.rank >= self.contexts.count() {
            return mismatch(format!(
                "the checkpoint stands at context {} and batch {batch} of a window; there are {} \
                 contexts and {} batches",
                start.rank,
                self.contexts.count(),
                self.order.window_batches
            ));
        }
        let order = Permutation::new(self.contexts.count(), self.stream("contexts", start.epoch));
        let valid = self.contexts.get(order.at(start.rank)).valid_count() as u64;
        if start.offset > 0 && start.offset >= valid {
            return mismatch(format!(
                "the checkpoint stands at token {} of a context that has {valid}",
                start.offset
            ));
        }
        self.captured &= (start, window) == (self.start, self.window);
        (self.start, self.window, self.given) = (start, window, batch);
        Ok(())
    }
}

//! Capture as training goes: windows of the token stream, shuffled.

use super::permutation::Permutation;
use super::source::{ActivationSource, BatchInfo, Cursor, Place};
use super::{Capture, Contexts, Site};
use crate::data::Context;
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
}

impl Order {
    /// Rows in a window. The order of rows depends on this number and not on `batch`.
    pub fn window_rows(&self) -> usize {
        self.batch * self.window_batches
    }
}

/// Activations of contexts, captured window by window.
pub struct Live<S, C> {
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
    /// `[window_rows, d_in]` of each site, in the order of the stream.
    pub(super) rows: Vec<Vec<f32>>,
}

/// Part of a context that belongs to a window.
struct Part {
    /// Tokens to train on of the context that are left out before it.
    skip: usize,
    /// Rows.
    count: usize,
    /// The first row's place in the window.
    row: usize,
}

impl<S: Contexts, C: Capture> Live<S, C> {
    /// Activations that `capture` finds in `contexts`, from the start of the stream. Memory
    /// is taken here: see [`super::ActivationSettings::capture_bytes`].
    ///
    /// # Errors
    /// `data-empty` without a token to train on, `hook-unknown` without a site,
    /// `out-of-memory`.
    ///
    /// # Panics
    /// Where a number of `order` is zero.
    pub fn new(contexts: S, capture: C, order: Order) -> Result<Self> {
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
        let rows = capture
            .sites()
            .iter()
            .map(|site| zeros(order.window_rows(), site))
            .collect::<Result<_>>()?;
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

    /// Captures the window that begins at `self.start`.
    fn fill(&mut self) -> Result<()> {
        let window = self.order.window_rows();
        let count = self.contexts.count();
        let mut place = self.start;
        let mut epoch = Permutation::new(count, self.stream("contexts", place.epoch));
        let (mut contexts, mut parts) = (Vec::new(), Vec::new());
        let mut row = 0;
        while row < window {
            let context = self.contexts.get(epoch.at(place.rank));
            let (skip, valid) = (place.offset as usize, context.valid_count());
            let take = (valid - skip).min(window - row);
            if take > 0 {
                contexts.push(context);
                parts.push(Part {
                    skip,
                    count: take,
                    row,
                });
                row += take;
            }
            place.offset += take as u64;
            if skip + take == valid {
                place.offset = 0;
                place.rank += 1;
            }
            if place.rank == count {
                place.rank = 0;
                place.epoch += 1;
                epoch = Permutation::new(count, self.stream("contexts", place.epoch));
            }
            if contexts.len() == self.order.lm_batch || row == window {
                self.capture_all(&contexts, &parts)?;
                contexts.clear();
                parts.clear();
            }
        }
        self.end = place;
        self.captured = true;
        Ok(())
    }

    /// Captures `contexts`, in halves as often as memory runs out.
    fn capture_all(&mut self, contexts: &[Context], parts: &[Part]) -> Result<()> {
        let mut at = 0;
        while at < contexts.len() {
            let end = contexts.len().min(at + self.order.lm_batch);
            match self.capture_some(&contexts[at..end], &parts[at..end]) {
                Ok(()) => at = end,
                Err(e) if e.code == Code::OutOfMemory && self.order.lm_batch > 1 => {
                    self.order.lm_batch = (end - at).div_ceil(2).min(self.order.lm_batch / 2);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn capture_some(&mut self, contexts: &[Context], parts: &[Part]) -> Result<()> {
        let sites = self.capture.sites().to_vec();
        let mut seen = vec![false; sites.len()];
        let rows = &mut self.rows;
        let size = contexts.first().map_or(0, |c| c.ids.len());
        self.capture.capture(contexts, &mut |index, values| {
            let site = &sites[index];
            if values.len() != contexts.len() * size * site.d_in {
                return Err(Error::new(
                    Code::Internal,
                    &site.hook,
                    format_args!(
                        "{} values were captured for {} contexts of {size} tokens and d_in {}",
                        values.len(),
                        contexts.len(),
                        site.d_in
                    ),
                ));
            }
            seen[index] = true;
            let of_contexts = values.chunks_exact(size * site.d_in);
            for ((context, part), values) in contexts.iter().zip(parts).zip(of_contexts) {
                let into = rows[index][part.row * site.d_in..].chunks_exact_mut(site.d_in);
                let positions = context.valid_positions().skip(part.skip).take(part.count);
                for (position, into) in positions.zip(into) {
                    let from = &values[position * site.d_in..][..site.d_in];
                    if !from.iter().all(|v| v.is_finite()) {
                        return Err(not_finite(site, context, position));
                    }
                    into.copy_from_slice(from);
                }
            }
            Ok(())
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
}

fn not_finite(site: &Site, context: &Context, position: usize) -> Error {
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

fn zeros(rows: usize, site: &Site) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    let len = rows.checked_mul(site.d_in);
    match len.map(|len| values.try_reserve_exact(len).map(|()| len)) {
        Some(Ok(len)) => {
            values.resize(len, 0.0);
            Ok(values)
        }
        _ => Err(Error::new(
            Code::OutOfMemory,
            &site.hook,
            format_args!(
                "no memory for a window of {rows} rows of {} values",
                site.d_in
            ),
        )
        .hint("lower activations.window_batches")),
    }
}

impl<S: Contexts, C: Capture> ActivationSource for Live<S, C> {
    fn sites(&self) -> &[Site] {
        self.capture.sites()
    }

    fn batch_rows(&self) -> usize {
        self.order.batch
    }

    fn rows_per_epoch(&self) -> u64 {
        self.contexts.tokens()
    }

    fn is_at_hand(&self) -> bool {
        self.captured
    }

    fn fill_batch(&mut self, out: &mut [&mut [f32]]) -> Result<BatchInfo> {
        assert_eq!(out.len(), self.rows.len());
        if !self.captured {
            self.fill()?;
        }
        let (batch, window) = (self.order.batch, self.order.window_rows() as u64);
        let order = Permutation::new(window, self.stream("rows", self.window));
        let first = self.given * batch as u64;
        for ((out, rows), site) in out.iter_mut().zip(&self.rows).zip(self.capture.sites()) {
            assert_eq!(out.len(), batch * site.d_in);
            for (row, out) in (first..).zip(out.chunks_exact_mut(site.d_in)) {
                let from = order.at(row) as usize * site.d_in;
                out.copy_from_slice(&rows[from..from + site.d_in]);
            }
        }
        let first_row = self.window * window + first;
        self.given += 1;
        if self.given == self.order.window_batches as u64 {
            self.start = self.end;
            self.window += 1;
            self.given = 0;
            self.captured = false;
        }
        Ok(BatchInfo::new(first_row, batch, self.contexts.tokens()))
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

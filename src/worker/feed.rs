//! Batches on their way from the source to the device.
//!
//! Batches out of the device's own memory are gathered there, when they are asked for. For those
//! that come from the host a device that copies by itself gets the next one while it computes on
//! this one: a thread gathers its rows into memory that the copy is made from; only what the
//! language model has yet to compute waits. Two batches are there at most, and the order of rows
//! is that of the source either way.

use crate::activations::{ActivationSource, Cursor};
use crate::device::{Device, Slot};
use crate::domain::Result;

/// A source that another thread may read.
pub type Source<'a, D> = dyn ActivationSource<D> + Send + 'a;

/// Batches of every captured hook point.
pub struct Feed<D: Device> {
    /// Those that are trained on, by turns: two where the device copies from the host by itself.
    turns: Vec<Vec<D::Slot>>,
    /// What became of the batch that was fetched ahead: where the source stands behind it.
    ahead: Option<Result<Cursor>>,
}

impl<D: Device<Real = f32>> Feed<D> {
    /// Room for the batches of `source`.
    ///
    /// # Errors
    /// `out-of-memory`.
    pub fn new(device: &D, source: &Source<'_, D>) -> Result<Self> {
        let rows = source.batch_rows();
        let turn = || {
            let sites = source.sites().iter();
            sites.map(|site| device.slot(rows * site.d_in)).collect()
        };
        let number = match source.is_on_host() && device.copies_alone() {
            true => 2,
            false => 1,
        };
        Ok(Self {
            turns: (0..number).map(|_| turn()).collect::<Result<_>>()?,
            ahead: None,
        })
    }

    /// Does `work` with the next batch of `source`, while the one after it is fetched. Returns
    /// where the source stands behind the batch, too.
    ///
    /// # Errors
    /// Those of the source, of the device and of `work`. What goes wrong with the batch after
    /// this one is told when that is asked for.
    pub fn with_next<T>(
        &mut self,
        source: &mut Source<'_, D>,
        work: impl FnOnce(&[&D::Buf]) -> Result<T>,
    ) -> Result<(T, Cursor)> {
        let Some((now, next)) = self.turns.split_first_mut() else {
            unreachable!("one turn at least");
        };
        let cursor = match self.ahead.take() {
            Some(fetched) => fetched?,
            None => fetch::<D>(source, now)?,
        };
        let batch: Vec<&D::Buf> = now
            .iter_mut()
            .map(|slot| slot.arrived())
            .collect::<Result<_>>()?;
        let done = match next.first_mut() {
            Some(next) if source.is_at_hand() => {
                let (done, fetched) = std::thread::scope(|scope| {
                    let fetching = scope.spawn(|| fetch::<D>(source, next));
                    (work(&batch), fetching.join())
                });
                let fetched = fetched.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                self.ahead = Some(fetched);
                done?
            }
            _ => work(&batch)?,
        };
        for slot in now {
            slot.release()?;
        }
        self.turns.rotate_left(1);
        Ok((done, cursor))
    }
}

/// Fetches the next batch of `source` into `slots`.
fn fetch<D: Device<Real = f32>>(
    source: &mut Source<'_, D>,
    slots: &mut [D::Slot],
) -> Result<Cursor> {
    source.fill_batch(slots)?;
    Ok(source.cursor())
}

//! The rows of a window, from capture to batches.

use super::Site;
use crate::device::rows::{Picked, RowOps};
use crate::device::sae::Rows;
use crate::device::{Device, Slot};
use crate::domain::{Code, Error, Result};

/// Whose memory holds a window. Rows and their order are the same either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The device's: a row never leaves it. Where that is the host's memory too, rows are copied
    /// once less.
    Device,
    /// The host's, for a window that the device has no room for.
    Host,
}

/// `[rows, d_in]` of each site, and the order in which they leave.
pub(super) struct Window<'a, D: RowOps> {
    device: &'a D,
    widths: Vec<usize>,
    kept: Kept<D>,
}

enum Kept<D: Device> {
    Device {
        rows: Vec<D::Buf>,
        order: D::Ints,
        /// Rows of a capture that belong to the window, and how many.
        picks: D::Ints,
        picked: usize,
    },
    Host {
        rows: Vec<Vec<f32>>,
        order: Vec<u32>,
        picks: Vec<u32>,
        /// One site's values on their way from the device.
        landing: Option<D::Host>,
    },
}

impl<'a, D: RowOps<Real = f32>> Window<'a, D> {
    /// Room for `rows` rows of each of `sites`.
    ///
    /// # Errors
    /// `out-of-memory`.
    pub fn new(device: &'a D, keep: Keep, sites: &[Site], rows: usize) -> Result<Self> {
        let no_memory = |site: &Site, why: String| {
            let message = format!(
                "no memory for a window of {rows} rows of {} values",
                site.d_in
            );
            Error::new(Code::OutOfMemory, &site.hook, message + &why)
                .hint("lower activations.window_batches")
        };
        // Rows go by numbers of 32 bits.
        let count = u32::try_from(rows).map_err(|_| no_memory(&sites[0], String::new()))?;
        let len = |site: &Site| rows.saturating_mul(site.d_in);
        let kept = match keep {
            Keep::Device => {
                let buf = |site: &Site| {
                    device.zeros(len(site)).map_err(|e| match e.code {
                        Code::OutOfMemory => no_memory(site, format!(": {}", e.message)),
                        _ => e,
                    })
                };
                Kept::Device {
                    rows: sites.iter().map(buf).collect::<Result<_>>()?,
                    order: device.zero_ints(count as usize)?,
                    picks: device.zero_ints(0)?,
                    picked: 0,
                }
            }
            Keep::Host => Kept::Host {
                rows: sites
                    .iter()
                    .map(|site| zeros(len(site)).ok_or_else(|| no_memory(site, String::new())))
                    .collect::<Result<_>>()?,
                order: Vec::new(),
                picks: Vec::new(),
                landing: None,
            },
        };
        Ok(Self {
            device,
            widths: sites.iter().map(|site| site.d_in).collect(),
            kept,
        })
    }

    /// Whether its rows leave it without work for the device.
    pub fn is_on_host(&self) -> bool {
        matches!(self.kept, Kept::Host { .. })
    }

    /// Row `new[i]` of the window leaves it as the i-th.
    ///
    /// # Errors
    /// Those of the device.
    pub fn leave_in(&mut self, new: Vec<u32>) -> Result<()> {
        match &mut self.kept {
            Kept::Device { order, .. } => self.device.write_ints(order, 0, &new),
            Kept::Host { order, .. } => {
                *order = new;
                Ok(())
            }
        }
    }

    /// Which rows of the next capture [`Window::take`] takes.
    ///
    /// # Errors
    /// `out-of-memory`.
    pub fn pick(&mut self, new: Vec<u32>) -> Result<()> {
        match &mut self.kept {
            Kept::Device { picks, picked, .. } => {
                *picks = self.device.zero_ints(new.len())?;
                self.device.write_ints(picks, 0, &new)?;
                *picked = new.len();
            }
            Kept::Host { picks, .. } => *picks = new,
        }
        Ok(())
    }

    /// Copies what was picked of `values` [.., d_in], which a site of number `index` gave, to the
    /// window's rows from `first` on.
    ///
    /// # Errors
    /// Those of the device.
    pub fn take(&mut self, index: usize, values: Rows<'_, D::Buf>, first: usize) -> Result<()> {
        let (device, d) = (self.device, self.widths[index]);
        match &mut self.kept {
            Kept::Device {
                rows,
                picks,
                picked,
                ..
            } => {
                let picked = Picked {
                    pick: &*picks,
                    at: 0,
                    count: *picked,
                };
                device.gather_rows(values.buf, picked, d, &mut rows[index], first)
            }
            Kept::Host {
                rows,
                picks,
                landing,
                ..
            } => {
                let len = values.count * d;
                if landing.as_ref().is_none_or(|landing| landing.len() < len) {
                    // The old one goes first: both at once may not fit.
                    *landing = None;
                }
                let landing = match landing {
                    Some(landing) => landing,
                    none => none.insert(device.host(len)?),
                };
                device.read(values.buf, 0, &mut landing[..len])?;
                copy_rows(landing, picks, d, &mut rows[index][first * d..]);
                Ok(())
            }
        }
    }

    /// The first row of a site that is not finite.
    ///
    /// # Errors
    /// Those of the device.
    pub fn first_not_finite(&self, index: usize) -> Result<Option<usize>> {
        let d = self.widths[index];
        match &self.kept {
            Kept::Device { rows, .. } => {
                let rows = Rows::of(&rows[index], self.device.len(&rows[index]) / d);
                self.device.first_not_finite(rows, d)
            }
            Kept::Host { rows, .. } => {
                let mut rows = rows[index].chunks_exact(d);
                Ok(rows.position(|row| row.iter().any(|v| !v.is_finite())))
            }
        }
    }

    /// Sends rows `first .. first + count` of the order that they leave in.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// Where `out` has not one place for each site.
    pub fn give(&self, first: usize, count: usize, out: &mut [D::Slot]) -> Result<()> {
        assert_eq!(out.len(), self.widths.len());
        match &self.kept {
            Kept::Device { rows, order, .. } => {
                for ((rows, &d), out) in rows.iter().zip(&self.widths).zip(out) {
                    let picked = Picked {
                        pick: order,
                        at: first,
                        count,
                    };
                    self.device.gather_rows(rows, picked, d, out.here(), 0)?;
                }
            }
            Kept::Host { rows, order, .. } => {
                for ((rows, &d), out) in rows.iter().zip(&self.widths).zip(out) {
                    copy_rows(rows, &order[first..first + count], d, out.host()?);
                    out.send()?;
                }
            }
        }
        Ok(())
    }

    /// The same rows for the host, into vectors of any length.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// Where `out` has not one vector for each site.
    pub fn read(&self, first: usize, count: usize, out: &mut [Vec<f32>]) -> Result<()> {
        assert_eq!(out.len(), self.widths.len());
        for (index, (&d, out)) in self.widths.iter().zip(out).enumerate() {
            out.resize(count * d, 0.0);
            match &self.kept {
                Kept::Device { rows, order, .. } => {
                    let picked = Picked {
                        pick: order,
                        at: first,
                        count,
                    };
                    let mut batch = self.device.zeros(count * d)?;
                    let (device, rows) = (self.device, &rows[index]);
                    device.gather_rows(rows, picked, d, &mut batch, 0)?;
                    device.read(&batch, 0, out)?;
                }
                Kept::Host { rows, order, .. } => {
                    copy_rows(&rows[index], &order[first..first + count], d, out);
                }
            }
        }
        Ok(())
    }
}

/// `to` = the picked rows of `from`.
fn copy_rows(from: &[f32], pick: &[u32], d: usize, to: &mut [f32]) {
    for (&row, to) in pick.iter().zip(to.chunks_exact_mut(d)) {
        to.copy_from_slice(&from[row as usize * d..][..d]);
    }
}

fn zeros(len: usize) -> Option<Vec<f32>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).ok()?;
    values.resize(len, 0.0);
    Some(values)
}

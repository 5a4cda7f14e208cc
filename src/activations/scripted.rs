//! A stand-in for a language model.

use super::{Capture, Site, Take};
use crate::data::Context;
use crate::device::Device;
use crate::device::sae::Rows;
use crate::domain::Result;
use crate::domain::random::Stream;

/// Activations that are a function of seed, site, token and position alone: a direction for
/// each token, and a tenth as much for where it stands. For training without a model, and for
/// tests of whatever reads activations.
#[derive(Clone, Debug)]
pub struct Scripted {
    sites: Vec<Site>,
    seed: u64,
}

impl Scripted {
    /// Activations of `sites`.
    pub fn new(seed: u64, sites: Vec<Site>) -> Self {
        Self { sites, seed }
    }
}

impl<D: Device<Buf = Vec<f32>>> Capture<D> for Scripted {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn capture(&mut self, contexts: &[Context], take: &mut Take<'_, D>) -> Result<()> {
        for (index, site) in self.sites.iter().enumerate() {
            let stream = Stream::new(self.seed, &site.hook);
            let value = |stream: Stream, dim| stream.uniform(dim) * 2.0 - 1.0;
            let mut values = Vec::new();
            for context in contexts {
                for (position, &id) in context.ids.iter().enumerate() {
                    let token = stream.child(u64::from(id));
                    let place = token.child(position as u64);
                    values.extend(
                        (0..site.d_in as u64)
                            .map(|dim| (value(token, dim) + 0.1 * value(place, dim)) as f32),
                    );
                }
            }
            take(index, Rows::of(&values, values.len() / site.d_in))?;
        }
        Ok(())
    }
}

//! Which latents have not fired for long.

use crate::device::sae::SaeOps;
use crate::domain::Result;

/// Tokens since each latent last fired, counted on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLatents {
    since_fired: Vec<u32>,
    after: u32,
}

impl DeadLatents {
    /// `d_sae` latents that have just fired; they are dead after `after` tokens.
    pub fn new(d_sae: usize, after: u64) -> Self {
        Self {
            since_fired: vec![0; d_sae],
            // A counter stops at u32::MAX: a window beyond it would never end.
            after: u32::try_from(after).unwrap_or(u32::MAX),
        }
    }

    /// Takes in a batch of `tokens`, given how often each latent fired in it.
    pub fn advance(&mut self, fired: &[u32], tokens: usize) {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        for (since, &fired) in self.since_fired.iter_mut().zip(fired) {
            *since = if fired > 0 {
                0
            } else {
                since.saturating_add(tokens)
            };
        }
    }

    /// Numbers of the dead latents, ascending.
    pub fn list(&self) -> Vec<u32> {
        let dead = |&(_, &since): &(usize, &u32)| since >= self.after;
        let counters = self.since_fired.iter().enumerate();
        counters.filter(dead).map(|(j, _)| j as u32).collect()
    }

    /// Makes latent `j` one that has just fired.
    pub fn revive(&mut self, j: u32) {
        self.since_fired[j as usize] = 0;
    }

    /// The counters, for checkpoints.
    pub fn counters(&self) -> &[u32] {
        &self.since_fired
    }

    /// Takes the counters of a checkpoint.
    pub fn set_counters(&mut self, counters: &[u32]) {
        self.since_fired.copy_from_slice(counters);
    }
}

/// Dead latents as the device knows them.
pub struct Told<D: SaeOps> {
    /// Their numbers, ascending.
    pub list: D::Ints,
    /// 1 for dead ones \[d_sae\].
    pub flags: D::Ints,
    /// What was told last.
    last: Option<Vec<u32>>,
}

impl<D: SaeOps> Told<D> {
    /// Nothing was told about `d_sae` latents.
    ///
    /// # Errors
    /// `out-of-memory`.
    pub fn new(device: &D, d_sae: usize) -> Result<Self> {
        Ok(Self {
            list: device.zero_ints(d_sae)?,
            flags: device.zero_ints(d_sae)?,
            last: None,
        })
    }

    /// Tells that of `d_sae` latents those in `list` are dead, where others were told last.
    ///
    /// # Errors
    /// Those of writing to the device.
    pub fn tell(&mut self, device: &D, d_sae: usize, list: &[u32]) -> Result<()> {
        if self.last.as_deref() == Some(list) {
            return Ok(());
        }
        let mut flags = vec![0; d_sae];
        for &j in list {
            flags[j as usize] = 1;
        }
        self.last = None;
        device.write_ints(&mut self.flags, 0, &flags)?;
        device.write_ints(&mut self.list, 0, list)?;
        self.last = Some(list.to_vec());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latent_is_dead_after_the_window_and_lives_again_when_it_fires() {
        let mut dead = DeadLatents::new(3, 10);
        dead.advance(&[0, 1, 0], 6);
        assert!(dead.list().is_empty());
        dead.advance(&[0, 0, 2], 6);
        assert_eq!(dead.list(), [0]);
        dead.advance(&[0, 0, 0], 6);
        assert_eq!(dead.list(), [0, 1]);
        dead.revive(0);
        dead.advance(&[0, 1, 0], 4);
        assert_eq!(dead.list(), [2]);
    }

    #[test]
    fn counters_saturate() {
        let mut dead = DeadLatents::new(1, u64::MAX);
        dead.advance(&[0], usize::MAX);
        dead.advance(&[0], usize::MAX);
        assert_eq!(dead.list(), [0]);
    }
}

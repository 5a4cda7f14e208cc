//! What a driver tells besides numbers: memory errors and reasons for slow clocks.
//!
//! Both are told as events, when they change; a status does not repeat them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Why a GPU runs slower than it could. Idleness and clocks that somebody chose are no
/// reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Throttle {
    /// At its power limit.
    PowerCap,
    /// Another GPU of its group is slow.
    SyncBoost,
    /// Too hot, by the driver's rule.
    SoftwareThermal,
    /// Too hot, by the hardware's rule: half the clock or less.
    HardwareThermal,
    /// The power supply pulled the brake.
    PowerBrake,
    /// The hardware slows down for another reason.
    HardwareSlowdown,
}

/// One look at a GPU's health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Memory errors that were corrected, since the driver was loaded.
    pub ecc_corrected: Option<u64>,
    /// Memory errors that were not, since the driver was loaded.
    pub ecc_uncorrected: Option<u64>,
    /// Why it is slow, as far as is known.
    pub throttle: Option<BTreeSet<Throttle>>,
}

/// New errors between two looks. A counter that fell was reset: all of it is new. A first
/// look at a counter finds nothing new.
pub(super) fn new_errors(before: Option<u64>, now: Option<u64>) -> u64 {
    match (before, now) {
        (Some(before), Some(now)) => now.checked_sub(before).unwrap_or(now),
        _ => 0,
    }
}

impl Health {
    /// What is known after `newer`: what it could not read stays as it was.
    pub(super) fn updated(&self, newer: &Health) -> Health {
        Health {
            ecc_corrected: newer.ecc_corrected.or(self.ecc_corrected),
            ecc_uncorrected: newer.ecc_uncorrected.or(self.ecc_uncorrected),
            throttle: newer.throttle.clone().or_else(|| self.throttle.clone()),
        }
    }
}

//! When a child is restarted, how soon, and how often before it is given up.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// Which ends lead to a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Every end: the child must always be there.
    Permanent,
    /// Failures only: a stop is its normal end.
    Transient,
    /// None.
    Never,
}

/// Whom a failing child takes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Nobody.
    OneForOne,
    /// All its siblings.
    OneForAll,
    /// The siblings that were started after it, since they were built on it.
    RestForOne,
}

/// What happens when a child's intensity is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spent {
    /// The child stays down until it is released; siblings that do not depend on it go on.
    Quarantine,
    /// The supervisor stops all its children and fails itself, so that its own supervisor
    /// decides.
    Escalate,
}

/// At most `restarts` within `period`; one failure more spends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intensity {
    /// How many restarts are allowed.
    pub restarts: u32,
    /// Within which time. A child that ran for this long without failing starts afresh:
    /// its back-off and its first cause are forgotten.
    pub period: Duration,
}

/// How long to wait before a restart: nothing the first time, then `first`, doubled each
/// time up to `max`.
///
/// A `max` beyond [`Intensity::period`] means that a child is never given up: its failures
/// are then too rare to spend the intensity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backoff {
    /// The wait before the second restart in a row.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
    /// The part of a wait that chance may take off, from 0 to 1, so that children that
    /// fell together do not return together.
    pub jitter: f64,
}

/// The rules for one child.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Which ends lead to a restart.
    pub restart: Restart,
    /// How many restarts before it is given up.
    pub intensity: Intensity,
    /// How long to wait before a restart.
    pub backoff: Backoff,
    /// How long it may take to stop when it is told to.
    pub grace: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            restart: Restart::Permanent,
            intensity: Intensity {
                restarts: 5,
                period: Duration::from_secs(30),
            },
            backoff: Backoff {
                first: Duration::from_millis(50),
                max: Duration::from_secs(5),
                jitter: 0.2,
            },
            grace: Duration::from_secs(5),
        }
    }
}

impl Backoff {
    /// Restarts at once, always; the intensity alone ends a storm.
    pub const NONE: Backoff = Backoff {
        first: Duration::ZERO,
        max: Duration::ZERO,
        jitter: 0.0,
    };

    /// The wait before restart `attempt` in a row (from 0). `chance` is 64 random bits.
    pub fn delay(&self, attempt: u32, chance: u64) -> Duration {
        let Some(doublings) = attempt.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let full = self.first.saturating_mul(factor).min(self.max);
        let unit = (chance >> 11) as f64 / (1u64 << 53) as f64;
        // `clamp` keeps NaN, which `max` then turns into no jitter.
        let jitter = self.jitter.clamp(0.0, 1.0).max(0.0);
        full.mul_f64(1.0 - jitter * unit)
    }
}

/// The restarts of the last period. Never longer than [`Intensity::restarts`].
#[derive(Clone, Debug, Default)]
pub(super) struct Window(VecDeque<Duration>);

impl Window {
    /// Counts a restart at `now`, unless it would exceed `intensity`.
    pub fn admit(&mut self, now: Duration, intensity: Intensity) -> bool {
        while self
            .0
            .front()
            .is_some_and(|at| now.saturating_sub(*at) >= intensity.period)
        {
            self.0.pop_front();
        }
        let room = self.0.len() < intensity.restarts as usize;
        if room {
            self.0.push_back(now);
        }
        room
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// 64 bits that are a function of a seed, a name and an index.
pub(super) fn chance(seed: u64, name: &str, index: u64) -> u64 {
    let key = name.bytes().fold(mix(seed), |key, byte| {
        mix(key ^ u64::from(byte).wrapping_add(GAMMA))
    });
    mix(key.wrapping_add(index.wrapping_add(1).wrapping_mul(GAMMA)))
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64 (Steele et al. 2014).
fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_first_restart_is_immediate_and_the_waits_double_up_to_the_longest() {
        let backoff = Backoff {
            first: ms(50),
            max: ms(300),
            jitter: 0.0,
        };
        let waits: Vec<_> = (0..6).map(|n| backoff.delay(n, u64::MAX)).collect();
        assert_eq!(waits, [0, 50, 100, 200, 300, 300].map(ms));
        assert_eq!(backoff.delay(u32::MAX, 0), ms(300));
        assert_eq!(Backoff::NONE.delay(9, 0), ms(0));
    }

    #[test]
    fn jitter_only_shortens_follows_the_seed_and_survives_nonsense() {
        let mut backoff = Backoff {
            first: ms(100),
            max: ms(100),
            jitter: 0.5,
        };
        let draw = |seed| {
            (0..200)
                .map(|n| backoff.delay(1, chance(seed, "a", n)))
                .collect::<Vec<_>>()
        };
        let waits = draw(1);
        assert!(waits.iter().all(|w| (ms(50)..=ms(100)).contains(w)));
        let mean = waits.iter().sum::<Duration>() / 200;
        assert!((ms(70)..ms(80)).contains(&mean), "{mean:?}");
        assert_eq!(waits, draw(1));
        assert_ne!(waits, draw(2));
        assert_ne!(chance(1, "a", 0), chance(1, "b", 0));
        for nonsense in [f64::NAN, -1.0, f64::NEG_INFINITY] {
            backoff.jitter = nonsense;
            assert_eq!(backoff.delay(1, u64::MAX), ms(100));
        }
        backoff.jitter = f64::INFINITY;
        assert!(backoff.delay(1, u64::MAX) < ms(1));
    }

    #[test]
    fn a_window_admits_exactly_its_number_in_any_period() {
        let intensity = Intensity {
            restarts: 2,
            period: ms(1000),
        };
        let mut window = Window::default();
        let table = [
            (0, true),
            (500, true),
            (999, false),
            (1000, true), // the one at 0 has left
            (1499, false),
            (1500, true),
            (1999, false),
            (2000, true),
        ];
        for (at, admitted) in table {
            assert_eq!(window.admit(ms(at), intensity), admitted, "at {at}");
        }
        window.clear();
        assert!(window.admit(ms(2001), intensity));
        let none = Intensity {
            restarts: 0,
            ..intensity
        };
        assert!(!Window::default().admit(ms(0), none));
    }
}

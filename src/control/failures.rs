//! Addresses that came without the token too often.

use crate::domain::{Code, Error, Result};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures that an address may have at once.
const BURST: u32 = 10;
/// A failure is forgotten after this long.
const FORGET: Duration = Duration::from_secs(5);
/// Addresses that are remembered. Past these, all that are new share one place.
const ADDRESSES: usize = 1024;

/// For each address, until when its failures count: each one adds [`FORGET`].
#[derive(Default)]
pub struct Failures(Mutex<HashMap<IpAddr, Instant>>);

impl Failures {
    /// Whether `address` may try.
    ///
    /// # Errors
    /// `too-many-attempts`.
    pub fn check(&self, address: IpAddr) -> Result<()> {
        self.check_at(address, Instant::now())
    }

    fn check_at(&self, address: IpAddr, now: Instant) -> Result<()> {
        let until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let debt = |address: &IpAddr| {
            until
                .get(address)
                .map(|until| until.saturating_duration_since(now))
        };
        let debt = debt(&network(address))
            .or_else(|| debt(&SHARED))
            .unwrap_or_default();
        let limit = FORGET * BURST;
        if debt < limit {
            return Ok(());
        }
        let wait = (debt - limit).as_secs() + 1;
        let message = "too many requests from there had no token, or a wrong one";
        Err(
            Error::new(Code::TooManyAttempts, address, message).hint(format_args!(
                "wait {wait} s; the Unix socket is not affected"
            )),
        )
    }

    /// That `address` failed.
    pub fn note(&self, address: IpAddr) {
        self.note_at(address, Instant::now());
    }

    fn note_at(&self, address: IpAddr, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut address = network(address);
        if all.len() >= ADDRESSES && !all.contains_key(&address) {
            all.retain(|_, until| *until > now);
            if all.len() >= ADDRESSES {
                address = SHARED;
            }
        }
        let until = all.entry(address).or_insert(now);
        *until = (*until).max(now) + FORGET;
    }
}

/// Stands for all addresses that are not remembered one by one.
const SHARED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// Whoever has one IPv6 address has a whole network of them.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => ip.into(),
            None => {
                let [a, b, c, d, ..] = ip.segments();
                std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
        },
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_failures_is_answered_by_a_wait_that_passes() {
        let failures = Failures::default();
        let now = Instant::now();
        let (one, other): (IpAddr, IpAddr) = (
            "2001:db8::1".parse().unwrap(),
            "2001:db8::2".parse().unwrap(),
        );
        for _ in 0..BURST {
            failures.check_at(one, now).unwrap();
            failures.note_at(one, now);
        }
        let refused = failures.check_at(other, now).unwrap_err();
        assert_eq!(refused.code, Code::TooManyAttempts, "the same network");
        failures.check_at("10.0.0.1".parse().unwrap(), now).unwrap();
        failures.check_at(one, now + FORGET).unwrap();
        // One failure more, one wait more.
        failures.note_at(one, now + FORGET);
        failures.check_at(one, now + FORGET).unwrap_err();
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let failures = Failures::default();
        let now = Instant::now();
        for n in 0..3000u32 {
            failures.note_at(IpAddr::V4((n + 1).into()), now);
        }
        assert!(failures.0.lock().unwrap().len() <= ADDRESSES + 1);
        let stranger = "10.9.8.7".parse().unwrap();
        failures.check_at(stranger, now).unwrap_err();
        failures.check_at(stranger, now + FORGET * 3000).unwrap();
    }
}

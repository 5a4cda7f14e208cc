//! Names to addresses, once for each request: the addresses that were checked are those that
//! are connected to.

use super::{Reach, reach};
use std::fmt;
use std::net::IpAddr;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Resolves names, and refuses those that lead where a webhook must not go.
#[derive(Debug)]
pub(super) struct Checked<R = DefaultResolver> {
    private: bool,
    inner: R,
}

impl Checked {
    /// With the system's resolver.
    pub fn new(private: bool) -> Self {
        Self::with(DefaultResolver::default(), private)
    }
}

impl<R> Checked<R> {
    /// With another resolver.
    pub fn with(inner: R, private: bool) -> Self {
        Self { private, inner }
    }
}

impl<R: Resolver> Resolver for Checked<R> {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        // One that leads here and there is not to be trusted with the choice.
        for address in &found[..] {
            Refused::unless(address.ip(), self.private)
                .map_err(|refused| ureq::Error::Other(Box::new(refused)))?;
        }
        Ok(found)
    }
}

/// An address that a webhook must not reach.
#[derive(Debug)]
pub(super) struct Refused {
    address: IpAddr,
    never: bool,
}

impl Refused {
    /// Whether `address` may be reached.
    pub fn unless(address: IpAddr, private: bool) -> Result<(), Self> {
        match reach(address) {
            Reach::Public => Ok(()),
            Reach::Private if private => Ok(()),
            reach => Err(Self {
                address,
                never: reach == Reach::Never,
            }),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, never } = self;
        match never {
            true => write!(f, "leads to {address}, which no webhook may reach"),
            false => write!(
                f,
                "leads to {address}, which is private, and allow_private is not set"
            ),
        }
    }
}

impl std::error::Error for Refused {}

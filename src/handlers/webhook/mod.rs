//! `webhook`: each event is POSTed as JSON to a URL.
//!
//! With a secret, `X-Backpropd-Signature: t=SECONDS,v1=HEX` is the HMAC-SHA256 of
//! `SECONDS.BODY`: who knows the secret can tell that the event is ours, and that it is
//! fresh. `X-Backpropd-Delivery` is the event's number: a delivery whose answer was lost
//! comes again under the same one.

mod address;
mod resolve;

use super::{EventHandler, Settings};
use crate::domain::{Code, Error, Result};
use crate::protocol::api::Event;
use address::{Reach, reach};
use hmac::{Hmac, KeyInit, Mac};
use resolve::{Checked, Refused};
use serde::Deserialize;
use sha2::Sha256;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, config::Config};

/// Before the second attempt; doubled for each further one.
const BACK_OFF: Duration = Duration::from_millis(250);
/// The longest wait between attempts.
const LONGEST: Duration = Duration::from_secs(5);
/// The longest head of an answer that is read; its body is not.
const MAX_HEAD: usize = 16 << 10;
/// The shortest secret, in bytes: half of what the signature's hash has.
const MIN_SECRET: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    url: String,
    /// A file with the secret of the signature; what white space surrounds it does not count.
    #[serde(default)]
    secret_file: Option<PathBuf>,
    /// A file with the certificates of the authorities that are trusted, as PEM, in place of
    /// the public ones.
    #[serde(default)]
    ca_file: Option<PathBuf>,
    /// Whether it may reach this host and private networks.
    #[serde(default)]
    allow_private: bool,
}

/// A URL and how it is called.
pub(super) struct Webhook {
    agent: Agent,
    url: Uri,
    secret: Option<Vec<u8>>,
    deadline: Duration,
}

pub(super) fn prepare(settings: &Settings) -> Result<impl Fn() -> Result<Webhook> + use<>> {
    let keys: Keys = settings.decode()?;
    let url = check(&keys.url, keys.allow_private).map_err(|e| match e {
        Bad::Url(message) => settings.invalid("url", message),
        Bad::Address(refused) => Error::new(Code::AddressRefused, &keys.url, refused),
    })?;
    let secret_file = keys.secret_file.map(|file| settings.path(&file));
    let ca_file = keys.ca_file.map(|file| settings.path(&file));
    let (deadline, private) = (settings.deadline, keys.allow_private);
    Ok(move || {
        let read = |file: &PathBuf| std::fs::read(file).map_err(|e| Error::read(file, &e));
        let secret = secret_file.as_ref().map(|file| {
            let secret = read(file)?.trim_ascii().to_vec();
            if secret.len() < MIN_SECRET {
                let message = format!("holds no secret of at least {MIN_SECRET} bytes");
                return Err(Error::new(Code::ConfigInvalid, file.display(), message)
                    .hint("e.g. `openssl rand -hex 32 > FILE`"));
            }
            Ok(secret)
        });
        let roots = ca_file.as_ref().map(|file| {
            let roots = certificates(&read(file)?);
            roots.map_err(|e| Error::new(Code::ConfigInvalid, file.display(), e))
        });
        Ok(Webhook {
            agent: agent(private, roots.transpose()?),
            url: url.clone(),
            secret: secret.transpose()?,
            deadline,
        })
    })
}

/// Why a URL cannot be used.
#[derive(Debug)]
enum Bad {
    Url(String),
    Address(Refused),
}

/// A URL that may be called, as far as can be told before its name is looked up.
fn check(url: &str, private: bool) -> Result<Uri, Bad> {
    let bad = |message: &str| Bad::Url(format!("{url:?} {message}"));
    let uri: Uri = url.parse().map_err(|_| bad("is no URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(bad("begins neither with https:// nor with http://"));
    }
    let authority = uri.authority().ok_or_else(|| bad("names no host"))?;
    if authority.as_str().contains('@') {
        return Err(bad("holds a user or a password; use secret_file"));
    }
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    if host.is_empty() {
        return Err(bad("names no host"));
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        Refused::unless(address, private).map_err(Bad::Address)?;
    }
    Ok(uri)
}

fn certificates(pem: &[u8]) -> Result<RootCerts, String> {
    let mut roots: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => roots.push(certificate),
            Ok(_) => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    match roots.is_empty() {
        true => Err("holds no certificate".to_owned()),
        false => Ok(RootCerts::Specific(Arc::new(roots))),
    }
}

fn agent(private: bool, roots: Option<RootCerts>) -> Agent {
    let tls = TlsConfig::builder().root_certs(roots.unwrap_or(RootCerts::WebPki));
    let config = Config::builder()
        .tls_config(tls.build())
        // A proxy of the environment would look names up itself.
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .user_agent(concat!("backpropd/", env!("CARGO_PKG_VERSION")))
        .max_response_header_size(MAX_HEAD)
        .max_idle_connections(1)
        .build();
    let resolver = Checked::new(private);
    Agent::with_parts(config, DefaultConnector::default(), resolver)
}

/// What came of one attempt that did not succeed.
struct Failure {
    message: String,
    /// Whether another attempt can succeed.
    again: bool,
    code: Code,
}

impl Webhook {
    fn attempt(&self, event: &Event, body: &[u8], within: Duration) -> Result<(), Failure> {
        let mut request = self
            .agent
            .post(&self.url)
            .config()
            .timeout_global(Some(within))
            .build()
            .header("Content-Type", "application/json")
            .header("X-Backpropd-Event", &event.kind)
            .header("X-Backpropd-Delivery", event.id.to_string());
        if let Some(secret) = &self.secret {
            request = request.header("X-Backpropd-Signature", sign(secret, now(), body));
        }
        let fail = |message: String, again| {
            let code = Code::HandlerFailed;
            Err(Failure {
                message,
                again,
                code,
            })
        };
        match request.send(body) {
            Ok(answer) => match answer.status().as_u16() {
                200..=299 => Ok(()),
                status @ 300..=399 => fail(
                    format!("answers {status}; redirects are not followed"),
                    false,
                ),
                status @ (408 | 425 | 429 | 500..=599) => fail(format!("answers {status}"), true),
                status => fail(
                    format!("answers {status}, which another attempt will not change"),
                    false,
                ),
            },
            Err(ureq::Error::Other(other)) if other.is::<Refused>() => Err(Failure {
                message: other.to_string(),
                again: false,
                code: Code::AddressRefused,
            }),
            Err(e) => fail(e.to_string(), true),
        }
    }
}

impl EventHandler for Webhook {
    fn handle(&mut self, event: &Event) -> Result<()> {
        let body = serde_json::to_vec(event).map_err(|e| Error::new(Code::Internal, "event", e))?;
        let until = Instant::now() + self.deadline;
        let (mut wait, mut attempts) = (BACK_OFF, 0);
        loop {
            attempts += 1;
            let left = until.saturating_duration_since(Instant::now());
            let Err(failure) = self.attempt(event, &body, left) else {
                return Ok(());
            };
            let left = until.saturating_duration_since(Instant::now());
            if !failure.again || left <= wait {
                let times = match attempts {
                    1 => String::new(),
                    n => format!(", after {n} attempts"),
                };
                let message = format!("{}{times}", failure.message);
                return Err(Error::new(failure.code, &self.url, message));
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(LONGEST);
        }
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The header that proves who sent `body`, and when.
fn sign(secret: &[u8], seconds: u64, body: &[u8]) -> String {
    let mut text = format!("t={seconds},v1=");
    // A key of any length will do for an HMAC.
    if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) {
        mac.update(format!("{seconds}.").as_bytes());
        mac.update(body);
        for byte in mac.finalize().into_bytes() {
            text += &format!("{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests;

//! Who may do what: by who they are at the Unix socket, by the token over TCP.

use super::failures::Failures;
use crate::config::daemon::ControlTable;
use crate::domain::{Code, Error, Result};
use crate::system::users;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri, header};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

/// Whoever is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A process of this machine, at the Unix socket.
    Local {
        /// Its user.
        uid: u32,
        /// That user's groups.
        groups: Arc<[u32]>,
        /// For the log only: the number may be another process's by now.
        pid: Option<i32>,
    },
    /// Somebody over TCP.
    Remote(IpAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid, pid, .. } => match pid {
                Some(pid) => write!(f, "uid {uid}, pid {pid}"),
                None => write!(f, "uid {uid}"),
            },
            Self::Remote(address) => address.fmt(f),
        }
    }
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// It looks.
    Read,
    /// It changes something.
    Write,
}

impl Right {
    /// The right that a method needs.
    pub fn needed(method: &Method) -> Self {
        match *method {
            Method::GET | Method::HEAD | Method::OPTIONS => Self::Read,
            _ => Self::Write,
        }
    }
}

/// A user or a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    User(u32),
    Group(u32),
}

/// Shortest token.
const SHORTEST: usize = 16;
/// Longest token.
const LONGEST: u64 = 4096;

/// What `[control]` says about who may do what.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    writers: Vec<Who>,
    readers: Vec<Who>,
    /// Of the token: comparing hashes takes the same time whatever they are.
    token: Option<blake3::Hash>,
    hosts: Vec<String>,
}

impl Rules {
    /// The rules of `table`, with names as numbers and the token read.
    ///
    /// # Errors
    /// `config-invalid` for a name that the system does not know, or a token that others can
    /// read; `config-missing` where it cannot be read.
    pub fn new(table: &ControlTable) -> Result<Self> {
        let mut hosts: Vec<String> = ["localhost", "127.0.0.1", "[::1]"]
            .map(str::to_owned)
            .into();
        if let Some(address) = table.address() {
            hosts.push(match address.ip() {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            });
        }
        hosts.extend(table.tcp_hosts.iter().map(|host| host.to_lowercase()));
        Ok(Self {
            writers: resolve("control.writers", &table.writers)?,
            readers: resolve("control.readers", &table.readers)?,
            token: match table.tcp.is_empty() {
                true => None,
                false => Some(read_token(&table.token_file)?),
            },
            hosts,
        })
    }
}

fn resolve(key: &str, names: &[String]) -> Result<Vec<Who>> {
    let each = names.iter().map(|name| {
        let (kind, found) = match name.strip_prefix('@') {
            Some(name) => ("group", users::group(name).map(Who::Group)),
            None => ("user", users::user(name).map(Who::User)),
        };
        let unknown = || {
            let message = format!("there is no {kind} {name:?} on this machine");
            Error::new(Code::ConfigInvalid, key, message).hint("groups are written as \"@name\"")
        };
        found.ok_or_else(unknown)
    });
    each.collect()
}

fn read_token(path: &Path) -> Result<blake3::Hash> {
    let about = format!("control.token_file: {}", path.display());
    let make = format!("(umask 077; openssl rand -hex 32 > {})", path.display());
    let missing = |e: std::io::Error| {
        let message = format!("cannot be read: {e}");
        Error::new(Code::ConfigMissing, &about, message).hint(format_args!("make one: {make}"))
    };
    let file = File::open(path).map_err(missing)?;
    let mode = file.metadata().map_err(missing)?.permissions().mode();
    let invalid = |message: String| Error::new(Code::ConfigInvalid, &about, message);
    if mode & 0o007 != 0 {
        return Err(invalid("everybody on this machine can use it".into())
            .hint(format_args!("chmod o= {}", path.display())));
    }
    let mut text = String::new();
    file.take(LONGEST)
        .read_to_string(&mut text)
        .map_err(missing)?;
    let token = text.trim();
    if token.len() < SHORTEST || token.contains(|c: char| !c.is_ascii_graphic()) {
        let message = format!("is no line of {SHORTEST} or more letters and digits");
        return Err(invalid(message).hint(format_args!("make one: {make}")));
    }
    Ok(blake3::hash(token.as_bytes()))
}

/// Decides about requests.
pub struct Access {
    own: u32,
    /// The socket's group.
    group: u32,
    rules: RwLock<Arc<Rules>>,
    failures: Failures,
}

impl Access {
    /// Of the process `own` whose socket belongs to the group `group`.
    pub fn new(own: u32, group: u32, rules: Rules) -> Self {
        Self {
            own,
            group,
            rules: RwLock::new(Arc::new(rules)),
            failures: Failures::default(),
        }
    }

    /// Other rules from now on.
    pub fn set(&self, rules: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether it is known without a look at a user's groups that it may do everything.
    pub fn is_master(&self, uid: u32) -> bool {
        uid == 0 || uid == self.own
    }

    /// Whether `peer` may have its request.
    ///
    /// # Errors
    /// `forbidden`, `unauthorized`, `too-many-attempts`.
    pub fn check(&self, peer: &Peer, request: &Parts) -> Result<()> {
        let needed = Right::needed(&request.method);
        let refused = |who: String| {
            let about = format!("{} {}", request.method, request.uri.path());
            let does = match needed {
                Right::Read => "see",
                Right::Write => "change",
            };
            Error::new(Code::Forbidden, about, format!("{who} may not {does} this"))
        };
        match peer {
            Peer::Local { uid, groups, .. } => match self.local(*uid, groups) {
                Some(right) if right >= needed => Ok(()),
                _ => Err(refused(format!("user {uid}")).hint(
                    "join the socket's group, or ask for a place in control.writers or \
                     control.readers of daemon.toml",
                )),
            },
            Peer::Remote(address) => self.remote(*address, request),
        }
    }

    fn local(&self, uid: u32, groups: &[u32]) -> Option<Right> {
        let rules = self.rules();
        let is_one = |who: &Who| match who {
            Who::User(user) => *user == uid,
            Who::Group(group) => groups.contains(group),
        };
        let writes =
            self.is_master(uid) || groups.contains(&self.group) || rules.writers.iter().any(is_one);
        let reads = rules.readers.is_empty() || rules.readers.iter().any(is_one);
        match (writes, reads) {
            (true, _) => Some(Right::Write),
            (false, true) => Some(Right::Read),
            (false, false) => None,
        }
    }

    /// First whether a browser was sent here by somebody else's page, then the token: all of
    /// it before a request is looked at, and so before a connection becomes anything else.
    fn remote(&self, address: IpAddr, request: &Parts) -> Result<()> {
        let rules = self.rules();
        self.failures.check(address)?;
        let forbidden = |about: &str, message: &str| {
            Error::new(Code::Forbidden, about, message)
                .hint("control.tcp_hosts of daemon.toml lists the names of this daemon")
        };
        let Some(host) = host(&request.headers, &request.uri) else {
            return Err(forbidden("Host", "is missing, or is there twice"));
        };
        if !rules.hosts.contains(&name(&host)) {
            return Err(forbidden(&host, "is no name of this daemon"));
        }
        for origin in request.headers.get_all(header::ORIGIN) {
            let origin = origin.to_str().unwrap_or_default();
            let from = origin
                .split_once("://")
                .map(|(_, host)| host.to_lowercase());
            if from.as_ref() != Some(&host) {
                return Err(forbidden(
                    origin,
                    "a page from there may not speak to this daemon",
                ));
            }
        }
        let given = request.headers.get(header::AUTHORIZATION);
        let given = given.and_then(|value| value.to_str().ok()?.split_once(' '));
        let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        match (given, rules.token) {
            // Hashes compare in constant time.
            (Some((_, given)), Some(token)) if blake3::hash(given.trim().as_bytes()) == token => {
                Ok(())
            }
            (given, _) => {
                self.failures.note(address);
                let message = match given {
                    Some(_) => "the token is not this daemon's",
                    None => "the request carries no token",
                };
                let about = request.uri.path();
                Err(Error::new(Code::Unauthorized, about, message)
                    .hint("send `Authorization: Bearer` and what control.token_file holds"))
            }
        }
    }
}

/// The host that a request is for, in small letters; none where that is not clear.
fn host(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let mut all = headers.get_all(header::HOST).iter();
    let host = match (all.next(), all.next()) {
        (Some(host), None) => host.to_str().ok()?.to_lowercase(),
        _ => return None,
    };
    let agrees = |authority: &str| authority.to_lowercase() == host;
    uri.authority()
        .is_none_or(|a| agrees(a.as_str()))
        .then_some(host)
}

/// A host without its port.
fn name(host: &str) -> String {
    let end = match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => colon,
        _ => host.len(),
    };
    host[..end].to_owned()
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;

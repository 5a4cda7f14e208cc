//! What this process may use.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More open files than any daemon of ours needs.
const ENOUGH: u64 = 65_536;

/// Raises the limit of open files as far as that is allowed and useful, and says what it is
/// now.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let (now, most) = (
        limit.current.unwrap_or(u64::MAX),
        limit.maximum.unwrap_or(u64::MAX),
    );
    let wanted = most.min(ENOUGH);
    if now >= wanted {
        return now;
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => wanted,
        Err(_) => now,
    }
}

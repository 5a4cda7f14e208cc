//! What this process may use.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::set_no_new_privs;

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

/// What a program that somebody else wrote may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Seconds of processor time of each of its processes; 0 for no limit, as in all of these.
    pub cpu_seconds: u64,
    /// Bytes of address space of each of its processes.
    pub memory: u64,
    /// Files that each of its processes may have open.
    pub open_files: u64,
    /// Bytes of each file that it writes.
    pub file: u64,
    /// Whether it may become another user, as `sudo` does.
    pub new_privileges: bool,
}

impl Limits {
    /// Keeps this process, and what it becomes, within these limits for good. It writes no
    /// core dumps either.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn apply(self) -> Result<(), Errno> {
        for (resource, most) in [
            (Resource::As, self.memory),
            (Resource::Nofile, self.open_files),
            (Resource::Fsize, self.file),
            (Resource::Cpu, self.cpu_seconds),
        ] {
            if most > 0 {
                lower(resource, most)?;
            }
        }
        lower(Resource::Core, 0)?;
        if !self.new_privileges {
            set_no_new_privs(true)?;
        }
        Ok(())
    }
}

/// Sets a limit, unless there is a lower one already. Of processor time it leaves a second
/// more before the kill that cannot be told from another: the first signal has a name.
fn lower(resource: Resource, most: u64) -> Result<(), Errno> {
    let allowed = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let spare = u64::from(matches!(resource, Resource::Cpu));
    let limit = Rlimit {
        current: Some(most.min(allowed)),
        maximum: Some(most.saturating_add(spare).min(allowed)),
    };
    setrlimit(resource, limit)
}

//! Processes by an identity that survives the reuse of their numbers.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};

/// A process: its number, when it started, and in which boot of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The number, which the system gives again to others.
    pub pid: u32,
    /// Clock ticks from boot to its start.
    pub start_time: u64,
    /// The boot's random id.
    pub boot_id: String,
}

impl Identity {
    /// The process that has this number now; `None` where there is none.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self {
            pid,
            start_time: start_time(pid)?,
            boot_id: boot_id()?,
        })
    }

    /// Whether this very process is still there. One that has ended and was not waited for
    /// is not.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Kills it and the process group that it leads, if it is still there.
    pub fn kill(&self) {
        // Between the check and the kill the number would have to be given anew.
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid as i32)
        {
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Field 22 of /proc/PID/stat. The second field, the command's name, may hold spaces and
/// parentheses, so fields are counted from the last parenthesis.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// Kills for memory in this process's control group so far; `None` where the system does not
/// count them.
pub fn memory_kills() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let folder = std::path::Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'));
    let events = std::fs::read_to_string(folder.join("memory.events")).ok()?;
    let count = events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_number() {
        let me = Identity::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        let earlier = Identity {
            start_time: me.start_time - 1,
            ..me.clone()
        };
        let other_boot = Identity {
            boot_id: "x".into(),
            ..me
        };
        assert!(!earlier.is_alive() && !other_boot.is_alive());
        earlier.kill();
        other_boot.kill();
    }

    #[test]
    fn a_killed_process_is_gone_before_it_is_waited_for() {
        let mut child = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let identity = Identity::of(child.id()).unwrap();
        assert!(identity.is_alive());
        identity.kill();
        while identity.is_alive() {
            std::thread::yield_now();
        }
        assert!(!child.wait().unwrap().success());
    }
}

//! Processes by an identity that survives the reuse of their numbers.

use super::memory;
use crate::domain::Process;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

impl Process {
    /// The process that has the number `pid` now; `None` where there is none.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self {
            pid,
            started: start_time(pid)?,
            boot: boot_id()?,
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
    let file = memory::control_group_folder()?.join("memory.events");
    let events = std::fs::read_to_string(file).ok()?;
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
        let me = Process::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        let earlier = Process {
            started: me.started - 1,
            ..me.clone()
        };
        let other_boot = Process {
            boot: "x".into(),
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
        let identity = Process::of(child.id()).unwrap();
        assert!(identity.is_alive());
        identity.kill();
        while identity.is_alive() {
            std::thread::yield_now();
        }
        assert!(!child.wait().unwrap().success());
    }
}

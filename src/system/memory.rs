//! What memory this process used, and what is left for it.

use std::path::{Path, PathBuf};

/// Peak resident memory of this process in bytes; `None` where the system does not say.
pub fn peak() -> Option<u64> {
    kib_field(
        &std::fs::read_to_string("/proc/self/status").ok()?,
        "VmHWM:",
    )
}

/// Memory of this process that is resident now, in bytes.
pub fn resident() -> Option<u64> {
    kib_field(
        &std::fs::read_to_string("/proc/self/status").ok()?,
        "VmRSS:",
    )
}

/// Forgets the peak so far, where the system can (Linux); without effect elsewhere.
pub fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Bytes that this process can still take without swapping: what the machine has, or what
/// its control group allows, whichever is less.
pub fn available() -> Option<u64> {
    let machine = kib_field(
        &std::fs::read_to_string("/proc/meminfo").ok()?,
        "MemAvailable:",
    )?;
    Some(control_group().map_or(machine, |group| group.min(machine)))
}

fn kib_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line[name.len()..].split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// What control group v2 leaves of its limit.
fn control_group() -> Option<u64> {
    let folder = control_group_folder()?;
    let number = |name: &str| -> Option<u64> {
        let text = std::fs::read_to_string(folder.join(name)).ok()?;
        text.trim().parse().ok()
    };
    Some(number("memory.max")?.saturating_sub(number("memory.current")?))
}

/// The folder of this process's control group (v2).
pub(super) fn control_group_folder() -> Option<PathBuf> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_some_is_left() {
        assert!(peak().unwrap() > 1 << 20);
        assert!(available().unwrap() > 1 << 20);
    }

    #[test]
    fn fields_are_read_in_kib() {
        assert_eq!(
            kib_field("VmPeak:\t 9 kB\nVmHWM:\t   12 kB\n", "VmHWM:"),
            Some(12 * 1024)
        );
        assert_eq!(kib_field("VmPeak:\t 9 kB\n", "VmHWM:"), None);
    }
}

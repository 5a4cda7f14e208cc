//! Users and groups, as the system's database has them.

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use std::ffi::CString;

/// The number of the user called `name`, or which is it.
pub fn user(name: &str) -> Option<u32> {
    let number = name.parse().ok();
    number.or_else(|| Some(User::from_name(name).ok()??.uid.as_raw()))
}

/// The number of the group called `name`, or which is it.
pub fn group(name: &str) -> Option<u32> {
    let number = name.parse().ok();
    number.or_else(|| Some(Group::from_name(name).ok()??.gid.as_raw()))
}

/// The groups of the user `uid`, `gid` among them. The database may lie on the network: not
/// to be called where others wait.
pub fn groups_of(uid: u32, gid: u32) -> Vec<u32> {
    let all = || {
        let user = User::from_uid(Uid::from_raw(uid)).ok()??;
        let name = CString::new(user.name).ok()?;
        getgrouplist(&name, Gid::from_raw(gid)).ok()
    };
    let groups = all().unwrap_or_else(|| vec![Gid::from_raw(gid)]);
    groups.into_iter().map(Gid::as_raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found_and_strangers_have_their_group_only() {
        assert_eq!(user("root"), Some(0));
        assert_eq!(group("root"), Some(0));
        assert_eq!((user("1234"), group("77")), (Some(1234), Some(77)));
        assert_eq!(user("no such user"), None);
        assert!(groups_of(0, 0).contains(&0));
        assert_eq!(groups_of(4_000_000, 4_000_001), [4_000_001]);
    }
}

//! Who may look and who may change, by the user at the other end of the socket.

use crate::common::Fixture;
use crate::common::daemon::Daemon;
use rustix::process::geteuid;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

/// A user and a group of whom the daemon and the system know nothing.
const STRANGER: u32 = 61_234;
const CLUB: u32 = 61_235;
/// The program where strangers can run it.
const BINARY: &str = "backpropd";

fn ctl_as(daemon: &Daemon<'_>, uid: u32, gid: u32, args: &[&str]) -> Output {
    Command::new(daemon.fixture.path(BINARY))
        .args(["ctl", "--socket"])
        .arg(daemon.socket())
        .args(args)
        .uid(uid)
        .gid(gid)
        .output()
        .unwrap()
}

fn fixture() -> Option<Fixture> {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return None;
    }
    let fixture = Fixture::new(1);
    let open = PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(fixture.dir.path(), open).unwrap();
    // The folder that it was built in may be closed to others, as root's home is.
    let (built, here) = (env!("CARGO_BIN_EXE_backpropd"), fixture.path(BINARY));
    if std::fs::hard_link(built, &here).is_err() {
        std::fs::copy(built, &here).unwrap();
    }
    Some(fixture)
}

fn codes(daemon: &Daemon<'_>, uid: u32, gid: u32) -> [Option<i32>; 2] {
    [["status"], ["shutdown"]].map(|args| ctl_as(daemon, uid, gid, &args).status.code())
}

#[test]
fn strangers_cannot_open_the_socket_at_all() {
    let Some(fixture) = fixture() else { return };
    let daemon = Daemon::start(&fixture);
    let refused = ctl_as(&daemon, STRANGER, STRANGER, &["status"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(85), "{said}");
    assert!(said.contains("may not use the control socket"), "{said}");
}

#[test]
fn where_all_may_open_it_strangers_look_and_change_nothing() {
    let Some(fixture) = fixture() else { return };
    let daemon = Daemon::start_with(&fixture, &[("BACKPROPD_CONTROL__MODE", "0666")]);
    assert_eq!(codes(&daemon, STRANGER, STRANGER), [Some(0), Some(87)]);
    let refused = ctl_as(&daemon, STRANGER, STRANGER, &["reload"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains("forbidden: POST /v1/reload: user 61234 may not change"),
        "{said}"
    );
    assert!(daemon.ctl(&["status"]).status.success(), "nobody ended it");
}

#[test]
fn writers_and_readers_are_who_the_settings_name() {
    let Some(fixture) = fixture() else { return };
    let config = fixture.path("daemon.toml");
    let toml = "[control]\nmode = \"0666\"\nwriters = [\"@61235\"]\nreaders = [\"nobody\"]\n";
    std::fs::write(&config, toml).unwrap();
    let daemon = Daemon::start_of(
        Daemon::command(&fixture).arg("--config").arg(&config),
        &fixture,
    );
    assert_eq!(codes(&daemon, STRANGER, STRANGER), [Some(87), Some(87)]);
    let nobody = 65_534;
    assert_eq!(codes(&daemon, nobody, STRANGER), [Some(0), Some(87)]);
    // Settings that change change who may.
    std::fs::write(&config, toml.replace("nobody", "61234")).unwrap();
    assert!(
        ctl_as(&daemon, STRANGER, CLUB, &["reload"])
            .status
            .success()
    );
    assert_eq!(codes(&daemon, STRANGER, STRANGER), [Some(0), Some(87)]);
    assert_eq!(codes(&daemon, nobody, STRANGER), [Some(87), Some(87)]);
    assert_eq!(codes(&daemon, STRANGER, CLUB), [Some(0), Some(0)]);
}

//! Settings that change while the daemon works.

use crate::common::daemon::{Daemon, kill};
use crate::common::{Fixture, until};
use rustix::process::Signal;

#[test]
fn what_can_change_live_changes_and_the_rest_is_named() {
    let fixture = Fixture::new(400);
    let file = fixture.path("daemon.toml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write("[workers]\nlimit = 1\n");
    let mut command = Daemon::command(&fixture);
    let daemon = Daemon::start_of(command.arg("--config").arg(&file), &fixture);
    let first = daemon.submit("first", &[]);
    let second = daemon.submit("second", &[]);
    daemon.trains(first, 1, None);
    assert_eq!(daemon.show(second)["state"], "queued");

    // One more at a time, at once; a socket elsewhere, after a restart only.
    write("[workers]\nlimit = 2\n[log]\nformat = \"json\"\n");
    let done = daemon.json(&["reload"]);
    assert_eq!(done["changed"], serde_json::json!({ "workers.limit": 2 }));
    assert_eq!(done["restart"], serde_json::json!(["log.format"]));
    daemon.trains(second, 1, None);
    assert_eq!(daemon.json(&["status"])["limit"], 2);

    // A file that cannot be used changes nothing and says so.
    for broken in [
        "[workers]\nlimit = 0\n",
        "[workers\n",
        "[log]\nlevel = \"a=b=c\"\n",
    ] {
        write(broken);
        let output = daemon.ctl(&["reload"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(10), "{broken}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert_eq!(daemon.json(&["config"])["workers"]["limit"], 2);

    // SIGHUP does the same.
    write("[workers]\nlimit = 5\n");
    kill(daemon.child.id() as i32, Signal::HUP);
    until("the limit rises", || {
        (daemon.json(&["status"])["limit"] == 5).then_some(())
    });
}

//! What a person sees of a sweep.

use super::common::backpropd;
use super::common::daemon::Daemon;
use super::common::until;
use super::{Sweeps, fixture};
use rustix::process::Signal;
use std::process::Stdio;

#[test]
fn why_a_sweep_ended_does_nothing_to_a_terminal() {
    let fixture = fixture(100_000, "[grid]\nsae.k = [4, 8]\n");
    let daemon = Daemon::start(&fixture);
    let id = daemon.begin();
    let reason = "no\x1b[31m more\nruns";
    daemon.json(&["sweep", "abort", &id.to_string(), "--reason", reason]);
    daemon.sweep_reaches(id, "aborted");
    assert_eq!(daemon.sweep(id)["reason"], reason);
    for verb in ["show", "watch"] {
        let output = daemon.ctl(&["sweep", verb, &id.to_string()]);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains(r"no\u{1b}[31m more\nruns"), "{said:?}");
        assert!(!said.contains('\x1b'), "{said:?}");
    }
}

/// behaviour: cli-02
#[test]
fn watch_prints_a_line_a_run_and_survives_a_restart_of_the_daemon() {
    let fixture = fixture(120, "[grid]\nsae.k = [4, 8]\n");
    let daemon = Daemon::start(&fixture);
    let id = daemon.begin();
    let watch = backpropd()
        .args(["ctl", "sweep", "watch", "s", "--socket"])
        .arg(daemon.socket())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("the first run is over", || {
        (daemon.sweep(id)["runs"][0]["complete"] == true).then_some(())
    });
    daemon.signal(Signal::KILL);
    let _daemon = Daemon::start(&fixture);
    let output = watch.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("run "))
        .collect();
    assert_eq!(lines.len(), 2, "{said}");
    for (line, index) in lines.iter().zip(1..) {
        assert!(
            line.starts_with(&format!("run {index} of 2 (s-{index}) is completed")),
            "{line}"
        );
        assert!(
            line.contains("120 steps") && line.contains("CE recovered"),
            "{line}"
        );
    }
    assert!(said.contains("the daemon went away"), "{said}");
    assert!(
        said.lines().last().unwrap().contains("best is run"),
        "{said}"
    );
    assert!(
        !said.contains('\x1b'),
        "no escape codes without a terminal: {said:?}"
    );
}

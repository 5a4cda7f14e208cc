//! Handlers of the daemon as a user has it.

use crate::common::daemon::Daemon;
use crate::common::{Fixture, lines, until};
use serde_json::{Value, json};
use std::path::Path;

/// A daemon whose daemon.toml is `text`.
fn daemon<'a>(fixture: &'a Fixture, text: &str) -> Daemon<'a> {
    let path = fixture.path("daemon.toml");
    std::fs::write(&path, text).unwrap();
    Daemon::start_config(fixture, &path)
}

fn heard(path: &Path) -> Vec<Value> {
    std::fs::read(path)
        .map(|text| lines(&text))
        .unwrap_or_default()
}

/// behaviour: event-06, event-09, event-10, event-11, stream-05
#[test]
fn a_file_of_lines_has_every_event_of_the_daemon_once_and_in_order() {
    let fixture = Fixture::new(12);
    let daemon = daemon(
        &fixture,
        "[[handlers]]\nname = \"history\"\nkind = \"jsonl\"\npath = \"events.jsonl\"\nevents = [\"*\"]\n",
    );
    let well = daemon.submit("well", &[]);
    daemon.reaches(well, "completed");
    let ill = daemon.submit("ill", &["--set", "data.path=nowhere.txt"]);
    let path = fixture.path("state/events.jsonl");
    let events = until("the failure is written", || {
        let events = heard(&path);
        events
            .iter()
            .any(|e| e["kind"] == "run_failed")
            .then_some(events)
    });
    let ids: Vec<u64> = events.iter().map(|e| e["id"].as_u64().unwrap()).collect();
    assert!(
        ids.iter().copied().eq(ids[0]..ids[0] + ids.len() as u64),
        "{ids:?}"
    );
    for run in [well, ill] {
        let of_run = events.iter().filter(|e| e["run"] == run);
        let seqs: Vec<u64> = of_run.map(|e| e["seq"].as_u64().unwrap()).collect();
        assert!(seqs.iter().copied().eq(1..=seqs.len() as u64), "{seqs:?}");
    }
    let of = |run: u64, kind: &str| {
        let of = events
            .iter()
            .filter(|e| e["run"] == run && e["kind"] == kind);
        of.cloned().collect::<Vec<Value>>()
    };
    let steps = of(well, "step")
        .into_iter()
        .map(|e| e["step"].as_u64().unwrap());
    assert!(steps.eq(1..=12));
    for saved in of(well, "checkpoint_saved") {
        let manifest = Path::new(saved["path"].as_str().unwrap()).join("manifest.json");
        // Retention may have removed an older one since.
        assert!(manifest.is_file() || saved["step"] != 12, "{saved}");
    }
    assert_eq!(
        (
            of(well, "run_completed").len(),
            of(well, "run_failed").len()
        ),
        (1, 0)
    );
    assert_eq!(
        (of(ill, "run_completed").len(), of(ill, "run_failed").len()),
        (0, 1)
    );
    let error = &of(ill, "run_failed")[0];
    assert_eq!(error["code"], "data-missing");
    let last = events.iter().rev().find(|e| e["run"] == well).unwrap();
    assert_eq!(last["kind"], "run_completed");

    let shown = daemon.json(&["handlers"]);
    assert_eq!(shown[0]["counters"]["delivered"], json!(ids.len()));
    let table = String::from_utf8(daemon.ctl(&["handlers"]).stdout).unwrap();
    assert!(
        table.contains("history") && table.contains("running"),
        "{table}"
    );
}

/// behaviour: event-13
#[test]
fn handlers_come_and_go_over_the_control_socket() {
    let fixture = Fixture::new(3);
    let first = daemon(&fixture, "");
    let file = fixture.path("handler.toml");
    let text = "name = \"late\"\nkind = \"jsonl\"\npath = \"late.jsonl\"\nevents = [\"run_*\"]\n";
    std::fs::write(&file, text).unwrap();
    let empty = first.ctl(&["handlers"]);
    assert!(String::from_utf8_lossy(&empty.stdout).contains("no event handlers"));
    let added = first.json(&["handlers", "add", "handler.toml"]);
    assert_eq!(
        (&added["source"], &added["name"]),
        (&json!("added"), &json!("late"))
    );
    let again = first.ctl(&["handlers", "add", "handler.toml"]);
    assert_eq!(again.status.code(), Some(92));
    let exec = "name = \"x\"\nkind = \"exec\"\ncommand = [\"/bin/true\"]\n";
    std::fs::write(fixture.path("exec.toml"), exec).unwrap();
    let refused = first.ctl(&["handlers", "add", "exec.toml"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(84), "{said}");
    assert!(said.contains("exec_over_control"), "{said}");
    drop(first);

    let second = daemon(&fixture, "");
    let run = second.submit("run", &[]);
    second.reaches(run, "completed");
    let path = fixture.path("state/late.jsonl");
    until("it hears", || {
        heard(&path)
            .iter()
            .any(|e| e["kind"] == "run_completed")
            .then_some(())
    });
    std::fs::write(&file, text.replace("run_*", "epoch")).unwrap();
    let replaced = second.json(&["handlers", "replace", "handler.toml"]);
    assert_eq!(replaced["events"], json!(["epoch"]));
    second.json(&["handlers", "remove", "late"]);
    assert_eq!(second.json(&["handlers"]), json!([]));
    let gone = second.ctl(&["handlers", "remove", "late"]);
    assert_eq!(gone.status.code(), Some(83));
}

#[test]
fn a_handler_that_cannot_be_is_named_with_file_line_and_key() {
    let fixture = Fixture::new(1);
    for (text, part) in [
        ("kind = \"jsonl\"\n", "handlers[0]: missing field `path`"),
        ("kind = \"tape\"\n", "handlers[0].kind: \"tape\" is none of"),
        ("kind = \"log\"\nlevel = \"loud\"\n", "handlers[0].level"),
        ("kind = \"log\"\nevents = [\"stp\"]\n", "handlers[0].events"),
    ] {
        let path = fixture.path("daemon.toml");
        std::fs::write(&path, format!("[[handlers]]\nname = \"a\"\n{text}")).unwrap();
        let output = Daemon::command(&fixture)
            .arg("--config")
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(10), "{said}");
        assert!(
            said.contains("daemon.toml:") && said.contains(part),
            "{said}"
        );
    }
}

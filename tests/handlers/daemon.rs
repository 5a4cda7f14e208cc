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
    // What is told as it happens and kept nowhere has no number.
    let ids = events.iter().filter_map(|e| e["id"].as_u64());
    let ids: Vec<u64> = ids.collect();
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

    until("every line is counted", || {
        let shown = daemon.json(&["handlers"]);
        let delivered = shown[0]["counters"]["delivered"].as_u64()?;
        (delivered == heard(&path).len() as u64).then_some(())
    });
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

/// A handler of daemon.toml.
fn handler(name: &str, rest: &str) -> String {
    format!("[[handlers]]\nname = \"{name}\"\n{rest}\n\n")
}

/// behaviour: event-12, event-15, event-16
#[test]
fn handlers_that_fail_and_hang_change_nothing_of_a_run() {
    let fixture = Fixture::new(60);
    let mut text = handler(
        "history",
        "kind = \"jsonl\"\npath = \"events.jsonl\"\nevents = [\"*\"]",
    );
    for (name, command, deadline) in [
        ("fails", "[\"/bin/false\"]", 5),
        ("hangs", "[\"/bin/sleep\", \"1000\"]", 1),
        ("stalls", "[\"/bin/sleep\", \"1000\"]", 1000),
        ("is-not-there", "[\"/nowhere\"]", 5),
    ] {
        text += &handler(
            name,
            &format!(
                "kind = \"exec\"\ncommand = {command}\nevents = [\"*\"]\n\
                 deadline_seconds = {deadline}\nrestarts = 1"
            ),
        );
    }
    let daemon = daemon(&fixture, &text);
    let run = daemon.submit("run", &[]);
    daemon.reaches(run, "completed");
    fixture.events("alone", &[]);
    assert_eq!(fixture.result("run"), fixture.result("alone"));
    let history = fixture.path("state/events.jsonl");
    let failed = until("all three are told", || {
        let told = heard(&history);
        let of = |name: &str, kind: &str| {
            let of = |e: &&Value| e["kind"] == kind && e["handler"] == name;
            told.iter().find(of).cloned()
        };
        of("hangs", "handler_quarantined")?;
        of("is-not-there", "handler_quarantined")?;
        of("fails", "handler_quarantined")?;
        Some([
            of("fails", "handler_failed")?,
            of("hangs", "handler_failed")?,
            of("is-not-there", "handler_failed")?,
        ])
    });
    let parts = [
        "exit status 1",
        "did not end within 1 s",
        "cannot be started",
    ];
    for (event, part) in failed.iter().zip(parts) {
        let cause = event["cause"].as_str().unwrap();
        assert!(
            cause.contains(part) && cause.contains("handler-failed"),
            "{cause}"
        );
    }
    let shown = daemon.json(&["handlers"]);
    let shown = shown.as_array().unwrap();
    let of = |name: &str| shown.iter().find(|h| h["name"] == name).unwrap();
    assert_eq!(of("history")["state"], "running");
    assert_eq!(of("stalls")["counters"]["failed"], 0);
    assert!(of("stalls")["waiting"].as_u64().unwrap() > 60);
    let table = String::from_utf8(daemon.ctl(&["handlers"]).stdout).unwrap();
    assert!(
        table.contains("! fails is quarantined: failed: handler-failed: /bin/false"),
        "{table}"
    );
    let status = daemon.json(&["status"]);
    let down: Vec<&Value> = status["down"].as_array().unwrap().iter().collect();
    assert!(
        down.iter()
            .any(|d| d["actor"] == "handler fails" && d["state"] == "quarantined")
    );
    assert!(!down.iter().any(|d| d["actor"] == "handler history"));
    // Released, it is tried again and fails again.
    let released = daemon.ctl(&["handlers", "release", "fails"]);
    assert!(released.status.success());
    // The end of the daemon does not wait for the one that stalls, and leaves nothing of it.
    let children = |pid: u32| {
        let path = format!("/proc/{pid}/task");
        let tasks = std::fs::read_dir(path).unwrap();
        let of = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default()
        };
        let all: String = tasks.map(of).collect();
        all.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let programs = children(daemon.child.id());
    assert!(!programs.is_empty());
    let began = std::time::Instant::now();
    assert!(daemon.signal(rustix::process::Signal::TERM).success());
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    for pid in programs {
        assert!(
            !Path::new(&format!("/proc/{pid}")).exists(),
            "{pid} is left"
        );
    }
}

/// behaviour: event-16, event-17
#[test]
fn a_handler_steers_its_run_from_within_an_event() {
    let fixture = Fixture::new(400);
    let text = handler(
        "pauses",
        &format!(
            "kind = \"exec\"\nevents = [\"checkpoint_saved\"]\ncommand = [\"/bin/sh\", \"-c\", \
             'test \"$BACKPROPD_EVENT\" = checkpoint_saved && exec \"$PROGRAM\" ctl pause \"$BACKPROPD_RUN\"']\n\
             env = {{ PROGRAM = {:?} }}",
            env!("CARGO_BIN_EXE_backpropd")
        ),
    );
    let daemon = daemon(&fixture, &text);
    let run = daemon.submit("run", &[]);
    for _ in 0..2 {
        let paused = daemon.reaches(run, "paused");
        assert!(paused["step"].as_u64().unwrap() >= 5);
        let before = daemon.json(&["handlers"])[0]["counters"]["delivered"].clone();
        daemon.json(&["resume", &run.to_string()]);
        until("the next checkpoint", || {
            let now = daemon.json(&["handlers"]);
            (now[0]["counters"]["delivered"] != before).then_some(())
        });
    }
    daemon.reaches(run, "paused");
    assert_eq!(daemon.json(&["handlers"])[0]["counters"]["failed"], 0);
    daemon.json(&["abort", &run.to_string()]);
    daemon.reaches(run, "aborted");
}

/// behaviour: ui-10, ui-11, ui-12
#[test]
fn a_run_is_followed_by_programs_webhooks_tensorboard_and_prometheus() {
    let fixture = Fixture::new(10);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    std::fs::write(fixture.path("secret"), "0123456789abcdef0123456789abcdef\n").unwrap();
    let told = fixture.path("told");
    let text = [
        handler(
            "tells",
            &format!(
                "kind = \"exec\"\nevents = [\"run_*\"]\n\
                 command = [\"/bin/sh\", \"-c\", \"echo $BACKPROPD_EVENT >> {}\"]",
                told.display()
            ),
        ),
        handler(
            "hook",
            &format!(
                "kind = \"webhook\"\nevents = [\"run_completed\"]\nurl = \"{url}\"\n\
                 secret_file = {:?}\nallow_private = true",
                fixture.path("secret")
            ),
        ),
        handler(
            "board",
            "kind = \"tensorboard\"\nevents = [\"*\"]\nfolder = \"board\"",
        ),
        handler("numbers", "kind = \"prometheus\"\nevents = [\"*\"]"),
        handler("log", "kind = \"log\"\nevents = [\"*\"]"),
    ];
    let daemon = daemon(&fixture, &text.concat());
    let run = daemon.submit("run", &[]);
    let (mut stream, _) = listener.accept().unwrap();
    let mut asked = Vec::new();
    let mut buffer = [0; 4096];
    while !asked.ends_with(b"}") {
        let n = std::io::Read::read(&mut stream, &mut buffer).unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&asked));
        asked.extend_from_slice(&buffer[..n]);
    }
    std::io::Write::write_all(&mut stream, b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    let asked = String::from_utf8(asked).unwrap();
    let (head, body) = asked.split_once("\r\n\r\n").unwrap();
    assert!(
        head.to_lowercase().contains("x-backpropd-signature: t="),
        "{head}"
    );
    let posted: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&posted["kind"], &posted["run"]),
        (&json!("run_completed"), &json!(run))
    );

    let kinds = "run_queued\nrun_started\nrun_completed\n";
    until("the program was told", || {
        (std::fs::read_to_string(&told).unwrap_or_default() == kinds).then_some(())
    });
    let board = fixture.path("state/board").join(format!("run-{run}"));
    until("the curves are written", || {
        let file = std::fs::read_dir(&board).ok()?.next()?.ok()?.path();
        let bytes = std::fs::read(file).ok()?;
        let count = |tag: &str| {
            bytes
                .windows(tag.len())
                .filter(|w| *w == tag.as_bytes())
                .count()
        };
        let whole = count("hook_resid_post/l0") == 10 && count("validation/ce_recovered") >= 1;
        whole.then_some(())
    });
    let metrics = until("the end is shown", || {
        let answer = daemon.http("GET", "/metrics", "");
        answer
            .body
            .contains(&format!("backpropd_run_active{{run=\"{run}\"}} 0"))
            .then_some(answer)
    });
    assert!(metrics.head.contains("text/plain"), "{}", metrics.head);
    assert!(
        metrics
            .body
            .contains(&format!("backpropd_run_step{{run=\"{run}\"}} 10"))
    );
    assert!(
        metrics
            .body
            .contains("backpropd_handler_delivered_total{handler=\"hook\"}")
    );
}

#[test]
fn after_a_kill_of_the_daemon_a_file_still_gets_everything_that_matters() {
    let fixture = Fixture::new(400);
    let text = handler(
        "history",
        "kind = \"jsonl\"\npath = \"events.jsonl\"\nevents = [\"*\"]",
    );
    let first = daemon(&fixture, &text);
    let run = first.submit("run", &[]);
    let worker = first.trains(run, 20, None);
    first.signal(rustix::process::Signal::KILL);
    let second = daemon(&fixture, &text);
    second.trains(run, 30, Some(worker));
    second.json(&["stop", &run.to_string()]);
    second.reaches(run, "stopped");
    let path = fixture.path("state/events.jsonl");
    let all = until("the end is written", || {
        let events = heard(&path);
        events
            .iter()
            .any(|e| e["kind"] == "stopped")
            .then_some(events)
    });
    // What the store has and is not lossy, the file has: at least once.
    let watched = second.ctl(&["watch", &run.to_string(), "--json"]);
    for event in lines(&watched.stdout) {
        let lossy = event["kind"] == "step" || event["kind"] == "progress";
        assert!(lossy || all.contains(&event), "{event}");
    }
}

/// behaviour: cli-03
#[test]
fn watch_prints_an_event_a_line_with_json_and_words_without() {
    let fixture = Fixture::new(5);
    let daemon = daemon(&fixture, "");
    let run = daemon.submit("run", &[]).to_string();
    daemon.reaches(run.parse().unwrap(), "completed");
    let events = lines(&daemon.ctl(&["watch", &run, "--json"]).stdout);
    assert!(events.iter().all(|e| e["v"] == 1 && e["kind"].is_string()));
    let words = daemon.ctl(&["watch", &run]);
    let said = [&words.stdout[..], &words.stderr[..]].concat();
    assert!(String::from_utf8_lossy(&said).contains("is completed"));
}

#[test]
fn a_reload_takes_the_handlers_of_the_file_as_they_are_then() {
    let fixture = Fixture::new(3);
    let of = |name: &str, events: &str| {
        handler(
            name,
            &format!("kind = \"jsonl\"\npath = \"{name}.jsonl\"\nevents = [\"{events}\"]"),
        )
    };
    let text = [of("stays", "*"), of("goes", "*"), of("changes", "epoch")];
    let daemon = daemon(&fixture, &text.concat());
    let write = |text: &str| std::fs::write(fixture.path("daemon.toml"), text).unwrap();
    write(&handler("broken", "kind = \"jsonl\""));
    let refused = daemon.ctl(&["reload"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(10), "{said}");
    assert!(said.contains("broken") && said.contains("path"), "{said}");
    assert_eq!(daemon.json(&["handlers"]).as_array().unwrap().len(), 3);

    write(&[of("new", "*"), of("changes", "*"), of("stays", "*")].concat());
    assert!(daemon.ctl(&["reload"]).status.success());
    until("the handlers are those of the file", || {
        let shown = daemon.json(&["handlers"]);
        let shown = shown.as_array().unwrap().iter();
        let running = |h: &Value| (h["state"] == "running").then(|| h["name"].to_string());
        let names: Option<Vec<String>> = shown.map(running).collect();
        (names? == ["\"changes\"", "\"new\"", "\"stays\""]).then_some(())
    });
    let run = daemon.submit("run", &[]);
    daemon.reaches(run, "completed");
    for name in ["stays", "changes", "new"] {
        let path = fixture.path("state").join(format!("{name}.jsonl"));
        until(name, || {
            let events = heard(&path);
            events
                .iter()
                .any(|e| e["kind"] == "run_completed")
                .then_some(())
        });
    }
    assert!(
        heard(&fixture.path("state/goes.jsonl"))
            .iter()
            .all(|e| e["kind"] != "run_queued")
    );
}

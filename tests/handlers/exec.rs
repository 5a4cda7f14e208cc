//! The kind `exec` with real programs.

use super::common::daemon::Daemon;
use super::common::{Fixture, until};
use backpropd::domain::{Code, RunId};
use backpropd::handlers::{Ending, EventHandler, Host, Kinds, Metrics, Orders};
use backpropd::protocol::api::Event;
use backpropd::protocol::handlers::HandlerSpec;
use serde_json::json;
use std::time::{Duration, Instant};

/// A handler that starts `command`, with `keys` of its table besides.
fn spec(command: &[&str], deadline: f64, keys: &str) -> HandlerSpec {
    let mut spec = json!({
        "name": "x", "kind": "exec", "command": command, "deadline_seconds": deadline,
        "env": { "EXTRA": "a b" },
    });
    let keys: toml::Table = keys.parse().unwrap();
    let more = serde_json::to_value(keys).unwrap();
    spec.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    serde_json::from_value(spec).unwrap()
}

fn host(ending: &Ending) -> Host {
    Host {
        folder: "/".into(),
        socket: "/run/socket".into(),
        orders: Orders::new(|_, _, _| {}),
        metrics: Metrics::default(),
        ending: ending.clone(),
        program: env!("CARGO_BIN_EXE_backpropd").into(),
    }
}

fn program(command: &[&str], deadline: f64, keys: &str, ending: &Ending) -> Box<dyn EventHandler> {
    let make = Kinds::builtin().prepare(&spec(command, deadline, keys), &host(ending));
    make.unwrap()().unwrap()
}

fn exec(script: &str, deadline: Duration) -> Box<dyn EventHandler> {
    let command = ["/bin/sh", "-c", script];
    program(&command, deadline.as_secs_f64(), "", &Ending::default())
}

fn event(text: &str) -> Event {
    let fields = json!({ "message": text });
    Event::new(7, Some(RunId(3)), Some(1), 0, "warning", fields)
}

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_program_gets_the_event_and_an_environment_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let script = format!("{{ cat; env | sort; pwd; }} > {}", out.display());
    exec(&script, SOON).handle(&event("x")).unwrap();
    let text = std::fs::read_to_string(out).unwrap();
    let (line, env) = text.split_once('\n').unwrap();
    assert_eq!(serde_json::from_str::<Event>(line).unwrap(), event("x"));
    let env: Vec<&str> = env.lines().filter(|l| !l.starts_with("_=")).collect();
    let expected = [
        "BACKPROPD_EVENT=warning",
        "BACKPROPD_RUN=3",
        "BACKPROPD_SOCKET=/run/socket",
        "EXTRA=a b",
        "LANG=C.UTF-8",
        "PATH=/usr/local/bin:/usr/bin:/bin",
        "PWD=/",
    ];
    let others = ["OLDPWD", "SHLVL"];
    let known = |l: &&&str| !others.iter().any(|name| l.starts_with(name));
    let env: Vec<&str> = env.iter().filter(known).copied().collect();
    assert_eq!(env[..expected.len()], expected);
    assert_eq!(env[expected.len()..], ["/"]);
}

#[test]
fn nothing_of_a_program_outlives_its_deadline_or_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    for (script, deadline) in [
        (
            "sleep 600 & echo $! > F; sleep 600",
            Duration::from_millis(300),
        ),
        (
            "sleep 600 & echo $! > F; trap '' TERM; while :; do sleep 1; done",
            Duration::from_millis(300),
        ),
        ("sleep 600 & echo $! > F", SOON),
    ] {
        let script = script.replace('F', &file.display().to_string());
        let began = Instant::now();
        let result = exec(&script, deadline).handle(&event("x"));
        assert_eq!(result.is_ok(), deadline == SOON, "{result:?}");
        assert!(began.elapsed() < Duration::from_secs(5));
        let pid = std::fs::read_to_string(&file).unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        let dead = || match std::fs::read_to_string(&stat) {
            Ok(stat) => stat.rsplit_once(") ").unwrap().1.starts_with('Z'),
            Err(_) => true,
        };
        while !dead() {
            assert!(began.elapsed() < Duration::from_secs(10), "{script}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_program_does_not_outlive_the_daemon() {
    let ending = Ending::default();
    let mut exec = program(&["/bin/sleep", "600"], 600.0, "", &ending.within());
    let began = Instant::now();
    let end = std::thread::spawn(move || exec.handle(&event("x")));
    ending.set();
    assert!(end.join().unwrap().is_err());
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn how_a_program_fails_is_said_on_one_line() {
    let noisy = "yes '\x1b[31mtoo\tmuch' | head -c 1000000 >&2; echo the end >&2; exit 3";
    for (script, parts) in [
        ("exit 0 < /dev/null", &[][..]),
        (noisy, &["exit status 3", "the end"]),
        ("kill -9 $$", &["signal 9"]),
        ("exec sleep 60", &["did not end within 1 s and was killed"]),
    ] {
        let result = exec(script, Duration::from_secs(1)).handle(&event(&"x".repeat(1 << 20)));
        match result {
            Ok(()) => assert!(parts.is_empty()),
            Err(error) => {
                assert_eq!(error.code, Code::HandlerFailed);
                let said = error.to_string();
                assert!(parts.iter().all(|part| said.contains(part)), "{said}");
                assert!(
                    !said.contains(['\n', '\x1b']) && said.len() < 3000,
                    "{said}"
                );
            }
        }
    }
    let mut missing = program(&["/nowhere"], 10.0, "", &Ending::default());
    let error = missing.handle(&event("x")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("/nowhere: ended with exit status 127; its last words: cannot"),
        "{error}"
    );
}

/// What a script writes that is started with `keys`.
fn said(script: &str, keys: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let script = format!("{{ {script}; }} > {}", out.display());
    let command = ["/bin/bash", "-c", &script];
    let mut handler = program(&command, 10.0, keys, &Ending::default());
    handler.handle(&event("x")).unwrap();
    std::fs::read_to_string(out).unwrap()
}

#[test]
fn a_program_has_limits_which_its_table_may_change() {
    let limits = "for l in t v n f c; do ulimit -H -$l; done; grep NoNewPrivs /proc/self/status";
    let lines = |keys: &str| -> Vec<String> {
        let said = said(limits, keys);
        said.split_whitespace().map(str::to_owned).collect()
    };
    let kib = 1024;
    let default = [
        61.to_string(),
        (4096 * kib).to_string(),
        1024.to_string(),
        (1024 * kib).to_string(),
        0.to_string(),
        "NoNewPrivs:".to_owned(),
        1.to_string(),
    ];
    assert_eq!(lines(""), default);
    let own = "cpu_seconds = 5\nmemory_mib = 512\nopen_files = 32\nfile_mib = 3\n";
    let seen = lines(own);
    assert_eq!(seen[..4], ["6", "524288", "32", "3072"]);
    let none =
        "cpu_seconds = 0\nmemory_mib = 0\nopen_files = 0\nfile_mib = 0\nnew_privileges = true";
    let seen = lines(none);
    assert_eq!(
        (&seen[0][..], &seen[1][..], &seen[3][..]),
        ("unlimited", "unlimited", "unlimited")
    );
    assert_eq!(seen[6], "0");
}

#[test]
fn a_program_that_uses_too_much_fails_by_its_limit() {
    for (script, keys, part) in [
        ("while :; do :; done", "cpu_seconds = 1", "signal 24"),
        (
            "head -c 5000000 /dev/zero > F",
            "file_mib = 1",
            "exit status",
        ),
        (
            "x=$(head -c 300000000 /dev/zero | tr '\\0' x)",
            "memory_mib = 128",
            "exit status",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("big");
        let script = script.replace('F', &file.display().to_string());
        let command = ["/bin/bash", "-c", &script];
        let mut handler = program(&command, 60.0, keys, &Ending::default());
        let error = handler.handle(&event("x")).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        if file.exists() {
            assert_eq!(std::fs::metadata(&file).unwrap().len(), 1 << 20);
        }
    }
}

#[test]
fn limits_that_cannot_be_are_refused_by_their_key() {
    for (keys, key) in [
        ("open_files = 3", "open_files"),
        ("memory_mib = 9000000000000000", "memory_mib"),
        ("cpu_seconds = -1", "cpu_seconds"),
    ] {
        let spec = spec(&["/bin/true"], 1.0, keys);
        let error = Kinds::builtin().prepare(&spec, &host(&Ending::default()));
        let error = error.err().unwrap();
        assert_eq!(error.code, Code::ConfigInvalid);
        assert!(error.about.ends_with(key), "{error}");
    }
}

#[test]
fn what_a_handler_has_started_ends_with_it() {
    let fixture = Fixture::new(400);
    let file = fixture.path("daemon.toml");
    let pid = fixture.path("pid");
    let handler = |deadline: u32| {
        format!(
            "[[handlers]]\nname = \"x\"\nkind = \"exec\"\nevents = [\"run_*\"]\n\
             deadline_seconds = {deadline}\ncommand = [\"/bin/sh\", \"-c\", \
             \"sleep 3600 & echo $! > {}; wait\"]\n",
            pid.display()
        )
    };
    std::fs::write(&file, handler(3000)).unwrap();
    let daemon = Daemon::start_config(&fixture, &file);
    daemon.submit("run", &[]);
    let started = || {
        let pid = std::fs::read_to_string(&pid).ok()?;
        let pid = pid.trim().parse().ok()?;
        (!is_gone(pid)).then_some(pid)
    };
    // One that is replaced begins anew with the same event.
    let first = until("the program runs", started);
    std::fs::write(&file, handler(2999)).unwrap();
    daemon.json(&["reload"]);
    let second = until("it runs again", || started().filter(|pid| *pid != first));
    assert!(is_gone(first));
    std::fs::write(&file, "").unwrap();
    daemon.json(&["reload"]);
    until("it is ended", || is_gone(second).then_some(()));
    assert_eq!(daemon.json(&["handlers"]), json!([]));
}

/// Whether a process is there no more, but for its number.
fn is_gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

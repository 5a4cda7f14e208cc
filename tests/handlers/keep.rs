//! What outlives a daemon, and what can be changed while it runs.

use crate::bus::{Bus, record, spec};
use crate::common::until;
use backpropd::actors::handlers::{AddHandler, Configured, RemoveHandler, ReplaceHandler};
use backpropd::domain::Code;
use backpropd::protocol::handlers::HandlerSource;
use backpropd::store::{NewRun, Store};
use serde_json::json;

#[test]
fn what_matters_and_happens_while_nobody_listens_is_heard_later_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let specs = [record("a", &["*"])];
    let bus = Bus::start(dir.path(), &specs);
    bus.say(None, "warning");
    bus.recorder.wait("a", "warning", 1);
    bus.stop();
    let (mut store, _) = Store::open(dir.path(), 0).unwrap();
    let said = store.write(|tx| {
        let run = tx.submit(&NewRun::new("a", ""), None, 0)?.run;
        for kind in ["run_started", "step", "run_completed"] {
            tx.append(Some(run), kind, &json!({}), 0)?;
        }
        Ok(())
    });
    said.unwrap();
    drop(store);
    let bus = Bus::start(dir.path(), &specs);
    bus.say(None, "epoch");
    bus.recorder.wait("a", "epoch", 1);
    bus.recorder
        .assert_order("a", &["run_started", "run_completed", "epoch"]);
    bus.stop();
    let bus = Bus::start(dir.path(), &specs);
    bus.say(None, "warning");
    bus.recorder.wait("a", "warning", 1);
    bus.recorder.assert_order("a", &["warning"]);
}

/// behaviour: event-05, gpu-03
#[test]
fn handlers_are_added_replaced_and_removed_while_events_come_and_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let file = [record("file", &["epoch"])];
    let bus = Bus::start(dir.path(), &file);
    bus.tell(AddHandler(spec(&record("more", &["epoch"]))))
        .unwrap();
    bus.reaches("more", "running");
    bus.say(None, "epoch");
    bus.recorder.wait("more", "epoch", 1);

    let refused = |result: backpropd::domain::Result<()>| result.unwrap_err().code;
    let again = bus.tell(AddHandler(spec(&record("more", &[]))));
    assert_eq!(refused(again), Code::HandlerExists);
    for (bad, key) in [
        (
            json!({ "name": "x", "kind": "jsonl", "events": [] }),
            "path",
        ),
        (
            json!({ "name": "x", "kind": "jsonl", "path": "a", "paths": "b" }),
            "paths",
        ),
        (json!({ "name": "x", "kind": "tape" }), "kind"),
        (
            json!({ "name": "x", "kind": "log", "events": ["steps"] }),
            "events",
        ),
        (json!({ "name": "x y", "kind": "log" }), "name"),
        (json!({ "name": "x", "kind": "log", "queue": 0 }), "queue"),
    ] {
        let error = bus.tell(AddHandler(spec(&bad))).unwrap_err();
        assert_eq!(error.code, Code::ConfigInvalid);
        assert!(error.to_string().contains(key), "{error}");
    }
    let of_file = bus.tell(RemoveHandler("file".into()));
    assert_eq!(refused(of_file), Code::NotPossible);
    assert_eq!(refused(bus.tell(RemoveHandler("x".into()))), Code::NotFound);

    bus.tell(ReplaceHandler(spec(&record("more", &["warning"]))))
        .unwrap();
    bus.say(None, "epoch");
    bus.say(None, "warning");
    bus.recorder.wait("more", "warning", 1);
    bus.recorder.wait("file", "epoch", 2);
    assert_eq!(
        bus.recorder.of("more", "epoch").len(),
        1,
        "the new set is used"
    );
    bus.stop();

    let bus = Bus::start(dir.path(), &file);
    let source = |name| bus.view(name).source;
    assert_eq!(
        (source("file"), source("more")),
        (HandlerSource::File, HandlerSource::Added)
    );
    assert_eq!(bus.view("more").spec.events, ["warning"]);
    // As a reload does: one of the file ends, another begins, the added one stays.
    bus.tell(Configured(vec![spec(&record("new", &["epoch"]))]));
    bus.reaches("new", "running");
    bus.say(None, "epoch");
    let heard = bus.recorder.wait("new", "epoch", 1);
    assert_eq!(heard.len(), 1, "not what was before it");
    // One that differs takes the place of the other, and not a place beside it.
    bus.tell(Configured(vec![spec(&record("new", &["warning"]))]));
    until("it is replaced", || {
        let views = bus.views().into_iter();
        let mut new = views.filter(|view| view.spec.events == ["warning"]);
        new.find(|view| view.spec.name == "new" && view.state == "running")
    });
    bus.say(None, "warning");
    bus.recorder.wait("new", "warning", 1);
    assert_eq!(bus.recorder.of("file", "epoch").len(), 0);
    bus.tell(RemoveHandler("more".into())).unwrap();
    bus.say(None, "warning");
    let recorder = bus.recorder.clone();
    bus.stop();
    assert_eq!(recorder.of("new", "warning").len(), 2, "each once");
    let bus = Bus::start(dir.path(), &[]);
    assert!(bus.views().is_empty());
}

#[test]
fn a_handler_that_was_out_of_the_file_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let specs = [record("a", &["*"])];
    Bus::start(dir.path(), &specs).stop();
    let bus = Bus::start(dir.path(), &[]);
    bus.say(None, "warning");
    bus.stop();
    let bus = Bus::start(dir.path(), &specs);
    bus.say(None, "epoch");
    bus.recorder.wait("a", "epoch", 1);
    bus.recorder.assert_order("a", &["epoch"]);
}

#[test]
fn of_two_handlers_of_one_name_that_of_the_file_runs() {
    let dir = tempfile::tempdir().unwrap();
    let bus = Bus::start(dir.path(), &[]);
    bus.tell(AddHandler(spec(&record("a", &["*"])))).unwrap();
    bus.stop();
    let bus = Bus::start(dir.path(), &[record("a", &["epoch"])]);
    for kind in ["warning", "epoch"] {
        bus.say(None, kind);
    }
    bus.recorder.wait("a", "epoch", 1);
    assert_eq!(bus.view("a").source, HandlerSource::File);
    let recorder = bus.recorder.clone();
    bus.stop();
    recorder.assert_order("a", &["epoch"]);
}

/// Who stays down has not heard it; the next daemon, or what takes its place, begins there.
#[test]
fn what_a_handler_did_not_get_done_waits_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let errs = |name: &str| {
        json!({
            "name": name, "kind": "bad", "events": ["epoch"], "how": "error", "on": "*",
            "restarts": 0,
        })
    };
    let bus = Bus::start(dir.path(), &[errs("file")]);
    bus.tell(AddHandler(spec(&errs("more")))).unwrap();
    for _ in 0..3 {
        bus.say(None, "epoch");
    }
    for name in ["file", "more"] {
        bus.reaches(name, "quarantined");
    }
    bus.tell(ReplaceHandler(spec(&record("more", &["epoch"]))))
        .unwrap();
    bus.recorder.wait("more", "epoch", 3);
    bus.stop();
    let bus = Bus::start(dir.path(), &[record("file", &["epoch"])]);
    bus.say(None, "epoch");
    bus.recorder.wait("file", "epoch", 4);
    bus.recorder.assert_order("file", &["epoch"; 4]);
    assert_eq!(bus.recorder.wait("more", "epoch", 1).len(), 1);
}

/// The bus is held up while more happens than the live stream has room for.
#[test]
fn what_the_bus_was_too_late_for_is_read_from_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let bus = Bus::start(dir.path(), &[record("a", &["epoch"])]);
    let wall = AddHandler(spec(&json!({ "name": "wall", "kind": "wall" })));
    bus.handlers.try_send(wall).unwrap();
    bus.say_all(None, "epoch", vec![json!({}); 20_000]);
    bus.free();
    until("all is heard", || {
        (bus.view("a").counters.delivered == 20_000).then_some(())
    });
    bus.recorder.assert_order("a", &["epoch"; 20_000]);
}

#[test]
fn who_may_write_to_the_socket_may_not_do_all_that_the_host_may() {
    let dir = tempfile::tempdir().unwrap();
    let bus = Bus::start(dir.path(), &[]);
    let exec = json!({ "name": "x", "kind": "exec", "command": ["/bin/true"] });
    let private = json!({
        "name": "x", "kind": "webhook", "url": "http://127.0.0.1:9/", "allow_private": true,
    });
    for (added, key) in [
        (exec, "exec_over_control"),
        (private, "private_over_control"),
    ] {
        for error in [
            bus.tell(AddHandler(spec(&added))).unwrap_err(),
            bus.tell(ReplaceHandler(spec(&added))).unwrap_err(),
        ] {
            assert_eq!(error.code, Code::NotPossible);
            assert!(error.to_string().contains(key), "{error}");
        }
    }
    assert!(bus.views().is_empty());
}

/// What was durable when the end was asked for is heard before it, though it comes behind much
/// that is not for the handler.
#[test]
fn the_end_waits_for_what_is_on_its_way() {
    let dir = tempfile::tempdir().unwrap();
    let specs = [record("a", &["epoch"])];
    for round in 1..=10 {
        let bus = Bus::start(dir.path(), &specs);
        let recorder = bus.recorder.clone();
        let mut said = vec![("warning".to_owned(), json!({})); 4000];
        said.push(("epoch".to_owned(), json!({})));
        bus.say_each(said);
        bus.stop();
        assert_eq!(recorder.of("a", "epoch").len(), 1, "round {round}");
    }
}

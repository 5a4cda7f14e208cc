//! An ordered end, and what a snapshot says.

use crate::probe::*;
use backpropd::supervise::{
    AddChild, Cause, Child, ChildSnapshot, GetChildren, Supervisor, TreeError,
};

#[test]
fn children_stop_last_first_each_within_its_grace() {
    virtually(async {
        let log = Log::default();
        let (listener, heard) = notices();
        let mut tree = Supervisor::new("tree").on_notice(listener);
        let mut add = |name: &'static str, lingers: u64| {
            let log = log.clone();
            let make = move || Probe::logging(name, &log).lingering(ms(lingers));
            tree.add(Child::new(name, make).grace(ms(1_000)))
        };
        let first = add("first", 0);
        let slow = add("slow", 900);
        let stuck = add("stuck", 1_000_000);
        let last = add("last", 0);
        let tree = tree.start().await.unwrap();
        assert_eq!(last.send(Serve).await, Ok(1));
        log.take();
        let start = tokio::time::Instant::now();
        let late = AddChild::new(child("late"));
        let (closed, refused) = tokio::join!(tree.shut_down(), tree.send(late));
        assert_eq!(closed, Ok(()));
        let name = "late".to_owned();
        assert_eq!(refused, Ok(Err(TreeError::Closing { name })));
        let took = start.elapsed();
        assert!((ms(1_900)..ms(1_950)).contains(&took), "{took:?}");
        assert_eq!(
            log.take(),
            [
                "last stopping",
                "last dropped",
                "stuck stopping",
                "stuck dropped",
                "slow stopping",
                "slow stopping",
                "slow dropped",
                "first stopping",
                "first dropped",
            ]
        );
        assert_eq!(heard.take(), ["stuck 1 failed, again in None"]);
        for gone in [first, slow, stuck, last] {
            gone.gone().await;
            assert_eq!(gone.send(Serve).await.unwrap_err().code(), "actor-stopped");
        }
        assert_eq!(
            tree.send(GetChildren).await.unwrap_err().code(),
            "actor-down"
        );
        assert_eq!(tree.shut_down().await.unwrap_err().code(), "actor-down");
    });
}

#[test]
fn a_nested_supervisor_stops_its_children_before_itself() {
    virtually(async {
        let log = Log::default();
        let seen = log.clone();
        let leaf = Child::new("leaf", move || Probe::logging("leaf", &seen));
        let handle = leaf.handle();
        let seen = log.clone();
        let mut root = Supervisor::new("root");
        root.add(Child::new("before", move || {
            Probe::logging("before", &seen)
        }));
        root.add(Child::new("branch", move || {
            let mut branch = Supervisor::new("branch");
            branch.add(leaf.clone());
            branch
        }));
        let root = root.start().await.unwrap();
        handle.up().await.unwrap();
        handle.send(Serve).await.unwrap();
        log.take();
        root.shut_down().await.unwrap();
        assert_eq!(
            log.take(),
            [
                "leaf stopping",
                "leaf dropped",
                "before stopping",
                "before dropped"
            ]
        );
    });
}

#[test]
fn a_snapshot_keeps_its_form_as_json() {
    virtually(async {
        let mut tree = Supervisor::new("tree");
        let probe = tree.add(child("probe").mailbox(8).progress_within(ms(2_000)));
        let tree = tree.start().await.unwrap();
        probe.send(Fail("no disk")).await.unwrap();
        probe.up().await.unwrap();
        let mut seen = until(&tree, "probe", |c| c.generation == 2 && c.is_well()).await;
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        assert!(now.as_millis().abs_diff(u128::from(seen.since_unix_ms)) < 60_000);
        assert!(seen.stands_ms < 60_000);
        (seen.since_unix_ms, seen.stands_ms) = (7, 8);
        let json = serde_json::to_value(&seen).unwrap();
        let expected = serde_json::json!({
            "name": "probe", "state": "running", "since_unix_ms": 7, "stands_ms": 8,
            "generation": 2, "restarts": 1,
            "last_cause": {"cause": "failed", "message": "no disk"},
            "first_cause": {"cause": "failed", "message": "no disk"},
            "mailbox_depth": 0, "mailbox_bound": 8, "messages_lost": 0,
            "progress": 0, "stalled_ms": 0, "stall_limit_ms": 2_000, "abandoned": 0
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<ChildSnapshot>(json).unwrap(), seen);
        let cause = Cause::Hung {
            stalled_ms: 5,
            blocking: true,
        };
        let text = serde_json::to_string(&cause).unwrap();
        assert_eq!(text, r#"{"cause":"hung","stalled_ms":5,"blocking":true}"#);
    });
}

//! Who is restarted, when, and who decides once that was too often.

use crate::probe::*;
use backpropd::supervise::{
    AddChild, Backoff, CallError, Cause, Child, ChildState, ReleaseChild, RemoveChild, Restart,
    Spent, Strategy, Supervisor, TreeError,
};

#[test]
fn a_child_that_fails_too_often_is_quarantined_until_it_is_released() {
    virtually(async {
        let (listener, heard) = notices();
        let mut tree = Supervisor::new("tree").on_notice(listener);
        let bad = tree.add(child("bad").intensity(1, ms(60_000)));
        let good = tree.add(child("good"));
        let tree = tree.start().await.unwrap();
        bad.send(Fail("first")).await.unwrap();
        assert_eq!(until(&tree, "bad", |c| c.generation == 2).await.restarts, 1);
        bad.send(Fail("second")).await.unwrap();
        let end = until(&tree, "bad", |c| c.state == ChildState::Quarantined).await;
        let failed = |message: &str| Cause::Failed {
            message: message.to_owned(),
        };
        assert_eq!(end.first_cause, Some(failed("first")));
        assert_eq!(end.last_cause, Some(failed("second")));
        assert!(!end.is_well());
        assert_eq!(
            heard.take(),
            [
                "bad 1 failed, again in Some(0)",
                "bad 2 restarted",
                "bad 2 failed, again in None",
                "bad quarantined"
            ]
        );

        let refused = CallError::Quarantined {
            child: "bad".into(),
            first: failed("first"),
        };
        assert_eq!(bad.send(Serve).await, Err(refused.clone()));
        assert_eq!(bad.try_send(Serve), Err(refused.clone()));
        assert_eq!(bad.up().await, Err(refused));
        assert_eq!(good.send(Serve).await, Ok(1));

        let release = |name: &str| ReleaseChild {
            name: name.to_owned(),
        };
        assert_eq!(tree.send(release("bad")).await, Ok(Ok(())));
        assert_eq!(bad.send(Serve).await, Ok(1));
        assert_eq!(tree.send(release("bad")).await, Ok(Ok(())), "idempotent");
        assert_eq!(bad.send(Serve).await, Ok(2));
        let error = tree.send(release("ugly")).await.unwrap().unwrap_err();
        assert!(error.to_string().contains("ugly"));
    });
}

#[test]
fn while_a_child_backs_off_its_peers_hear_why_and_the_wait_is_kept() {
    virtually(async {
        let backoff = Backoff {
            first: ms(1_000),
            max: ms(60_000),
            jitter: 0.0,
        };
        let mut tree = Supervisor::new("tree");
        let probe = tree.add(child("probe").backoff(backoff));
        let tree = tree.start().await.unwrap();
        let start = tokio::time::Instant::now();
        for (generation, waited) in [(2, 0), (3, 1_000), (4, 3_000)] {
            probe.send(Fail("again")).await.unwrap();
            if generation > 2 {
                let down = until(&tree, "probe", |c| c.state != ChildState::Running).await;
                assert!(
                    matches!(down.state, ChildState::BackingOff { remaining_ms } if remaining_ms > 0)
                );
                let error = probe.send(Serve).await.unwrap_err();
                assert!(
                    error.to_string().contains("is down: failed: again"),
                    "{error}"
                );
            }
            assert_eq!(
                until(&tree, "probe", |c| c.state == ChildState::Running
                    && c.generation == generation)
                .await
                .restarts,
                generation - 1
            );
            let elapsed = start.elapsed();
            assert!(
                elapsed >= ms(waited) && elapsed < ms(waited + 100),
                "{elapsed:?}"
            );
        }
    });
}

#[test]
fn a_chain_falls_from_the_failing_link_on_and_rises_in_order() {
    virtually(async {
        let log = Log::default();
        let mut tree = Supervisor::new("chain").strategy(Strategy::RestForOne);
        let link = |name: &'static str| {
            let log = log.clone();
            Child::new(name, move || Probe::logging(name, &log)).restart(Restart::Transient)
        };
        let model = tree.add(link("model"));
        let data = tree.add(link("data"));
        let trainer = tree.add(link("trainer"));
        let tree = tree.start().await.unwrap();
        until(&tree, "trainer", |c| c.state == ChildState::Running).await;
        assert_eq!(log.take(), ["model 1 up", "data 1 up", "trainer 1 up"]);
        for link in [&model, &data, &trainer] {
            link.send(Serve).await.unwrap();
        }

        data.send(Fail("lost")).await.unwrap();
        until(&tree, "trainer", |c| {
            c.generation == 2 && c.state == ChildState::Running
        })
        .await;
        assert_eq!(
            log.take(),
            [
                "data stopping",
                "data dropped",
                "trainer stopping",
                "trainer dropped",
                "data 2 up",
                "trainer 2 up"
            ]
        );
        assert_eq!(model.send(Serve).await, Ok(2));
        assert_eq!(trainer.send(Serve).await, Ok(1));
        let casualty = snapshot(&tree, "trainer").await;
        assert_eq!((casualty.first_cause, casualty.restarts), (None, 1));

        // A link that is done takes nobody along.
        data.send(Stop).await.unwrap();
        until(&tree, "data", |c| c.state == ChildState::Stopped).await;
        assert_eq!(trainer.send(Serve).await, Ok(2));
        assert_eq!(data.send(Serve).await.unwrap_err().code(), "actor-stopped");
    });
}

#[test]
fn an_escalation_reaches_the_parent_which_builds_the_branch_anew() {
    virtually(async {
        let leaf = child("leaf").intensity(1, ms(60_000));
        let twin = child("twin");
        let (leaf_ref, twin_ref) = (leaf.handle(), twin.handle());
        let mut root = Supervisor::new("root");
        root.add(Child::new("branch", move || {
            let mut branch = Supervisor::new("branch").spent(Spent::Escalate);
            branch.add(leaf.clone());
            branch.add(twin.clone());
            branch
        }));
        let root = root.start().await.unwrap();
        leaf_ref.up().await.unwrap();
        assert_eq!(twin_ref.send(Serve).await, Ok(1));
        leaf_ref.send(Fail("root of all evil")).await.unwrap();
        while leaf_ref.up().await != Ok(2) {
            tokio::task::yield_now().await;
        }
        leaf_ref.send(Fail("the last straw")).await.unwrap();

        let branch = until(&root, "branch", |c| {
            c.generation == 2 && c.state == ChildState::Running
        })
        .await;
        let cause = branch.last_cause.unwrap().to_string();
        assert_eq!(
            cause,
            "its child leaf failed too often, first: failed: root of all evil"
        );
        // The same handles, other instances; generations go on counting.
        leaf_ref.up().await.unwrap();
        assert_eq!(leaf_ref.send(Serve).await, Ok(1));
        assert_eq!(leaf_ref.up().await, Ok(3));
        assert_eq!(twin_ref.send(Serve).await, Ok(1));
        root.shut_down().await.unwrap();
        leaf_ref.gone().await;
    });
}

#[test]
fn at_the_root_an_escalation_ends_the_tree_and_whoever_waits_for_that_hears_why() {
    virtually(async {
        let mut root = Supervisor::new("root").spent(Spent::Escalate);
        let bad = root.add(child("bad").intensity(0, ms(60_000)));
        let good = root.add(child("good"));
        let root = root.start().await.unwrap();
        let (ended, failed) = tokio::join!(root.ended(), bad.send(Fail("no disk")));
        assert_eq!(failed, Ok(()));
        let cause = "its child bad failed too often, first: failed: no disk";
        assert_eq!(ended.to_string(), cause);
        assert_eq!(root.ended().await, ended);
        assert_eq!(good.send(Serve).await.unwrap_err().code(), "actor-stopped");
        let error = root.shut_down().await.unwrap_err();
        assert!(error.to_string().contains(cause), "{error}");
    });
}

#[test]
fn a_listener_that_panics_cannot_hurt_its_supervisor() {
    virtually(async {
        let mut tree = Supervisor::new("tree").on_notice(|_| panic!("listener boom"));
        let probe = tree.add(child("probe"));
        let tree = tree.start().await.unwrap();
        probe.send(Fail("heard by a bad listener")).await.unwrap();
        until(&tree, "probe", |c| c.generation == 2).await;
        assert_eq!(probe.send(Serve).await, Ok(1));
    });
}

#[test]
fn a_supervisor_that_is_cut_off_leaves_no_orphans() {
    virtually(async {
        let log = Log::default();
        let seen = log.clone();
        let leaf = Child::new("leaf", move || {
            Probe::logging("leaf", &seen).lingering(ms(1_000_000))
        });
        let leaf = leaf.grace(ms(1_000_000));
        let handle = leaf.handle();
        let branch = move || {
            let mut branch = Supervisor::new("branch");
            branch.add(leaf.clone());
            branch
        };
        let mut root = Supervisor::new("root");
        root.add(Child::new("branch", branch).grace(ms(100)));
        let root = root.start().await.unwrap();
        handle.up().await.unwrap();
        let waiting = handle.send(Later(ms(1_000_000)));
        let (answer, closed) = tokio::join!(waiting, root.shut_down());
        assert_eq!(closed, Ok(()));
        match answer.unwrap_err() {
            CallError::Down { cause, .. } => assert_eq!(cause, Some(Cause::Orphaned)),
            other => panic!("{other:?}"),
        }
        tokio::task::yield_now().await;
        assert_eq!(log.take(), ["leaf 1 up", "leaf stopping", "leaf dropped"]);
    });
}

#[test]
fn children_come_and_go_while_the_tree_runs() {
    virtually(async {
        let tree = Supervisor::new("tree").start().await.unwrap();
        let first = child("probe");
        let old = first.handle();
        assert_eq!(tree.send(AddChild::new(first)).await, Ok(Ok(())));
        assert_eq!(old.send(Serve).await, Ok(1));
        let again = child("probe");
        let new = again.handle();
        let duplicate = TreeError::DuplicateChild {
            name: "probe".to_owned(),
        };
        assert_eq!(
            tree.send(AddChild::new(again.clone())).await,
            Ok(Err(duplicate))
        );
        assert_eq!(new.send(Serve).await.unwrap_err().code(), "actor-down");

        let name = "probe".to_owned();
        assert_eq!(
            tree.send(RemoveChild { name: name.clone() }).await,
            Ok(Ok(()))
        );
        old.gone().await;
        assert_eq!(old.send(Serve).await.unwrap_err().code(), "actor-stopped");
        assert!(children(&tree).await.is_empty());
        let unknown = TreeError::UnknownChild { name: name.clone() };
        assert_eq!(tree.send(RemoveChild { name }).await, Ok(Err(unknown)));
        assert_eq!(tree.send(AddChild::new(again)).await, Ok(Ok(())));
        assert_eq!(new.send(Serve).await, Ok(1));
    });
}

#[test]
fn a_child_that_is_removed_before_it_ran_is_never_made() {
    virtually(async {
        let tree = Supervisor::new("tree").start().await.unwrap();
        let log = Log::default();
        let seen = log.clone();
        let probe = Child::new("probe", move || Probe::logging("probe", &seen));
        let handle = probe.handle();
        let name = "probe".to_owned();
        let (added, removed) = tokio::join!(
            tree.send(AddChild::new(probe)),
            tree.send(RemoveChild { name })
        );
        assert_eq!((added, removed), (Ok(Ok(())), Ok(Ok(()))));
        handle.gone().await;
        assert!(log.take().is_empty());
    });
}

#[test]
fn two_children_of_one_name_are_refused_by_name() {
    virtually(async {
        let mut tree = Supervisor::new("tree");
        tree.add(child("twin"));
        tree.add(child("twin"));
        let error = tree.start().await.unwrap_err();
        assert!(
            error.to_string().contains("two children are called twin"),
            "{error}"
        );
    });
}

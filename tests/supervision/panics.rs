//! A panic anywhere in an actor: who hears what, and what stays.

use crate::probe::*;
use actix::prelude::*;
use backpropd::supervise::{CallError, Cause, Child, ChildState, Context, Supervisor};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

#[test]
fn a_panic_in_any_place_reaches_its_sender_and_costs_one_generation() {
    for boom in BOOMS {
        virtually(async move {
            let mut tree = Supervisor::new("tree");
            let (probe, sibling) = (tree.add(child("probe")), tree.add(child("sibling")));
            let tree = tree.start().await.unwrap();
            assert_eq!(probe.send(Serve).await, Ok(1));
            assert_eq!(sibling.send(Serve).await, Ok(1));

            match probe.send(boom).await.unwrap_err() {
                CallError::Panicked {
                    child,
                    generation: 1,
                    panicked,
                } => {
                    assert_eq!((&*child, panicked.message.as_str()), ("probe", "boom"));
                    let place = panicked.location.unwrap();
                    assert!(place.contains("probe.rs:"), "{boom:?}: {place}");
                }
                other => panic!("{boom:?}: {other:?}"),
            }
            assert_eq!(probe.up().await, Ok(2), "{boom:?}");
            assert_eq!(probe.send(Serve).await, Ok(1), "a fresh instance");
            assert_eq!(
                sibling.send(Serve).await,
                Ok(2),
                "the sibling knows nothing of it"
            );
            let probe = snapshot(&tree, "probe").await;
            assert_eq!((probe.generation, probe.restarts), (2, 1));
            assert_eq!(probe.state, ChildState::Running);
            assert_eq!(probe.first_cause, probe.last_cause);
            assert!(matches!(probe.last_cause, Some(Cause::Panicked(_))));
        });
    }
}

#[test]
fn whoever_waited_behind_a_panic_gets_a_typed_error_and_no_silence() {
    virtually(async {
        let mut tree = Supervisor::new("tree");
        let probe = tree.add(child("probe"));
        let tree = tree.start().await.unwrap();
        let in_flight = probe.send(Later(ms(50)));
        let culprit = probe.send(Boom::Handler);
        let queued = probe.send(Serve);
        let (in_flight, culprit, queued) = tokio::join!(in_flight, culprit, queued);
        assert_eq!(culprit.unwrap_err().code(), "actor-panicked");
        for victim in [in_flight, queued] {
            match victim.unwrap_err() {
                CallError::Down {
                    generation: 1,
                    cause: Some(Cause::Panicked(panicked)),
                    ..
                } => assert_eq!(panicked.message, "boom"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(probe.up().await, Ok(2));
        assert_eq!(snapshot(&tree, "probe").await.messages_lost, 3);
    });
}

#[test]
fn a_detached_future_that_panics_costs_its_sender_the_answer_and_nothing_else() {
    virtually(async {
        let mut tree = Supervisor::new("tree");
        let probe = tree.add(child("probe"));
        let _tree = tree.start().await.unwrap();
        assert_eq!(probe.send(Serve).await, Ok(1));
        let error = probe.send(BoomDetached).await.unwrap_err();
        assert_eq!(error.code(), "actor-unanswered");
        assert_eq!(probe.send(Serve).await, Ok(2), "the same instance");
    });
}

#[test]
fn a_torn_actor_never_runs_again_even_when_all_its_ends_panic() {
    virtually(async {
        let log = Log::default();
        let seen = log.clone();
        let bad = Child::new("bad", move || Probe::logging("bad", &seen).with_bad_ends());
        let mut tree = Supervisor::new("tree");
        let bad = tree.add(bad);
        let tree = tree.start().await.unwrap();
        let (boom, queued) = tokio::join!(bad.send(Boom::Handler), bad.send(Serve));
        assert_eq!(boom.unwrap_err().code(), "actor-panicked");
        assert_eq!(queued.unwrap_err().code(), "actor-down");
        bad.up().await.unwrap();
        assert_eq!(bad.send(Serve).await, Ok(1));
        assert_eq!(
            log.take(),
            ["bad 1 up", "bad dropped", "bad 2 up"],
            "no `stopping`"
        );

        // Its `stopping` runs when it stops in order, and may panic too.
        assert_eq!(bad.send(Stop).await, Ok(()));
        let after = until(&tree, "bad", |bad| bad.generation == 3).await;
        match after.last_cause {
            Some(Cause::Panicked(panicked)) => assert_eq!(panicked.message, "stopping boom"),
            other => panic!("{other:?}"),
        }
        tree.shut_down().await.unwrap();
    });
}

/// Fails in the way that its number of the start says.
struct Stubborn {
    start: u32,
}

impl Actor for Stubborn {
    type Context = Context<Self>;
    fn started(&mut self, ctx: &mut Context<Self>) {
        match self.start {
            2 => panic!("started boom"),
            3 => ctx.fail("no such disk"),
            _ => {}
        }
    }
}

#[derive(Message)]
#[rtype(result = "u32")]
struct WhichStart;

impl Handler<WhichStart> for Stubborn {
    type Result = u32;
    fn handle(&mut self, _: WhichStart, _: &mut Context<Self>) -> u32 {
        self.start
    }
}

#[test]
fn a_start_that_panics_or_fails_is_tried_again_and_its_first_cause_kept() {
    virtually(async {
        let starts = Arc::new(AtomicU32::new(0));
        let count = starts.clone();
        let stubborn = Child::new("stubborn", move || match count.fetch_add(1, SeqCst) + 1 {
            1 => panic!("factory boom"),
            start => Stubborn { start },
        });
        let mut tree = Supervisor::new("tree");
        let stubborn = tree.add(stubborn);
        let tree = tree.start().await.unwrap();
        let up = until(&tree, "stubborn", |child| {
            child.state == ChildState::Running
        })
        .await;
        assert_eq!((up.generation, up.restarts, starts.load(SeqCst)), (4, 3, 4));
        assert!(
            up.first_cause
                .unwrap()
                .to_string()
                .starts_with("panicked: factory boom at ")
        );
        assert_eq!(up.last_cause.unwrap().to_string(), "failed: no such disk");
        assert_eq!(stubborn.send(WhichStart).await, Ok(4));
    });
}

/// Stops before it has begun.
struct Quitter(Arc<AtomicU32>);

impl Actor for Quitter {
    type Context = Context<Self>;
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.0.fetch_add(1, SeqCst);
        ctx.stop();
    }
}

#[test]
fn a_stop_in_started_is_no_storm() {
    virtually(async {
        let starts = Arc::new(AtomicU32::new(0));
        let count = starts.clone();
        let quitter = Child::new("quitter", move || Quitter(count.clone()));
        let mut tree = Supervisor::new("tree");
        tree.add(quitter.intensity(7, ms(60_000)));
        let tree = tree.start().await.unwrap();
        let end = until(&tree, "quitter", |c| c.state == ChildState::Quarantined).await;
        assert_eq!((starts.load(SeqCst), end.restarts), (8, 7));
        assert_eq!(end.first_cause, Some(Cause::Stopped));
    });
}

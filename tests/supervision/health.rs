//! A child that gets nowhere is found, replaced and ignored.

use crate::probe::*;
use actix::clock::sleep;
use actix::prelude::*;
use backpropd::supervise::{CallError, Cause, Child, ChildState, Context, Pulse, Supervisor};
use std::sync::mpsc;
use tokio::sync::oneshot;

fn is_hung(error: CallError, was_blocking: bool) {
    match error {
        CallError::Down {
            cause: Some(Cause::Hung { blocking, .. }),
            ..
        } => assert_eq!(blocking, was_blocking),
        other => panic!("{other:?}"),
    }
}

/// A message that blocks, how to end it, and how to know that it began.
fn block() -> (mpsc::Sender<()>, oneshot::Receiver<()>, Block) {
    let (unblock, until) = mpsc::channel();
    let (holding, began) = oneshot::channel();
    (unblock, began, Block { holding, until })
}

#[test]
fn a_child_that_waits_for_ever_is_replaced_within_its_limit_and_its_late_word_ignored() {
    virtually(async {
        let log = Log::default();
        let seen = log.clone();
        let probe = Child::new("probe", move || Probe::logging("probe", &seen));
        let mut tree = Supervisor::new("tree").check_every(ms(100));
        let probe = tree.add(probe.progress_within(ms(1_000)));
        let patient = tree.add(child("patient"));
        let tree = tree.start().await.unwrap();
        let start = tokio::time::Instant::now();
        // Longer than the limit: one is watched, the other is not.
        let (hung, waited) = tokio::join!(probe.send(Later(ms(5_000))), async {
            let answer = patient.send(Later(ms(5_000)));
            (answer.await, start.elapsed())
        });
        is_hung(hung.unwrap_err(), false);
        assert_eq!(waited.0, Ok(1));
        assert!(waited.1 >= ms(5_000));
        assert_eq!(probe.send(Serve).await, Ok(1));
        let after = snapshot(&tree, "probe").await;
        assert_eq!((after.generation, after.abandoned), (2, 0));
        match after.last_cause {
            Some(Cause::Hung { stalled_ms, .. }) => assert!((1_000..=1_100).contains(&stalled_ms)),
            other => panic!("{other:?}"),
        }
        sleep(ms(10_000)).await;
        let mut lines = log.take();
        lines.sort();
        assert_eq!(
            lines,
            ["probe 1 up", "probe 2 up", "probe dropped"],
            "no late word"
        );
        assert_eq!(
            snapshot(&tree, "probe").await.generation,
            2,
            "idleness is no hang"
        );
    });
}

/// Works for longer than its limit, and says that it gets on.
struct Marathon;

impl Actor for Marathon {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "u64")]
struct Run {
    steps: u64,
    ticking: bool,
}

impl Handler<Run> for Marathon {
    type Result = ResponseActFuture<Self, u64>;
    fn handle(&mut self, run: Run, ctx: &mut Context<Self>) -> Self::Result {
        let pulse: Pulse = ctx.pulse();
        let work = async move {
            for _ in 0..run.steps {
                sleep(ms(500)).await;
                if run.ticking {
                    pulse.tick();
                }
            }
            run.steps
        };
        Box::pin(work.into_actor(self))
    }
}

#[test]
fn reported_progress_keeps_a_long_answer_alive() {
    virtually(async {
        let mut tree = Supervisor::new("tree").check_every(ms(100));
        let runner = Child::new("runner", || Marathon);
        let runner = tree.add(runner.progress_within(ms(1_000)));
        let tree = tree.start().await.unwrap();
        let run = |ticking| Run { steps: 20, ticking };
        assert_eq!(runner.send(run(true)).await, Ok(20));
        assert_eq!(snapshot(&tree, "runner").await.progress, 21);
        is_hung(runner.send(run(false)).await.unwrap_err(), false);
    });
}

#[test]
fn declared_work_is_watched_like_messages() {
    virtually(async {
        struct Watcher;
        impl Actor for Watcher {
            type Context = Context<Self>;
            fn started(&mut self, ctx: &mut Context<Self>) {
                if ctx.generation() == 1 {
                    // As for a process whose heartbeats stay away.
                    std::mem::forget(ctx.pulse().work());
                }
                drop(ctx.pulse().work());
            }
        }
        let mut tree = Supervisor::new("tree").check_every(ms(100));
        let watcher = Child::new("watcher", || Watcher);
        tree.add(watcher.progress_within(ms(1_000)));
        let tree = tree.start().await.unwrap();
        let second = until(&tree, "watcher", |c| c.generation == 2).await;
        assert!(matches!(second.last_cause, Some(Cause::Hung { .. })));
        sleep(ms(10_000)).await;
        assert_eq!(snapshot(&tree, "watcher").await.generation, 2);
    });
}

#[test]
fn a_child_that_blocks_its_own_thread_is_replaced_on_another() {
    real(async {
        let log = Log::default();
        let seen = log.clone();
        let probe = Child::new("probe", move || Probe::logging("probe", &seen));
        let mut tree = Supervisor::new("tree").check_every(ms(10));
        let probe = tree.add(probe.mailbox(3).own_thread().progress_within(ms(60)));
        let tree = tree.start().await.unwrap();
        probe.up().await.unwrap();
        let (unblock, _began, block) = block();
        let (blocked, noted, queued, waiting) = tokio::join!(
            probe.send(block),
            async { probe.try_send(Note) },
            probe.send(Later(ms(0))),
            probe.send(Serve)
        );
        assert_eq!(noted, Ok(()));
        is_hung(blocked.unwrap_err(), true);
        is_hung(queued.unwrap_err(), true);
        is_hung(waiting.unwrap_err(), true);
        // The old thread is still held, the new generation works.
        assert_eq!(probe.up().await, Ok(2));
        assert_eq!(probe.send(Serve).await, Ok(1));
        assert_eq!(snapshot(&tree, "probe").await.abandoned, 1);
        unblock.send(()).unwrap();
        until(&tree, "probe", |c| c.abandoned == 0).await;
        let lines = log.take();
        assert_eq!(
            lines,
            ["probe 1 up", "probe 2 up", "probe dropped"],
            "it served no more"
        );
        tree.shut_down().await.unwrap();
    });
}

#[test]
fn on_a_shared_arbiter_the_blocking_child_is_blamed_and_its_neighbours_are_not() {
    real(async {
        let (shared, watch) = (Arbiter::new(), Arbiter::new());
        let mut tree = Supervisor::new("tree").check_every(ms(10));
        let on_shared = |name| child(name).on(shared.handle()).progress_within(ms(60));
        let culprit = tree.add(on_shared("culprit"));
        let neighbour = tree.add(on_shared("neighbour"));
        let tree = tree.start_on(watch.handle()).await.unwrap();
        assert_eq!(culprit.send(Serve).await, Ok(1));
        assert_eq!(neighbour.send(Serve).await, Ok(1));
        let (unblock, began, block) = block();
        culprit.try_send(block).unwrap();
        began.await.unwrap();
        let waiting = neighbour.clone();
        let waiting = actix::spawn(async move { waiting.send(Serve).await });
        let found = until(&tree, "culprit", |c| c.generation == 2).await;
        assert!(matches!(
            found.last_cause,
            Some(Cause::Hung { blocking: true, .. })
        ));
        // The fresh one waits for the thread, however long, without being replaced.
        sleep(ms(200)).await;
        assert_eq!(snapshot(&tree, "neighbour").await.mailbox_depth, 1);
        let fresh = snapshot(&tree, "culprit").await;
        assert_eq!((fresh.state, fresh.generation), (ChildState::Starting, 2));
        assert_eq!(fresh.abandoned, 1);
        unblock.send(()).unwrap();
        assert_eq!(culprit.send(Serve).await, Ok(1));
        assert_eq!(
            waiting.await.unwrap(),
            Ok(2),
            "the same neighbour as before"
        );
        assert_eq!(snapshot(&tree, "neighbour").await.restarts, 0);
        tree.shut_down().await.unwrap();
        shared.stop();
        watch.stop();
    });
}

#[test]
fn a_thread_that_ends_under_a_child_is_a_cause_like_any_other() {
    real(async {
        let arbiter = Arbiter::new();
        let mut tree = Supervisor::new("tree");
        let probe = tree.add(child("probe").on(arbiter.handle()).intensity(2, ms(60_000)));
        let tree = tree.start().await.unwrap();
        assert_eq!(probe.send(Serve).await, Ok(1));
        arbiter.stop();
        let end = until(&tree, "probe", |c| c.state == ChildState::Quarantined).await;
        assert_eq!(end.first_cause, Some(Cause::Lost));
        assert_eq!(
            probe.send(Serve).await.unwrap_err().code(),
            "actor-quarantined"
        );
    });
}

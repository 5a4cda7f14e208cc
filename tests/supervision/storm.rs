//! Thousands of panics: each costs exactly one restart, soon, and nobody else anything.

use crate::probe::{BOOMS, Boom, Serve, child, ms, real, snapshot, until};
use actix::prelude::*;
use backpropd::supervise::{Backoff, Child, ChildState, Context, Supervisor};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// `BACKPROPD_TEST_PANICS` sets another number.
#[test]
fn five_thousand_panics_are_five_thousand_restarts() {
    let storm = match std::env::var("BACKPROPD_TEST_PANICS") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => 5_000,
    };
    real(async move {
        let mut tree = Supervisor::new("tree");
        let victim = child("victim").backoff(Backoff::NONE);
        let victim = tree.add(victim.intensity(storm, ms(3_600_000)));
        let sibling = tree.add(child("sibling"));
        let tree = tree.start().await.unwrap();
        for n in 1..=storm {
            // The slow kinds wait a millisecond each: a tenth of them does.
            let boom = if n % 10 == 0 {
                BOOMS[n as usize / 10 % BOOMS.len()]
            } else {
                Boom::Handler
            };
            assert_eq!(victim.up().await, Ok(u64::from(n)));
            assert_eq!(
                victim.send(boom).await.unwrap_err().code(),
                "actor-panicked"
            );
            assert_eq!(sibling.send(Serve).await, Ok(n));
        }
        let after = until(&tree, "victim", |c| c.state == ChildState::Running).await;
        assert_eq!(
            (after.restarts, after.generation),
            (u64::from(storm), u64::from(storm) + 1)
        );
        assert_eq!(snapshot(&tree, "sibling").await.restarts, 0);
        // One more is one too many.
        victim.send(Boom::Handler).await.unwrap_err();
        until(&tree, "victim", |c| c.state == ChildState::Quarantined).await;
        tree.shut_down().await.unwrap();
    });
}

#[test]
fn who_heard_of_a_panic_never_meets_that_generation_again() {
    real(async {
        let mut tree = Supervisor::new("tree");
        let victim = child("victim").backoff(Backoff::NONE).own_thread();
        let victim = tree.add(victim.intensity(2_000, ms(3_600_000)));
        let tree = tree.start().await.unwrap();
        for n in 1..=1_000 {
            assert_eq!(victim.up().await, Ok(n));
            let (boom, queued) = tokio::join!(victim.send(Boom::Handler), victim.send(Serve));
            assert_eq!(boom.unwrap_err().code(), "actor-panicked");
            // It may have come just in time to be queued, or too late.
            assert_eq!(queued.unwrap_err().code(), "actor-down");
        }
        tree.shut_down().await.unwrap();
    });
}

/// When the last panic began.
type Fell = Arc<Mutex<Option<Instant>>>;

struct Phoenix(Fell, Arc<Mutex<Vec<Duration>>>);

impl Actor for Phoenix {
    type Context = Context<Self>;
    fn started(&mut self, _: &mut Context<Self>) {
        if let Some(fell) = self.0.lock().unwrap().take() {
            self.1.lock().unwrap().push(fell.elapsed());
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Burn;

impl Handler<Burn> for Phoenix {
    type Result = ();
    fn handle(&mut self, _: Burn, _: &mut Context<Self>) {
        *self.0.lock().unwrap() = Some(Instant::now());
        panic!("ashes");
    }
}

/// From the panic to the end of the next `started`, without back-off.
#[test]
#[ignore = "prints a measurement"]
fn latency_of_a_restart() {
    for own_thread in [false, true] {
        let latencies = Arc::new(Mutex::new(Vec::new()));
        let (fell, seen) = (Fell::default(), latencies.clone());
        real(async move {
            let phoenix = Child::new("phoenix", move || Phoenix(fell.clone(), seen.clone()))
                .backoff(Backoff::NONE)
                .intensity(10_000, ms(3_600_000));
            let phoenix = if own_thread {
                phoenix.own_thread()
            } else {
                phoenix
            };
            let mut tree = Supervisor::new("tree");
            let phoenix = tree.add(phoenix);
            let tree = tree.start().await.unwrap();
            for n in 1..=5_000 {
                assert_eq!(phoenix.up().await, Ok(n));
                phoenix.send(Burn).await.unwrap_err();
            }
            until(&tree, "phoenix", |c| {
                c.generation == 5_001 && c.state == ChildState::Running
            })
            .await;
            tree.shut_down().await.unwrap();
        });
        let mut all = latencies.lock().unwrap().clone();
        all.sort();
        let at = |part: f64| all[((all.len() - 1) as f64 * part) as usize];
        println!(
            "own thread {own_thread}: {} restarts, p50 {:?}, p99 {:?}, max {:?}",
            all.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
}

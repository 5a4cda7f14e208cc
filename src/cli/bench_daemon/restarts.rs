//! How soon an actor is back after a panic, its back-off aside.

use super::Quantiles;
use crate::supervise::{Backoff, Child, Context, Supervisor};
use actix::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const PANICS: u64 = 2000;

#[derive(Default)]
struct Seen {
    fell: Option<Instant>,
    times: Vec<Duration>,
}

struct Phoenix(Arc<Mutex<Seen>>);

impl Phoenix {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Actor for Phoenix {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        let mut seen = self.seen();
        if let Some(fell) = seen.fell.take() {
            seen.times.push(fell.elapsed());
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Burn;

impl Handler<Burn> for Phoenix {
    type Result = ();

    fn handle(&mut self, _: Burn, _: &mut Self::Context) {
        self.seen().fell = Some(Instant::now());
        panic!("a panic that is timed");
    }
}

pub(super) fn measure() -> Quantiles {
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let shown = seen.clone();
    System::new().block_on(async move {
        let phoenix = Child::new("phoenix", move || Phoenix(shown.clone()))
            .backoff(Backoff::NONE)
            .intensity(PANICS as u32 + 1, Duration::from_secs(3600));
        let mut tree = Supervisor::new("bench");
        let phoenix = tree.add(phoenix);
        let Ok(tree) = tree.start().await else { return };
        for _ in 0..PANICS {
            let _ = phoenix.send(Burn).await;
            let _ = phoenix.up().await;
        }
        let _ = tree.shut_down().await;
    });
    let times = std::mem::take(&mut seen.lock().unwrap_or_else(PoisonError::into_inner).times);
    Quantiles::of(times)
}

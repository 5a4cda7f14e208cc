use super::*;
use crate::domain::RunId;
use serde_json::json;

fn event(id: u64, kind: &str) -> Arc<Event> {
    let fields = json!({ "step": id });
    Arc::new(Event::new(id, Some(RunId(1)), Some(id), 0, kind, fields))
}

fn queue(events: &[&str], bound: usize) -> Queue {
    let events: Vec<String> = events.iter().map(ToString::to_string).collect();
    Queue::new("a", &events, bound, 0, 0)
}

/// Takes everything that waits.
fn drain(queue: &Queue, life: u64) -> Vec<u64> {
    let mut ids = Vec::new();
    while let Next::Event(event) = queue.next(life) {
        ids.push(event.id);
        queue.done(life);
    }
    ids
}

/// behaviour: event-01, event-02, event-03, multi-03, multi-04
#[test]
fn any_subset_of_the_kinds_is_taken_and_none_is_one() {
    let all = [
        "step",
        "epoch",
        "checkpoint_saved",
        "run_completed",
        "run_failed",
    ];
    for chosen in [&all[..0], &all[1..2], &all[1..4], &all[..]] {
        let queue = queue(chosen, 8);
        for (id, kind) in (1..).zip(all) {
            queue.push(&[event(id, kind)]);
        }
        let taken = drain(&queue, queue.open());
        assert_eq!(taken.len(), chosen.len());
        assert_eq!(queue.cursor(), 5, "what is not for it is passed over");
        assert!(queue.is_idle());
    }
}

/// behaviour: event-15, stream-06
#[test]
fn lossy_events_give_way_to_newer_ones_and_are_counted() {
    let queue = queue(&["*"], 4);
    for id in 1..=3 {
        queue.push(&[event(id, "step")]);
    }
    queue.push(&[event(4, "checkpoint_saved")]);
    for id in 5..=9 {
        queue.push(&[event(id, "step")]);
    }
    queue.push(&[event(10, "run_completed")]);
    assert_eq!(queue.counts().1, 4);
    assert_eq!(queue.counts().0.dropped, 6);
    assert_eq!(drain(&queue, queue.open()), [4, 8, 9, 10]);
    assert_eq!((queue.counts().0.delivered, queue.cursor()), (4, 10));
}

#[test]
fn what_must_not_be_lost_is_read_from_the_store_when_there_is_no_room() {
    let queue = queue(&["*"], 2);
    for id in 1..=5 {
        queue.push(&[event(id, "epoch")]);
    }
    queue.push(&[event(6, "step")]);
    let counters = queue.counts().0;
    assert_eq!((counters.lagged, counters.dropped), (3, 1));
    let life = queue.open();
    assert_eq!(drain(&queue, life), [1, 2]);
    assert_eq!(queue.next(life), Next::Behind(2));
    // A page that ends early, with one more event on its way meanwhile.
    queue.refill([3, 4].map(|id| event(id, "epoch")), 4, false);
    queue.push(&[event(7, "epoch")]);
    assert_eq!(drain(&queue, life), [3, 4]);
    assert_eq!(queue.next(life), Next::Behind(4));
    queue.refill([event(5, "epoch"), event(6, "step")], 6, true);
    assert_eq!(drain(&queue, life), [5]);
    assert_eq!(queue.next(life), Next::Behind(6), "7 came meanwhile");
    queue.refill([event(7, "epoch")], 7, true);
    queue.push(&[event(8, "epoch")]);
    assert_eq!(drain(&queue, life), [7, 8]);
    assert_eq!(queue.next(life), Next::Nothing);
    assert_eq!(queue.cursor(), 8);
}

#[test]
fn only_the_newest_instance_is_given_events_and_gets_back_what_matters() {
    let queue = queue(&["*"], 8);
    for (id, kind) in [(1, "step"), (2, "epoch"), (3, "epoch")] {
        queue.push(&[event(id, kind)]);
    }
    let first = queue.open();
    assert_eq!(queue.next(first), Next::Event(event(1, "step")));
    let lost = queue.fail().unwrap();
    assert!(!lost.again && lost.event.id == 1);
    assert_eq!(queue.next(first), Next::Replaced);
    let second = queue.open();
    assert_eq!(queue.next(second), Next::Event(event(2, "epoch")));
    assert!(queue.fail().unwrap().again);
    queue.done(second);
    assert_eq!(queue.cursor(), 0, "one that was given up says nothing more");
    let third = queue.open();
    assert_eq!(drain(&queue, third), [2, 3]);
    assert_eq!(
        (queue.counts().0.failed, queue.counts().0.delivered),
        (2, 2)
    );
}

#[test]
fn after_a_restart_what_was_missed_is_read_from_the_store() {
    let all = ["*".to_owned()];
    let queue = Queue::new("a", &all, 8, 10, 20);
    queue.push(&[event(20, "epoch")]);
    queue.push(&[event(21, "epoch")]);
    let life = queue.open();
    assert_eq!(queue.next(life), Next::Behind(10));
    queue.refill([11, 20, 21].map(|id| event(id, "epoch")), 21, true);
    assert_eq!(drain(&queue, life), [11, 20, 21]);
    assert!(queue.is_idle());
}

#[test]
fn who_was_not_told_reads_on_where_it_saw_the_last() {
    let queue = queue(&["*"], 8);
    queue.push(&[1, 2].map(|id| event(id, "epoch")));
    queue.fall_behind();
    queue.push(&[event(9, "epoch")]);
    assert_eq!(queue.counts().0.lagged, 1);
    let life = queue.open();
    assert_eq!(drain(&queue, life), [1, 2]);
    assert_eq!(queue.next(life), Next::Behind(2));
    queue.refill([8, 9].map(|id| event(id, "epoch")), 9, true);
    assert_eq!(drain(&queue, life), [8, 9]);
    assert!(queue.is_idle());
}

/// One that waits is woken once for all that comes together, and hears of all that follows.
#[tokio::test]
async fn news_is_there_whenever_there_is_something_to_do() {
    use futures_util::FutureExt;
    let queue = queue(&["*"], 8);
    let life = queue.open();
    assert_eq!(queue.news().now_or_never(), None);
    queue.push(&[1, 2].map(|id| event(id, "epoch")));
    queue.push(&[event(3, "epoch")]);
    assert_eq!(queue.news().now_or_never(), Some(()));
    assert_eq!(drain(&queue, life), [1, 2, 3]);
    assert_eq!(queue.news().now_or_never(), None);
    queue.push(&[event(4, "epoch")]);
    assert_eq!(queue.news().now_or_never(), Some(()));
}

#[test]
fn a_handler_is_not_told_of_itself() {
    let queue = queue(&["handler_*"], 8);
    for (id, name) in [(1, "a"), (2, "b")] {
        let fields = json!({ "handler": name, "restarts": 1 });
        let event = Event::new(id, None, None, 0, "handler_restarted", fields);
        queue.push(&[Arc::new(event)]);
    }
    assert_eq!(drain(&queue, queue.open()), [2]);
}

#[test]
fn what_is_kept_nowhere_comes_once_and_never_puts_a_handler_behind() {
    let queue = queue(&["gpu_*"], 2);
    let life = queue.open();
    let passing = |kind: &str| Arc::new(Event::passing(0, kind, json!({})));
    queue.push(&[event(7, "gpu_warning")]);
    queue.push(&[passing("gpu_throttle")]);
    queue.push(&[passing("step")]);
    queue.push(&[event(8, "gpu_warning")]);
    assert_eq!(drain(&queue, life), [7, 8], "the passing one gave way");
    assert_eq!(queue.counts().0.dropped, 1);
    queue.push(&[passing("gpu_status")]);
    assert_eq!(drain(&queue, life), [0]);
    assert_eq!(queue.cursor(), 8);
}

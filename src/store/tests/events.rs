use super::*;

fn append(store: &mut Store, run: Option<RunId>, now: Millis) -> Appended {
    let payload = serde_json::json!({ "at": now });
    store
        .write(|tx| tx.append(run, "gpu_status", &payload, now))
        .unwrap()
}

fn ids(page: &Page) -> Vec<u64> {
    page.events.iter().map(|event| event.id).collect()
}

#[test]
fn events_come_back_in_order_by_page_and_by_run() {
    let (_dir, mut store) = fresh();
    let (a, b) = (submit(&mut store, "a"), submit(&mut store, "b"));
    let about = [Some(a), None, Some(b), Some(a), Some(b), None];
    let stored = about.map(|run| append(&mut store, run, 5));
    assert_eq!(stored.map(|e| e.id), [1, 2, 3, 4, 5, 6]);
    let seqs = [Some(1), None, Some(1), Some(2), Some(2), None];
    assert_eq!(stored.map(|e| e.seq), seqs);
    assert_eq!(store.view().run(a).unwrap().last_seq, 2);

    let page = store.view().events(0, None, 4).unwrap();
    assert_eq!(
        (ids(&page), page.next, page.end),
        (vec![1, 2, 3, 4], 4, false)
    );
    let page = store.view().events(page.next, None, 4).unwrap();
    assert_eq!((ids(&page), page.next, page.end), (vec![5, 6], 6, true));
    assert_eq!(page.gap, None);
    let event = &page.events[0];
    assert_eq!((event.run, event.seq, event.at), (Some(b), Some(2), 5));
    assert_eq!(
        (event.kind.as_str(), event.payload.as_str()),
        ("gpu_status", r#"{"at":5}"#)
    );

    let page = store.view().events(0, Some(a), 1).unwrap();
    assert_eq!((ids(&page), page.next, page.end), (vec![1], 1, false));
    let page = store.view().events(page.next, Some(a), 9).unwrap();
    // Nothing up to 6 is about this run: no need to look there again.
    assert_eq!((ids(&page), page.next, page.end), (vec![4], 6, true));
    let unknown = store.view().events(0, Some(RunId(77)), 9).unwrap_err();
    assert_eq!(unknown.code, Code::NotFound);
    let unknown = store.write(|tx| tx.append(Some(RunId(77)), "x", &(), 1));
    assert_eq!(unknown.unwrap_err().code, Code::NotFound);
}

#[test]
fn a_page_that_ends_with_the_newest_event_is_the_last() {
    let (_dir, mut store) = fresh();
    append(&mut store, None, 1);
    let page = store.view().events(0, None, 1).unwrap();
    assert_eq!((page.next, page.end), (1, true));
    let page = store.view().events(1, None, 1).unwrap();
    assert_eq!((ids(&page), page.next, page.end), (vec![], 1, true));
}

#[test]
fn what_was_pruned_is_a_gap_that_is_named() {
    let (_dir, mut store) = fresh();
    for now in 1..=10 {
        append(&mut store, None, now);
    }
    let by_count = Retention {
        count: 6,
        age: 1_000,
    };
    assert_eq!(store.write(|tx| tx.prune_events(by_count, 10)).unwrap(), 4);
    assert_eq!(store.write(|tx| tx.prune_events(by_count, 10)).unwrap(), 0);
    let page = store.view().events(2, None, 3).unwrap();
    assert_eq!(page.gap, Some(Gap::Pruned { first: 3, last: 4 }));
    assert_eq!(ids(&page), [5, 6, 7]);
    assert_eq!(store.view().events(4, None, 3).unwrap().gap, None);

    let by_age = Retention { count: 100, age: 2 };
    assert_eq!(store.write(|tx| tx.prune_events(by_age, 10)).unwrap(), 3);
    let page = store.view().events(0, None, 9).unwrap();
    assert_eq!(page.gap, Some(Gap::Pruned { first: 1, last: 7 }));
    assert_eq!(ids(&page), [8, 9, 10]);

    // All of them; the numbers go on.
    assert_eq!(store.write(|tx| tx.prune_events(by_age, 99)).unwrap(), 3);
    let page = store.view().events(9, None, 9).unwrap();
    assert_eq!(
        page.gap,
        Some(Gap::Pruned {
            first: 10,
            last: 10
        })
    );
    assert_eq!((page.next, page.end), (10, true));
    assert_eq!(append(&mut store, None, 99).id, 11);
    assert_eq!(store.view().newest_event().unwrap(), 11);
}

#[test]
fn a_number_that_was_never_given_is_answered_from_the_oldest_on() {
    let (_dir, mut store) = fresh();
    append(&mut store, None, 1);
    for after in [2, u64::MAX] {
        let page = store.view().events(after, None, 9).unwrap();
        assert_eq!(page.gap, Some(Gap::Unknown { newest: 1 }));
        assert_eq!((ids(&page), page.next), (vec![1], 1));
    }
}

#[test]
fn a_clock_that_goes_back_makes_no_hole() {
    let (_dir, mut store) = fresh();
    for now in [1_000, 5, 1_001, 6] {
        append(&mut store, None, now);
    }
    let retention = Retention {
        count: 100,
        age: 100,
    };
    assert_eq!(
        store.write(|tx| tx.prune_events(retention, 1_002)).unwrap(),
        0
    );
    assert_eq!(
        store.write(|tx| tx.prune_events(retention, 1_101)).unwrap(),
        2
    );
    assert_eq!(ids(&store.view().events(2, None, 9).unwrap()), [3, 4]);
    let never = Retention {
        count: u64::MAX,
        age: Millis::MAX,
    };
    let pruned = store.write(|tx| tx.prune_events(never, Millis::MIN));
    assert_eq!(pruned.unwrap(), 0);
}

#[test]
fn pruning_goes_in_pieces() {
    let (_dir, mut store) = fresh();
    store
        .write(|tx| (0..12_000).try_for_each(|_| tx.append(None, "x", &(), 1).map(|_| ())))
        .unwrap();
    let retention = Retention { count: 1, age: 9 };
    let mut prune = || store.write(|tx| tx.prune_events(retention, 1)).unwrap();
    assert_eq!(
        [prune(), prune(), prune(), prune()],
        [5_000, 5_000, 1_999, 0]
    );
}

/// Whoever listens hears what is durable, in order, and nothing else: not what a failed
/// transaction appended, and not the part of one that was taken back.
#[test]
fn what_is_told_is_what_is_durable() {
    let (_dir, mut store) = fresh();
    let run = submit(&mut store, "a");
    let mut told = Vec::new();
    store
        .write_and_tell(
            |tx| {
                tx.append(Some(run), "first", &serde_json::json!({ "n": 1 }), 5)?;
                let unknown = tx.whole(|| {
                    tx.append(Some(run), "taken back", &(), 5)?;
                    tx.append(Some(RunId(77)), "x", &(), 5)
                });
                assert_eq!(unknown.unwrap_err().code, Code::NotFound);
                tx.append(None, "second", &(), 6)
            },
            |event| told.push(event),
        )
        .unwrap();
    let failed = store.write_and_tell(
        |tx| {
            tx.append(None, "lost", &(), 7)?;
            tx.run(RunId(77))
        },
        |event| panic!("{event:?}"),
    );
    assert_eq!(failed.unwrap_err().code, Code::NotFound);
    let lines: Vec<_> = told.iter().map(|e| (e.id, e.kind.as_str())).collect();
    assert_eq!(lines, [(1, "first"), (2, "second")]);
    assert_eq!(told[0].fields["n"], 1);
    assert_eq!(ids(&store.view().events(0, None, 9).unwrap()), [1, 2]);
}

//! A full disk as SQLite reports it. Real ones stand in `tests/store/full_disk.rs`.

use super::*;

fn allow_pages(store: &Store, more: i64) {
    let count = |name: &str| -> i64 {
        let value = store.conn.pragma_query_value(None, name, |row| row.get(0));
        value.unwrap()
    };
    let pages = count("page_count") + more;
    let set = format!("PRAGMA max_page_count = {pages}");
    store.conn.query_row(&set, [], |_| Ok(())).unwrap();
}

#[test]
fn a_full_disk_fails_the_whole_transaction_even_where_its_error_is_passed_over() {
    let (_dir, mut store) = fresh();
    let run = submit(&mut store, "a");
    allow_pages(&store, 5);
    let payload = "x".repeat(1_000);
    let mut failed = 0;
    let error = store
        .write(|tx| {
            for _ in 0..100 {
                failed += u32::from(tx.append(Some(run), "x", &payload, 1).is_err());
            }
            Ok(())
        })
        .unwrap_err();
    assert_eq!(error.code, Code::DiskFull);
    assert!(error.about.ends_with(DATABASE), "{error}");
    assert!(failed > 50, "{failed}");
    // Nothing of it, neither what went well before nor what came after.
    assert_eq!(store.view().newest_event().unwrap(), 0);
    assert_eq!(store.view().run(run).unwrap().last_seq, 0);

    allow_pages(&store, 1_000);
    let stored = store.write(|tx| tx.append(Some(run), "x", &payload, 1));
    assert_eq!(
        stored.unwrap(),
        Appended {
            id: 1,
            seq: Some(1)
        }
    );
}

#[test]
fn a_panic_in_a_transaction_takes_it_back() {
    let (_dir, mut store) = fresh();
    let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.write(|tx| -> crate::domain::Result<()> {
            tx.append(None, "x", &(), 1)?;
            panic!("in the middle");
        })
    }));
    assert!(attempt.is_err());
    assert_eq!(store.view().newest_event().unwrap(), 0);
    submit(&mut store, "a");
}

use super::super::schema;
use super::*;
use rusqlite::Connection;
use std::fs;

#[test]
fn a_second_process_is_refused_by_the_pid_of_the_first() {
    let (dir, store) = fresh();
    let error = Store::open(dir.path(), 0).unwrap_err();
    assert_eq!(error.code, Code::StoreBusy);
    let pid = format!("process {} works", std::process::id());
    assert!(error.message.contains(&pid), "{error}");
    assert!(error.about.contains(dir.path().to_str().unwrap()));
    drop(store);
    Store::open(dir.path(), 0).unwrap();
}

#[test]
fn a_commit_reaches_the_disk_and_the_log_is_in_use() {
    let (_dir, store) = fresh();
    let pragma = |name: &str| -> String {
        store
            .conn
            .pragma_query_value(None, name, |row| {
                row.get(0).map(|v: rusqlite::types::Value| format!("{v:?}"))
            })
            .unwrap()
    };
    assert_eq!(pragma("journal_mode"), "Text(\"wal\")");
    assert_eq!(pragma("synchronous"), "Integer(2)");
    assert_eq!(pragma("foreign_keys"), "Integer(1)");
}

#[test]
fn a_database_of_a_newer_release_is_refused_and_stays_as_it_is() {
    let (dir, store) = fresh();
    let path = store.path().to_owned();
    drop(store);
    let conn = Connection::open(&path).unwrap();
    conn.pragma_update(None, "user_version", 7).unwrap();
    drop(conn);
    let before = fs::read(&path).unwrap();
    let error = Store::open(dir.path(), 0).unwrap_err();
    assert_eq!(error.code, Code::StoreVersion);
    assert!(error.about.contains(path.to_str().unwrap()));
    assert!(error.message.contains("version 7"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_database_of_another_program_is_refused_and_stays_as_it_is() {
    let dir = scratch();
    let path = dir.path().join(DATABASE);
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("CREATE TABLE cats (name)").unwrap();
    drop(conn);
    let before = fs::read(&path).unwrap();
    let error = Store::open(dir.path(), 0).unwrap_err();
    assert_eq!(error.code, Code::StoreVersion);
    assert!(error.message.contains("another program"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn an_older_database_is_brought_up_to_date_and_a_failed_step_leaves_the_version_before_it() {
    let dir = scratch();
    let path = dir.path().join("a.db");
    let mut conn = Connection::open(&path).unwrap();
    let v1 = "CREATE TABLE a (x); INSERT INTO a VALUES (1);";
    let v2 = "ALTER TABLE a ADD COLUMN y DEFAULT 5;";
    let broken = "CREATE TABLE b (x); INSERT INTO a (z) VALUES (1);";
    schema::migrate(&mut conn, &path, 0, &[v1], None).unwrap();
    assert_eq!(schema::version(&conn, &path, 1).unwrap(), 1);

    let failed = schema::migrate(&mut conn, &path, 1, &[v1, v2, broken], None);
    assert_eq!(failed.unwrap_err().code, Code::Internal);
    assert_eq!(schema::version(&conn, &path, 3).unwrap(), 2);
    let y = conn.query_row("SELECT y FROM a", [], |row| row.get::<_, i64>(0));
    assert_eq!(y.unwrap(), 5);
    let half = conn.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE name = 'b'",
        [],
        |row| row.get::<_, i64>(0),
    );
    assert_eq!(half.unwrap(), 0);

    let repaired = "CREATE TABLE b (x);";
    schema::migrate(&mut conn, &path, 2, &[v1, v2, repaired], None).unwrap();
    assert_eq!(schema::version(&conn, &path, 3).unwrap(), 3);
}

#[test]
fn what_the_first_version_stored_is_read_by_this_one() {
    let dir = scratch();
    let path = dir.path().join(DATABASE);
    let mut conn = Connection::open(&path).unwrap();
    let first = &schema::MIGRATIONS[..1];
    schema::migrate(&mut conn, &path, 0, first, None).unwrap();
    conn.execute_batch(
        "INSERT INTO runs (name, priority, state, last_seq, queued_at, updated_at)
             VALUES ('a', 0, 'queued', 1, 1, 1);
         INSERT INTO events (run, seq, kind, at, payload) VALUES (1, 1, 'run_queued', 1, '{}');
         INSERT INTO sweeps (name, spec, state, created_at, updated_at)
             VALUES ('s', 'null', 'running', 1, 1);",
    )
    .unwrap();
    drop(conn);
    let (store, opened) = Store::open(dir.path(), 0).unwrap();
    assert_eq!(opened.quarantined, None);
    let view = store.view();
    assert_eq!(view.run(RunId(1)).unwrap().name, "a");
    assert_eq!(view.events(0, Some(RunId(1)), 9).unwrap().events.len(), 1);
    let sweep = view.live_sweeps().unwrap()[0];
    assert_eq!(view.sweep(sweep).unwrap().session, serde_json::Value::Null);
    assert_eq!(view.sweep_events(0, sweep, 9).unwrap().events, []);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = scratch();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    let error = Store::open(&file.join("state"), 0).unwrap_err();
    assert_eq!(error.code, Code::IoWrite);
    assert!(error.about.contains("file/state"), "{error}");
}

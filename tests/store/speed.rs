//! How fast the store is on this machine's disk: `cargo test --release --test store speed
//! -- --ignored --nocapture`.

use super::open;
use backpropd::domain::RunId;
use backpropd::domain::run_state::Report;
use backpropd::protocol::service::Point;
use backpropd::protocol::{Fact, Frame, SiteStep, Step, VERSION};
use backpropd::store::{NewRun, Retention, Store};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

/// `count` things done by `work`, and how many that is a second.
fn measure(what: &str, count: u64, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    let rate = count as f64 / start.elapsed().as_secs_f64();
    println!("{what:<48} {rate:>12.0} /s");
    rate
}

fn running(store: &mut Store) -> RunId {
    store
        .write(|tx| {
            let run = tx.submit(&NewRun::new("a", ""), None, 0)?.run;
            let _ = tx.apply(run, Report::Given, 0)?;
            Ok(run)
        })
        .unwrap()
}

fn frame(seq: u64) -> Frame {
    let site = SiteStep {
        hook: "blocks.12.hook_resid_post".to_owned(),
        loss: 0.123_456_789,
        parts: BTreeMap::from([("mse_loss".to_owned(), 0.1), ("l1_loss".to_owned(), 0.02)]),
        l0: 31.75,
        explained_variance: 0.8125,
        fvu: 0.1875,
        dead: 0.01,
        grad_norm: 1.5,
        loss_scale: None,
    };
    Frame {
        v: VERSION,
        seq,
        run: "a".to_owned(),
        fact: Fact::Step(Step {
            step: seq,
            steps: 1_000_000,
            epoch: 1,
            tokens: 4096 * seq,
            loss: 0.123_456_789,
            lr: 1e-4,
            tokens_per_second: 123_456.0,
            sites: vec![site],
        }),
    }
}

/// Things of one kind, timed one by one.
#[derive(Default)]
struct Rate {
    count: u32,
    seconds: f64,
}

impl Rate {
    fn time(&mut self, work: impl FnOnce()) {
        let start = Instant::now();
        work();
        self.seconds += start.elapsed().as_secs_f64();
        self.count += 1;
    }

    fn per_second(&self) -> f64 {
        f64::from(self.count) / self.seconds
    }

    fn print(&self, what: &str) {
        println!("{what:<48} {:>12.0} /s", self.per_second());
    }
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let run = running(&mut store);

    // Side by side, because what else runs on a machine changes by the second.
    let (mut disk, mut durable) = (Rate::default(), Rate::default());
    let file = File::create(dir.path().join("floor")).unwrap();
    file.write_all_at(&[1; 1 << 22], 0).unwrap();
    file.sync_all().unwrap();
    for n in 0..1_000 {
        disk.time(|| {
            file.write_all_at(&[2; 8192], n * 4096).unwrap();
            file.sync_data().unwrap();
        });
        durable.time(|| {
            store.write(|tx| tx.append(Some(run), "x", &1, 0)).unwrap();
        });
    }
    disk.print("synced writes of the disk, 8 KiB each");
    durable.print("durable commits, one event each");

    let points = 500_000;
    let logged = measure("metric points, 1,000 a commit", points, || {
        for batch in 0..points / 1_000 {
            let points: Vec<_> = (0..1_000)
                .map(|n| Point {
                    step: batch * 500 + n / 2,
                    site: format!("blocks.{}.hook_resid_post", n % 2),
                    loss: Some(n as f64),
                    l0: Some(32.0),
                    l1: Some(0.1),
                    dead: Some(0.1),
                    fvu: Some(0.2),
                    lr: Some(1e-4),
                    grad_norm: Some(1.0),
                    gpu_mem: Some(1 << 33),
                    tokens_per_second: Some(1e5),
                })
                .collect();
            store.write(|tx| tx.log(run, &points)).unwrap();
        }
    });

    let events = 100_000;
    measure("events, 1,000 a commit", events, || {
        for _ in 0..events / 1_000 {
            let append = |tx: &backpropd::store::Tx<'_>| {
                (0..1_000).try_for_each(|_| tx.append(Some(run), "x", &1, 0).map(|_| ()))
            };
            store.write(append).unwrap();
        }
    });

    let run = running(&mut store);
    let facts = 50_000;
    measure("steps of a worker, 100 a commit", facts, || {
        for batch in 0..facts / 100 {
            let frames: Vec<_> = (1..=100).map(|n| frame(batch * 100 + n)).collect();
            let record = |tx: &backpropd::store::Tx<'_>| {
                frames
                    .iter()
                    .try_for_each(|frame| tx.record(run, 1, frame, 0).map(|_| ()))
            };
            store.write(record).unwrap();
        }
    });

    let pruned = 100_000;
    let retention = Retention {
        count: store.view().newest_event().unwrap() - pruned,
        age: i64::MAX,
    };
    let mut longest = 0.0_f64;
    measure("events pruned", pruned, || {
        loop {
            let start = Instant::now();
            let gone = store.write(|tx| tx.prune_events(retention, 0)).unwrap();
            longest = longest.max(start.elapsed().as_secs_f64());
            if gone == 0 {
                break;
            }
        }
    });
    println!("the longest of those took {:.1} ms", longest * 1e3);

    let bytes = std::fs::metadata(store.path()).unwrap().len();
    drop(store);
    let start = Instant::now();
    let store = open(dir.path());
    println!(
        "opening and checking {:.0} MB took {:.0} ms",
        bytes as f64 / 1e6,
        start.elapsed().as_secs_f64() * 1e3
    );
    drop(store);
    let empty = tempfile::tempdir().unwrap();
    drop(open(empty.path()));
    let start = Instant::now();
    drop(open(empty.path()));
    println!(
        "opening an empty one took {:.1} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    // A commit is one synced write, so a slow disk is no fault of the store.
    let goal = (disk.per_second() / 2.0).min(1_000.0);
    let durable = durable.per_second();
    assert!(durable >= goal, "{durable} durable commits a second");
    assert!(logged >= 100_000.0, "{logged} points a second");
}

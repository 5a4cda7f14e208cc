use super::*;
use crate::protocol::service::Point;

fn point(step: u64, site: &str, loss: f64) -> Point {
    Point {
        step,
        site: site.to_owned(),
        loss: Some(loss),
        l0: Some(32.0),
        l1: Some(0.25),
        dead: Some(0.125),
        fvu: Some(0.5),
        lr: Some(1e-4),
        grad_norm: Some(2.0),
        gpu_mem: Some(1 << 33),
        tokens_per_second: Some(1e5),
    }
}

const PRE: &str = "blocks.3.hook_resid_pre";
const POST: &str = "blocks.3.hook_resid_post";

/// behaviour: train-03
#[test]
fn a_point_is_stored_once_whatever_is_logged_again() {
    let (_dir, mut store) = fresh();
    let (run, other) = (submit(&mut store, "a"), submit(&mut store, "b"));
    // Two hook points of one layer.
    let points: Vec<_> = (1..=4)
        .flat_map(|step| [point(step, POST, 0.5), point(step, PRE, 1.5)])
        .collect();
    let log = |store: &mut Store, points: &[Point]| {
        store.write(|tx| tx.log(run, points)).unwrap();
    };
    log(&mut store, &points);
    log(&mut store, &points);
    // Steps after the checkpoint of step 2, run again after a resume.
    log(&mut store, &points[4..]);
    store.write(|tx| tx.log(other, &points[..1])).unwrap();
    let all = |store: &Store| {
        let query = MetricQuery::default();
        store.view().metrics(run, &query, 100).unwrap()
    };
    assert_eq!(all(&store), points);

    // What is measured differently the second time is what the run goes on with.
    log(&mut store, &[point(4, PRE, 9.0)]);
    assert_eq!(all(&store).len(), points.len());
    assert_eq!(all(&store)[7].loss, Some(9.0));
}

#[test]
fn points_are_read_by_page_and_by_hook_point() {
    let (_dir, mut store) = fresh();
    let run = submit(&mut store, "a");
    let points: Vec<_> = (1..=3)
        .flat_map(|step| [point(step, POST, 0.5), point(step, PRE, 1.5)])
        .collect();
    store.write(|tx| tx.log(run, &points)).unwrap();
    let read = |query: MetricQuery<'_>, limit| store.view().metrics(run, &query, limit).unwrap();
    let mut found: Vec<Point> = Vec::new();
    loop {
        let after = found.last().map_or((0, ""), |p| (p.step, p.site.as_str()));
        let query = MetricQuery {
            after,
            ..MetricQuery::default()
        };
        let page = read(query, 1);
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(found, points);
    let query = MetricQuery {
        site: Some(PRE),
        after: (2, ""),
        every: 1,
    };
    assert_eq!(read(query, 9), [points[3].clone(), points[5].clone()]);
    let query = MetricQuery {
        every: 2,
        ..MetricQuery::default()
    };
    let steps: Vec<u64> = read(query, 9).iter().map(|point| point.step).collect();
    assert!(!steps.is_empty() && steps.iter().all(|step| step % 2 == 0));
}

#[test]
fn what_is_not_known_is_none() {
    let (_dir, mut store) = fresh();
    let run = submit(&mut store, "a");
    let bare = Point {
        step: 1,
        site: PRE.to_owned(),
        ..Point::default()
    };
    store.write(|tx| tx.log(run, [&bare])).unwrap();
    let query = MetricQuery::default();
    assert_eq!(store.view().metrics(run, &query, 9).unwrap(), [bare]);
    let unknown = store.view().metrics(RunId(9), &query, 9).unwrap_err();
    assert_eq!(unknown.code, Code::NotFound);
    let unknown = store.write(|tx| tx.log(RunId(9), []));
    assert_eq!(unknown.unwrap_err().code, Code::NotFound);
}

#[test]
fn a_point_that_cannot_be_stored_leaves_none_of_its_request_and_all_of_the_others() {
    let (_dir, mut store) = fresh();
    let (run, other) = (submit(&mut store, "a"), submit(&mut store, "b"));
    let error = store
        .write(|tx| {
            tx.log(other, [&point(1, PRE, 1.0)])?;
            Ok(tx.log(run, [&point(1, PRE, 1.0), &point(u64::MAX, PRE, 1.0)]))
        })
        .unwrap()
        .unwrap_err();
    assert_eq!(error.code, Code::ProtocolInvalid);
    let count = |run| {
        let points = store.view().metrics(run, &MetricQuery::default(), 9);
        points.unwrap().len()
    };
    assert_eq!((count(run), count(other)), (0, 1));
}

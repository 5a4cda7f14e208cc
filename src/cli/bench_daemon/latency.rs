//! How soon the daemon answers, alone and in a crowd.

use super::Quantiles;
use super::http::Connection;
use super::served::{Served, program};
use crate::domain::{Code, Error, Result};
use http_body_util::BodyExt;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

const STATUS: &str = "/v1/status";
/// Of the process `ctl status`, which takes longer than its request.
const PROCESSES: usize = 200;

/// What was timed.
pub(super) struct Latencies {
    pub idle: Quantiles,
    pub process: Quantiles,
    pub crowded: Quantiles,
}

pub(super) fn measure(folder: &Path, requests: usize, clients: usize) -> Result<Latencies> {
    let daemon = Served::start(folder, "")?;
    let socket = daemon.socket.as_path();
    let idle = statuses(socket, requests)?;
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        let start = Instant::now();
        let status = program()
            .args(["ctl", "--socket"])
            .arg(socket)
            .arg("status")
            .status()
            .map_err(|e| Error::new(Code::Internal, "ctl", e))?;
        processes.push(start.elapsed());
        if !status.success() {
            return Err(Error::new(Code::Internal, "ctl status", status));
        }
    }
    Ok(Latencies {
        idle: Quantiles::of(idle),
        process: Quantiles::of(processes),
        crowded: Quantiles::of(crowded(socket, requests, clients)?),
    })
}

/// Times `requests`, each on a connection of its own.
fn statuses(socket: &Path, requests: usize) -> Result<Vec<Duration>> {
    runtime()?.block_on(async {
        let mut times = Vec::with_capacity(requests);
        for _ in 0..requests {
            let start = Instant::now();
            Connection::open(socket).await?.get(STATUS).await?;
            times.push(start.elapsed());
        }
        Ok(times)
    })
}

/// As [`statuses`], beside `clients` that follow the events and ask once a second.
fn crowded(socket: &Path, requests: usize, clients: usize) -> Result<Vec<Duration>> {
    let (leave, left) = watch::channel(false);
    std::thread::scope(|scope| {
        let (here, mut all_here) = mpsc::channel(clients.max(1));
        let crowd = scope.spawn(move || {
            runtime()?.block_on(async {
                let crowd = (0..clients).map(|n| client(socket, n, here.clone(), left.clone()));
                futures_util::future::try_join_all(crowd).await.map(|_| ())
            })
        });
        let times = runtime()?.block_on(async {
            for _ in 0..clients {
                // A client that failed says so when the crowd is joined.
                if all_here.recv().await.is_none() {
                    break;
                }
            }
            Ok::<_, Error>(())
        });
        let times = times.and_then(|()| statuses(socket, requests));
        let _ = leave.send(true);
        let crowd = crowd
            .join()
            .map_err(|_| Error::new(Code::Internal, "the crowd", "panicked"))?;
        crowd.and(times)
    })
}

async fn client(
    socket: &Path,
    number: usize,
    here: mpsc::Sender<()>,
    mut leave: watch::Receiver<bool>,
) -> Result<()> {
    let mut events = Connection::open(socket).await?.ask("/v1/events").await?;
    let mut asks = Connection::open(socket).await?;
    asks.get(STATUS).await?;
    let _ = here.send(()).await;
    // Not all in the same instant.
    let first = tokio::time::Instant::now() + Duration::from_millis(number as u64 * 997 % 1000);
    let mut second = tokio::time::interval_at(first, Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = leave.changed() => return Ok(()),
            frame = events.body_mut().frame() => if frame.is_none() {
                return Err(Error::new(Code::DaemonUnavailable, "events", "ended"));
            },
            _ = second.tick() => {
                asks.get(STATUS).await?;
            }
        }
    }
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new(Code::Internal, "bench", e))
}

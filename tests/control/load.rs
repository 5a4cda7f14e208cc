//! Clients that are slow, and clients that are many.

use crate::common::daemon::Daemon;
use crate::common::{Fixture, until};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

fn full() -> bool {
    std::env::var_os("BACKPROPD_FULL").is_some()
}

/// Sends a byte now and then until it is cut off; how long that took.
fn drip(socket: &std::path::Path, begin: &str, then: &str) -> Duration {
    let mut stream = UnixStream::connect(socket).unwrap();
    let began = Instant::now();
    stream
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    stream.write_all(begin.as_bytes()).unwrap();
    let mut buffer = [0; 1024];
    for byte in then.bytes().cycle() {
        if stream.write_all(&[byte]).is_err() {
            break;
        }
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        assert!(began.elapsed().as_secs() < 30, "it was never cut off");
    }
    began.elapsed()
}

#[test]
fn slow_clients_are_cut_off_and_good_ones_served_meanwhile() {
    let fixture = Fixture::new(1);
    let daemon = Daemon::start(&fixture);
    let (slow, good) = if full() { (500, 500) } else { (24, 20) };
    let socket = daemon.socket();
    let dripping: Vec<_> = (0..slow)
        .map(|n| {
            let socket = socket.clone();
            std::thread::spawn(move || match n % 3 {
                0 => drip(&socket, "GET /v1/status HTTP/1.1\r\nx: ", "y"),
                1 => drip(
                    &socket,
                    "POST /v1/runs HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\n\r\n",
                    " ",
                ),
                // A first request in full, and half of another.
                _ => drip(&socket, "GET /v1/runs HTTP/1.1\r\nhost: x\r\n\r\nGET ", "y"),
            })
        })
        .collect();
    // As people and pages look, and not as many as the cores can answer: who asks then waits
    // for the others.
    let pause = Duration::from_millis(if full() { 1000 } else { 50 });
    let all = Arc::new(Barrier::new(good as usize));
    let asking: Vec<_> = (0..good)
        .map(|n| {
            let (socket, all) = (socket.clone(), all.clone());
            std::thread::spawn(move || {
                let mut took = Vec::new();
                // Not while the test makes threads.
                all.wait();
                std::thread::sleep(pause * n / good);
                for _ in 0..10 {
                    let began = Instant::now();
                    let mut stream = UnixStream::connect(&socket).unwrap();
                    stream
                        .write_all(b"GET /v1/status HTTP/1.0\r\n\r\n")
                        .unwrap();
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).unwrap();
                    assert!(answer.contains(" 200 "), "{answer}");
                    took.push(began.elapsed());
                    std::thread::sleep(pause);
                }
                took
            })
        })
        .collect();
    let mut took: Vec<Duration> = asking.into_iter().flat_map(|t| t.join().unwrap()).collect();
    took.sort();
    let p99 = took[took.len() * 99 / 100];
    if full() {
        assert!(p99 <= Duration::from_millis(20), "p99 {p99:?}");
    }
    for slow in dripping {
        let cut = slow.join().unwrap();
        assert!(cut <= Duration::from_secs(12), "cut off after {cut:?}");
    }
}

/// Clock ticks of work of a process.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn without_file_descriptors_it_neither_spins_nor_stops_working() {
    let fixture = Fixture::new(60);
    let mut command = Command::new("sh");
    let start = "ulimit -n 64 && exec \"$0\" daemon";
    command.args(["-c", start, env!("CARGO_BIN_EXE_backpropd")]);
    for (name, value) in Daemon::command(&fixture).get_envs() {
        command.env(name, value.unwrap());
    }
    let daemon = Daemon::start_of(&mut command, &fixture);
    daemon.submit("run", &[]);
    let clients = if full() { 1000 } else { 200 };
    let release = Arc::new(AtomicBool::new(false));
    let held: Vec<_> = (0..clients)
        .map(|_| {
            let (socket, release) = (daemon.socket(), release.clone());
            std::thread::spawn(move || {
                let stream = UnixStream::connect(socket);
                while !release.load(Relaxed) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                drop(stream);
            })
        })
        .collect();
    // The run trains and saves whatever clients do. The file is its own.
    let done = fixture.path("run/summary.json");
    until("the run ends", || done.exists().then_some(()));
    let before = ticks(daemon.child.id());
    std::thread::sleep(Duration::from_secs(1));
    let spent = ticks(daemon.child.id()) - before;
    assert!(spent <= 10, "{spent} of 100 ticks spent on nothing");
    release.store(true, Relaxed);
    held.into_iter().for_each(|client| client.join().unwrap());
    let began = Instant::now();
    assert!(daemon.ctl(&["status"]).status.success());
    assert!(
        began.elapsed() <= Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

/// Whether the other side has closed, without reading anything.
fn is_cut(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec::default())).unwrap();
    fds[0].revents().contains(PollFlags::HUP)
}

#[test]
fn a_client_that_reads_nothing_is_cut_and_one_that_reads_slowly_is_not() {
    let fixture = Fixture::new(1);
    let daemon = Daemon::start_with(&fixture, &[("BACKPROPD_CONTROL__UNREAD_SECONDS", "1")]);
    // More than any socket holds.
    let ask = b"GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(30);
    let client = || {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        stream.write_all(&ask).unwrap();
        stream
    };
    let (deaf, mut slow) = (client(), client());
    let began = Instant::now();
    let mut buffer = vec![0; 64 << 10];
    while !is_cut(&deaf) {
        assert!(began.elapsed().as_secs() < 30, "it was never cut");
        assert!(slow.read(&mut buffer).unwrap() > 0);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(
        began.elapsed() >= Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
    assert!(!is_cut(&slow));
    assert!(daemon.ctl(&["status"]).status.success());
}

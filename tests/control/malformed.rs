//! Requests that no client of ours would send.

use crate::common::Fixture;
use crate::common::daemon::Daemon;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

/// Random numbers that are the same in every run of the test.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

/// A request that is wrong in some way.
fn request(random: &mut Random) -> Vec<u8> {
    let methods = [
        "GET", "POST", "DELETE", "PUT", "BREW", "get", "", "G\u{0}T", "CONNECT",
    ];
    let paths = [
        "/v1/runs",
        "/v1/runs/1",
        "/v1/runs/-1/pause",
        "/v1/runs/99999999999999999999",
        "/v1/runs/%00/metrics",
        "/v1/runs/1/metrics?limit=-1&after=%ff",
        "/../../etc/passwd",
        "/v1//runs",
        "*",
        "http://x/v1/runs",
        "/v1/events?since=x",
        "/v1/sweeps/x/events",
        "/v1/models/%2e%2e%2f",
        "/v1/config?",
        "//",
        "/v1/runs?\u{7f}",
    ];
    let bodies = [
        "",
        "{}",
        "{",
        "null",
        "[]",
        "{\"run_toml\":1}",
        "{\"run_toml\":\"a\",\"base\":\"b\"}",
        "{\"run_toml\":\"[\",\"base\":\"/\"}",
        "\u{0}\u{1}",
        "{\"x\":1e999}",
        "{\"run_toml\":\"name=\\\"\\u0000\\\"\",\"base\":\"/\"}",
    ];
    let mut bytes = match random.below(8) {
        0 => {
            let n = random.below(600);
            return random.bytes(n);
        }
        _ => {
            let (method, path) = (random.one_of(&methods), random.one_of(&paths));
            let version = random.one_of(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/9", ""]);
            format!("{method} {path} {version}\r\n").into_bytes()
        }
    };
    for _ in 0..random.below(4) {
        let header = random.one_of(&[
            "host: x",
            "host:",
            "transfer-encoding: chunked",
            "transfer-encoding: x",
            "content-length: 5",
            "content-length: 5",
            "content-length: -1",
            "content-length: 99999999999999999999",
            "expect: 100-continue",
            "upgrade: websocket",
            "last-event-id: \u{1}",
            "authorization: Bearer",
            ": no name",
            "no colon",
            " folded",
            "connection: close",
        ]);
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    let body = match random.below(40) {
        // Deep enough to overflow a stack that follows it.
        0 => "[".repeat(50_000),
        1 => "x".repeat(1 << 17),
        _ => random.one_of(&bodies).to_owned(),
    };
    if random.below(3) > 0 {
        bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    if random.below(50) == 0 {
        bytes.extend_from_slice(format!("x: {}\r\n", "y".repeat(1 << 17)).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body.as_bytes());
    match random.below(3) {
        0 => {
            let cut = random.below(bytes.len() + 1);
            bytes.truncate(cut);
        }
        1 => {
            let at = random.below(bytes.len());
            bytes[at] = random.next() as u8;
        }
        _ => {}
    }
    bytes
}

/// Resident memory of a process in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

fn send(daemon: &Daemon<'_>, random: &mut Random, count: usize) {
    for n in 0..count {
        let bytes = request(random);
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        let _ = stream.write_all(&bytes);
        match n % 3 {
            // Gone without a look at the answer.
            0 => continue,
            // Nothing more to say, and ready to hear.
            _ => drop(stream.shutdown(Shutdown::Write)),
        }
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let mut answer = [0; 512];
        if let Ok(count) = stream.read(&mut answer)
            && count > 0
        {
            assert!(answer.starts_with(b"HTTP/1."), "{:?}", &answer[..count]);
        }
    }
}

#[test]
fn ten_thousand_malformed_requests_cost_nothing() {
    let fixture = Fixture::new(1);
    let log = std::fs::File::create(fixture.path("log")).unwrap();
    let mut daemon = Daemon::start_logging(&fixture, Stdio::from(log));
    let mut random = Random(7);
    // Warm: what a daemon that has served for a while holds.
    send(&daemon, &mut random, 2_000);
    let before = resident(daemon.child.id());
    send(&daemon, &mut random, 8_000);
    let after = resident(daemon.child.id());
    assert!(after <= before + 8 * 1024, "{before} to {after} KiB");
    assert!(daemon.child.try_wait().unwrap().is_none());
    assert_eq!(
        daemon.json(&["runs"]),
        serde_json::json!([]),
        "nothing was queued"
    );
    let log = std::fs::read_to_string(fixture.path("log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let fixture = Fixture::new(1);
    let daemon = Daemon::start(&fixture);
    let before = resident(daemon.child.id());
    let mut streams = Vec::new();
    for _ in 0..50 {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        let head = "POST /v1/runs HTTP/1.1\r\nhost: x\r\ncontent-length: 1099511627776\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = [0; 64];
        let count = stream.read(&mut answer).unwrap();
        assert!(answer[..count].starts_with(b"HTTP/1.1 413"), "{answer:?}");
        streams.push(stream);
    }
    assert!(resident(daemon.child.id()) <= before + 8 * 1024);
    // Without a length, the limit holds all the same.
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let head = "POST /v1/runs HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let _ = stream.write_all(head.as_bytes());
    let chunk = [
        format!("{:x}\r\n", 1 << 16).as_bytes(),
        &[b' '; 1 << 16],
        b"\r\n",
    ]
    .concat();
    for _ in 0..20 {
        if stream.write_all(&chunk).is_err() {
            break;
        }
    }
    let mut answer = [0; 64];
    let count = stream.read(&mut answer).unwrap();
    assert!(answer[..count].starts_with(b"HTTP/1.1 413"), "{answer:?}");
}

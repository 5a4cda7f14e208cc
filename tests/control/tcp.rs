//! The control surface over TCP: the token, and what browsers send.

use crate::common::daemon::{Answer, Daemon, exchange};
use crate::common::{Fixture, backpropd};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;

const TOKEN: &str = "a5b1c9d4e8f2a7b3c6d0e4f8a1b5c9d3";

/// A port that was free a moment ago.
fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn write_token(fixture: &Fixture) -> String {
    let path = fixture.path("token");
    std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path.display().to_string()
}

fn ask(port: u16, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += "content-length: 0\r\n\r\n";
    exchange(
        TcpStream::connect(("127.0.0.1", port)).unwrap(),
        request.as_bytes(),
    )
}

#[test]
fn only_the_token_opens_it_and_failures_are_slowed_down() {
    let fixture = Fixture::new(1);
    let token_file = write_token(&fixture);
    let port = port();
    let address = format!("127.0.0.1:{port}");
    let daemon = Daemon::start_with(
        &fixture,
        &[
            ("BACKPROPD_CONTROL__TCP", &address),
            ("BACKPROPD_CONTROL__TOKEN_FILE", &token_file),
        ],
    );
    let bearer = format!("Bearer {TOKEN}");
    let own = format!("http://{address}");
    let with = ("authorization", bearer.as_str());
    let host = ("host", address.as_str());
    for (headers, status) in [
        (&[host, with][..], 200),
        (&[host, with, ("origin", &own)], 200),
        (&[("host", "localhost:1234"), with], 200),
        (&[host, with, ("origin", "https://evil.example")], 403),
        (&[host, with, ("origin", "null")], 403),
        (&[("host", "evil.example"), with], 403),
        (&[with], 403),
        (&[host], 401),
        (&[host, ("authorization", "Bearer guess")], 401),
        // Nothing on the way to another protocol either.
        (
            &[host, ("upgrade", "websocket"), ("connection", "upgrade")],
            401,
        ),
    ] {
        let answer = ask(port, "GET", "/v1/status", headers);
        assert_eq!(answer.status, status, "{headers:?}: {answer:?}");
        let asks_for_one = answer.head.contains("www-authenticate: bearer");
        assert_eq!(asks_for_one, status == 401, "{answer:?}");
    }
    // `ctl` speaks it too.
    let url = format!("http://{address}");
    let ctl = |args: &[&str]| {
        backpropd()
            .args(["ctl", "--url", &url])
            .args(args)
            .output()
            .unwrap()
    };
    assert!(
        ctl(&["status", "--token-file", &token_file])
            .status
            .success()
    );
    let without = ctl(&["status"]);
    assert_eq!(without.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&without.stderr).contains("--token-file"));
    // Guessing ends soon, for that address and not at the socket.
    let guess = [host, ("authorization", "Bearer another guess")];
    let statuses: Vec<u16> = (0..12)
        .map(|_| ask(port, "GET", "/", &guess).status)
        .collect();
    assert_eq!(statuses[11], 429, "{statuses:?}");
    let answer = ask(port, "GET", "/v1/status", &[host, with]);
    assert_eq!(answer.json()["code"], "too-many-attempts");
    assert!(daemon.ctl(&["status"]).status.success());
    let refused = ctl(&["status", "--token-file", &token_file]);
    assert_eq!(refused.status.code(), Some(72));
}

#[test]
fn it_does_not_start_without_a_token_or_for_the_world_unasked() {
    let fixture = Fixture::new(1);
    let token_file = write_token(&fixture);
    let missing = fixture.path("missing").display().to_string();
    for (tcp, file, hosts, exit, said) in [
        (
            "127.0.0.1:1",
            "",
            "",
            10,
            "nobody is let in without a token",
        ),
        ("127.0.0.1:1", &missing, "", 11, "openssl rand"),
        ("0.0.0.0:1", &token_file, "", 10, "control.tcp_hosts"),
        ("here", &token_file, "", 10, "no address"),
    ] {
        let output = Daemon::command(&fixture)
            .env("BACKPROPD_CONTROL__TCP", tcp)
            .env("BACKPROPD_CONTROL__TOKEN_FILE", file)
            .envs((!hosts.is_empty()).then_some(("BACKPROPD_CONTROL__TCP_HOSTS", hosts)))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{tcp}: {error}");
        assert!(error.contains(said), "{tcp}: {error}");
    }
}

//! The rules against a second reading of them, over every combination.

use super::*;
use axum::http::Request;

const OWN: u32 = 900;
const GROUP: u32 = 901;
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn rules(readers: &[&str]) -> Rules {
    let names = |all: &[&str]| {
        all.iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    Rules {
        writers: resolve("w", &names(&["1001", "@2001"])).unwrap(),
        readers: resolve("r", &names(readers)).unwrap(),
        token: Some(blake3::hash(TOKEN.as_bytes())),
        hosts: vec![
            "localhost".into(),
            "127.0.0.1".into(),
            "[::1]".into(),
            "gpu1".into(),
        ],
    }
}

fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

#[test]
fn users_and_groups_look_or_change_as_the_rules_say() {
    let mut combinations = 0;
    for readers in [&[][..], &["1002", "@2002"]] {
        let access = Access::new(OWN, GROUP, rules(readers));
        for uid in [0, OWN, 1001, 1002, 1003, 65534] {
            for groups in [
                &[][..],
                &[GROUP],
                &[2001],
                &[2002],
                &[2003],
                &[2003, 2001],
                &[0],
            ] {
                let writes = [0, OWN, 1001].contains(&uid)
                    || groups.contains(&GROUP)
                    || groups.contains(&2001);
                let reads = writes || readers.is_empty() || uid == 1002 || groups.contains(&2002);
                for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "BREW"] {
                    let peer = Peer::Local {
                        uid,
                        groups: groups.into(),
                        pid: None,
                    };
                    // What a browser would send says nothing here.
                    let headers = [("host", "evil.example"), ("origin", "http://evil.example")];
                    let asked = request(method, "/v1/runs", &headers);
                    let may = if ["GET", "HEAD"].contains(&method) {
                        reads
                    } else {
                        writes
                    };
                    let answer = access.check(&peer, &asked);
                    assert_eq!(answer.is_ok(), may, "{uid} {groups:?} {method} {readers:?}");
                    if let Err(error) = answer {
                        assert_eq!(error.code, Code::Forbidden);
                    }
                    combinations += 1;
                }
            }
        }
    }
    assert!(combinations >= 500, "{combinations}");
}

#[test]
fn over_tcp_host_origin_and_token_must_all_be_right() {
    let access = Access::new(OWN, GROUP, rules(&[]));
    let hosts = [
        ("localhost:8970", true),
        ("LOCALHOST", true),
        ("127.0.0.1:1", true),
        ("[::1]:8970", true),
        ("gpu1:8970", true),
        ("", false),
        ("evil.example:8970", false),
        ("localhost.evil.example", false),
        ("gpu1.evil.example:8970", false),
        ("127.0.0.1.evil.example", false),
    ];
    let bearer = |token: &str| format!("Bearer {token}");
    let tokens = [
        (bearer(TOKEN), true),
        (format!("bEARER  {TOKEN} "), true),
        (String::new(), false),
        ("Bearer".to_owned(), false),
        (bearer(""), false),
        (bearer(&TOKEN[1..]), false),
        (bearer(&format!("{TOKEN}0")), false),
        (bearer(&TOKEN.to_uppercase()), false),
        (TOKEN.to_owned(), false),
        (format!("Basic {TOKEN}"), false),
    ];
    let mut combinations = 0;
    for (host, known) in &hosts {
        let own = format!("http://{host}");
        let origins = [
            (None, true),
            (Some(own.as_str()), !host.is_empty()),
            (Some("null"), false),
            (Some("http://evil.example"), false),
            (Some("http://localhost:3000"), *host == "localhost:3000"),
            (Some(""), false),
        ];
        for (origin, same) in origins {
            for (token, right) in &tokens {
                for method in ["GET", "POST", "DELETE", "OPTIONS"] {
                    let mut headers = vec![("host", *host), ("authorization", token.as_str())];
                    headers.retain(|(_, value)| !value.is_empty());
                    headers.extend(origin.map(|origin| ("origin", origin)));
                    let asked = request(method, "/v1/runs", &headers);
                    // Each from an address of its own, or their failures would add up.
                    combinations += 1;
                    let from = Peer::Remote(IpAddr::V4((0x0a00_0000 + combinations).into()));
                    let answer = access.check(&from, &asked).map_err(|e| e.code);
                    let expected = match (known & same, right) {
                        (true, true) => Ok(()),
                        (true, false) => Err(Code::Unauthorized),
                        (false, _) => Err(Code::Forbidden),
                    };
                    // Past the addresses that are remembered, failures of all add up.
                    let crowded = answer == Err(Code::TooManyAttempts) && combinations > 1000;
                    assert!(
                        answer == expected || crowded,
                        "{method} {headers:?}: {answer:?}"
                    );
                }
            }
        }
    }
    assert!(combinations >= 2000, "{combinations}");
}

#[test]
fn two_hosts_or_another_one_in_the_address_are_refused() {
    let access = Access::new(OWN, GROUP, rules(&[]));
    let peer = Peer::Remote("127.0.0.1".parse().unwrap());
    let token = format!("Bearer {TOKEN}");
    let with = |uri: &str, hosts: &[&str]| {
        let mut headers = vec![("authorization", token.as_str())];
        headers.extend(hosts.iter().map(|host| ("host", *host)));
        access.check(&peer, &request("GET", uri, &headers))
    };
    with("http://localhost/v1/status", &["localhost"]).unwrap();
    for (uri, hosts) in [
        ("/v1/status", &["localhost", "evil.example"][..]),
        ("/v1/status", &["localhost", "localhost"]),
        ("http://evil.example/v1/status", &["localhost"]),
        ("/v1/status", &[]),
    ] {
        let error = with(uri, hosts).unwrap_err();
        assert_eq!(error.code, Code::Forbidden, "{uri} {hosts:?}");
    }
}

#[test]
fn repeated_failures_close_the_door_for_a_while() {
    let access = Access::new(OWN, GROUP, rules(&[]));
    let peer = Peer::Remote("127.0.0.1".parse().unwrap());
    let asked = |token: &str| {
        let token = format!("Bearer {token}");
        request(
            "GET",
            "/",
            &[("host", "localhost"), ("authorization", &token)],
        )
    };
    access.check(&peer, &asked(TOKEN)).unwrap();
    let answers = (0..30).map(|_| access.check(&peer, &asked("guess")).unwrap_err().code);
    let answers: Vec<Code> = answers.collect();
    assert_eq!(answers[0], Code::Unauthorized);
    assert_eq!(answers[29], Code::TooManyAttempts);
    let error = access.check(&peer, &asked(TOKEN)).unwrap_err();
    assert_eq!(error.code, Code::TooManyAttempts);
    assert!(error.hint.starts_with("wait "), "{error}");
}

#[test]
fn unknown_names_and_bad_tokens_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let table = |writers: &[&str]| ControlTable {
        writers: writers.iter().map(|name| (*name).to_owned()).collect(),
        tcp: "127.0.0.1:1".into(),
        token_file: path.clone(),
        ..ControlTable::default()
    };
    let fails = |writers: &[&str]| Rules::new(&table(writers)).unwrap_err();
    assert!(
        fails(&["no such user"])
            .to_string()
            .contains("no user \"no such user\"")
    );
    assert!(
        fails(&["@no such"])
            .to_string()
            .contains("no group \"@no such\"")
    );
    let missing = fails(&[]);
    assert_eq!(missing.code, Code::ConfigMissing);
    assert!(missing.hint.contains("openssl rand"), "{missing}");
    for (token, mode, said) in [
        ("short", 0o600, "16 or more"),
        ("with a space in its middle", 0o600, "letters and digits"),
        (TOKEN, 0o604, "everybody"),
    ] {
        std::fs::write(&path, token).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let error = fails(&[]);
        assert!(error.message.contains(said), "{error}");
    }
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    Rules::new(&table(&[])).unwrap();
}

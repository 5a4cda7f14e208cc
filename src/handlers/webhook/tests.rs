use super::*;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// What a server was asked: the head in small letters, and the body.
type Asked = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A server that answers one request after the other with `answers`, the last of them for
/// ever.
fn server(answers: &'static [&'static str]) -> (SocketAddr, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Asked::default();
    let heard = asked.clone();
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            heard.lock().unwrap().push(read(&stream));
            let answer = answers[n.min(answers.len() - 1)];
            let text =
                format!("HTTP/1.1 {answer}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.write_all(text.as_bytes());
        }
    });
    (address, asked)
}

fn read(stream: &TcpStream) -> (String, Vec<u8>) {
    let (mut reader, mut head, mut length) = (BufReader::new(stream), String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        let small = line.to_lowercase();
        if let Some(text) = small.strip_prefix("content-length: ") {
            length = text.parse().unwrap();
        }
        // Values of headers keep their case.
        head += &line;
        head.push('\n');
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (head, body)
}

fn header(head: &str, name: &str) -> Option<String> {
    let line = |line: &str| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then(|| value.to_owned())
    };
    head.lines().find_map(line)
}

fn webhook(address: SocketAddr, deadline: Duration) -> Webhook {
    Webhook {
        agent: agent(true, None),
        url: format!("http://{address}/hook?a=b").parse().unwrap(),
        secret: Some(b"0123456789abcdef".to_vec()),
        deadline,
    }
}

fn event() -> Event {
    Event::new(
        7,
        None,
        None,
        0,
        "run_completed",
        json!({ "message": "a\nb" }),
    )
}

#[test]
fn an_event_is_posted_signed_and_fresh() {
    let (address, asked) = server(&["204 No Content"]);
    webhook(address, Duration::from_secs(5))
        .handle(&event())
        .unwrap();
    let asked = asked.lock().unwrap();
    let (head, body) = &asked[0];
    assert!(head.starts_with("POST /hook?a=b HTTP/1.1\n"), "{head}");
    assert_eq!(serde_json::from_slice::<Event>(body).unwrap(), event());
    assert_eq!(header(head, "content-type").unwrap(), "application/json");
    assert_eq!(header(head, "x-backpropd-event").unwrap(), "run_completed");
    assert_eq!(header(head, "x-backpropd-delivery").unwrap(), "7");
    let signature = header(head, "x-backpropd-signature").unwrap();
    let (seconds, _) = signature
        .strip_prefix("t=")
        .unwrap()
        .split_once(',')
        .unwrap();
    let seconds: u64 = seconds.parse().unwrap();
    assert!(now() - seconds < 10);
    assert_eq!(signature, sign(b"0123456789abcdef", seconds, body));
}

#[test]
fn the_signature_is_the_one_that_others_compute() {
    // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac 0123456789abcdef
    assert_eq!(
        sign(b"0123456789abcdef", 1_700_000_000, b"{\"a\":1}"),
        "t=1700000000,v1=9eb18f493f8ec135d9eb2dad817c369bb4e9cbfa818657897a7437c1cd8c3a23"
    );
}

#[test]
fn what_may_go_away_is_tried_again_and_what_will_not_is_not() {
    for (answers, attempts, part) in [
        (&["503 Busy", "500 Broken", "200 OK"][..], 3, None),
        (&["429 Slow Down", "200 OK"], 2, None),
        (&["404 Not Found"], 1, Some("answers 404")),
        (
            &["302 Found\r\nlocation: http://169.254.169.254/"],
            1,
            Some("redirects are not followed"),
        ),
        (
            &["307 Again\r\nlocation: /"],
            1,
            Some("redirects are not followed"),
        ),
        (&["503 Busy"], 2, Some("answers 503, after 2 attempts")),
    ] {
        let (address, asked) = server(answers);
        let deadline = if part.is_some() { 700 } else { 5000 };
        let result = webhook(address, Duration::from_millis(deadline)).handle(&event());
        match (result, part) {
            (Ok(()), None) => {}
            (Err(error), Some(part)) => {
                assert_eq!(error.code, Code::HandlerFailed);
                assert!(error.to_string().contains(part), "{error}");
            }
            (result, _) => panic!("{answers:?}: {result:?}"),
        }
        assert_eq!(asked.lock().unwrap().len(), attempts, "{answers:?}");
    }
}

#[test]
fn a_server_that_does_not_answer_costs_no_more_than_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let began = Instant::now();
    let error = webhook(address, Duration::from_millis(400))
        .handle(&event())
        .unwrap_err();
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(error.code, Code::HandlerFailed, "{error}");
    drop(listener);
    let error = webhook(address, Duration::from_millis(400))
        .handle(&event())
        .unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}

/// Gives each look-up the next of some addresses.
#[derive(Debug)]
struct Fickle {
    addresses: Vec<Vec<SocketAddr>>,
    asked: Arc<AtomicUsize>,
}

impl Resolver for Fickle {
    fn resolve(
        &self,
        _: &Uri,
        _: &Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let n = self.asked.fetch_add(1, Ordering::Relaxed);
        let mut found = self.empty();
        for address in &self.addresses[n.min(self.addresses.len() - 1)] {
            found.push(*address);
        }
        Ok(found)
    }
}

/// Row 20 of the faults: names that lead to another place when they are looked up again, and
/// those that lead to several.
#[test]
fn a_name_is_looked_up_once_and_none_of_its_addresses_may_be_forbidden() {
    let (good, asked) = server(&["204 No Content"]);
    let forbidden: SocketAddr = "169.254.169.254:80".parse().unwrap();
    let mapped: SocketAddr = "[::ffff:127.0.0.1]:80".parse().unwrap();
    for (addresses, delivered) in [
        // Rebinding: were it looked up again to connect, it would get there.
        (vec![vec![good], vec![forbidden]], true),
        (vec![vec![forbidden], vec![good]], false),
        (vec![vec![good, forbidden]], false),
        (vec![vec![mapped, good]], false),
    ] {
        let looked = Arc::new(AtomicUsize::new(0));
        let fickle = Fickle {
            addresses,
            asked: looked.clone(),
        };
        let config = agent(true, None).config().clone();
        let resolver = Checked::with(fickle, true);
        let mut webhook = webhook(good, Duration::from_secs(2));
        webhook.url = "http://hooks.example/".parse().unwrap();
        webhook.agent = Agent::with_parts(config, DefaultConnector::default(), resolver);
        let before = asked.lock().unwrap().len();
        let result = webhook.handle(&event());
        assert_eq!(looked.load(Ordering::Relaxed), 1);
        assert_eq!(asked.lock().unwrap().len() - before, usize::from(delivered));
        match result {
            Ok(()) => assert!(delivered),
            Err(error) => assert_eq!(error.code, Code::AddressRefused, "{error}"),
        }
    }
}

/// URLs that lead to an address which no webhook may reach, in many spellings.
fn forbidden_urls() -> Vec<String> {
    let mut hosts: Vec<String> = [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "0xa9.254.0xa9.254",
        "169.254.43518",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "192.0.0.192",
        "0.0.0.0",
        "0",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "224.0.0.1",
        "255.255.255.255",
        "[ff02::1]",
    ]
    .map(str::to_owned)
    .into();
    // As numbers of every kind: the whole of 169.254/16 in steps, and 0/8.
    for n in 0..80_u32 {
        let address = 0xa9fe_0000 + n * 811;
        hosts.extend([
            address.to_string(),
            format!("{address:#x}"),
            format!("{address:#o}").replace("0o", "0"),
        ]);
        hosts.push(std::net::Ipv4Addr::from(address).to_string());
        hosts.push(format!("[::ffff:{}]", std::net::Ipv4Addr::from(address)));
        hosts.push(std::net::Ipv4Addr::from(n * 200_003).to_string());
    }
    hosts.truncate(500);
    hosts
        .into_iter()
        .map(|host| format!("http://{host}:9/latest/meta-data/"))
        .collect()
}

/// Row 20 of the faults.
#[test]
fn no_spelling_of_a_forbidden_address_is_reached() {
    let urls = forbidden_urls();
    assert!(urls.len() >= 490, "{}", urls.len());
    for url in urls {
        // Even where private addresses are allowed; what is no URL is refused as such.
        let Ok(uri) = check(&url, true) else { continue };
        let mut webhook = webhook("127.0.0.1:9".parse().unwrap(), Duration::from_millis(500));
        webhook.url = uri;
        let error = webhook.handle(&event()).unwrap_err();
        assert_eq!(error.code, Code::AddressRefused, "{error}");
    }
    for url in [
        "http://127.0.0.1:9/",
        "http://localhost:9/",
        "http://[::1]:9/",
        "http://2130706433:9/",
    ] {
        let refused = match check(url, false) {
            Err(_) => true,
            Ok(uri) => {
                let mut webhook =
                    webhook("127.0.0.1:9".parse().unwrap(), Duration::from_millis(500));
                (webhook.url, webhook.agent) = (uri, agent(false, None));
                webhook.handle(&event()).unwrap_err().code == Code::AddressRefused
            }
        };
        assert!(refused, "{url}");
    }
}

#[test]
fn a_url_that_cannot_be_is_refused_before_anything_is_asked() {
    for (url, part) in [
        ("ftp://a/", "neither with https"),
        ("a/b", "no URL"),
        ("http://user:pass@host/", "secret_file"),
        ("http://169.254.169.254@host/", "secret_file"),
        ("http://", "no URL"),
        ("file:///etc/passwd", "no URL"),
    ] {
        match check(url, true) {
            Err(Bad::Url(message)) => assert!(message.contains(part), "{message}"),
            other => panic!("{url}: {other:?}"),
        }
    }
    assert!(matches!(
        check("https://169.254.169.254/", true),
        Err(Bad::Address(_))
    ));
    assert!(check("https://hooks.example:8443/a?b=c", false).is_ok());
}
